"""``adcgan compare``: which detector for these images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adcgan.cli import options
from adcgan.cli.inputs import check_output_folder, images_to_compare, make_folder
from adcgan.cli.terminal import print_json, print_table, say
from adcgan.files import write_text

if TYPE_CHECKING:
    from adcgan.selection import Comparison


def compare(
    data: Annotated[
        str,
        typer.Argument(
            help="Normal images, as for 'adcgan fit'. Anomalous ones that DATA says it has "
            "(anomalous/ beside normal/, test/DEFECT/, labels of a manifest or a named set) are "
            "judged too, and never learned from."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The folder for the models and the report.")],
    minutes: Annotated[float, typer.Option(help="Total time for all candidates.", min=0)] = 10.0,
    detectors: Annotated[
        str | None,
        typer.Option(help="Candidates, separated by commas. See 'adcgan detectors'."),
    ] = None,
    anomalies: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Your own anomalous images, if DATA has none."),
    ] = None,
    normal: options.Normal = None,
    anomalous: options.Anomalous = None,
    fpr: Annotated[
        float, typer.Option(help="False-positive budget of the thresholds, above 0 and below 1.")
    ] = 0.01,
    look_for: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help="defects or contents: what candidates are ranked by. By default your own "
            "anomalies, if there are 10; else defects for photographs, contents for images of less "
            "than 128 pixels.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.", min=0)] = 0,
    device: options.Device = "auto",
    resume: options.Resume = False,
    strict: options.Strict = False,
    json: options.Json = False,
) -> None:
    """Compare detectors on your images, and keep the best.

    A fifth of the normal images is held out. Each candidate learns from the others and is judged by
    how well it tells the held-out images from copies with a defect drawn in, from copies that show
    something else, and from your own anomalies if you have any.
    """
    from adcgan.report import comparison_page, render
    from adcgan.selection.comparing import BEST, run
    from adcgan.selection.judging import LONGEST_SIDE

    check_output_folder(out, resume=resume)
    load, own = images_to_compare(
        data, anomalies, normal=normal, anomalous=anomalous, longest=LONGEST_SIDE, strict=strict
    )
    make_folder(out)
    found = run(
        load,
        own,
        minutes=minutes,
        detectors=None if detectors is None else detectors.split(","),
        folder=out,
        resume=resume,
        settings={"fpr": fpr, "random_state": seed, "device": device},
        look_for=look_for,
        say=say,
    )
    write_text(out / "report.html", render(comparison_page(found)))
    if json:
        print_json(found.to_json())
    else:
        show(found)
    say(f"advice     {found.advice}")
    say(f"report     {out / 'report.html'}")
    say(f"next       adcgan score {out / BEST} FOLDER --out scores.csv")


def show(found: Comparison) -> None:
    """Print the figures for people."""
    from adcgan.report.selection import overview

    print_table(*overview(found))
    for row in found.rows:
        if row["error"] is not None:
            say(f"{row['detector']:<10} {row['error']}")
