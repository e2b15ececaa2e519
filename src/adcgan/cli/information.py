"""``adcgan report`` and ``adcgan detectors``: what there is to know without new images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adcgan.cli import options
from adcgan.cli.evaluate import read_run
from adcgan.cli.inputs import check_output_file, make_folder
from adcgan.cli.terminal import print_json, print_table, say
from adcgan.files import write_text


def report(
    model: options.Model,
    out: Annotated[
        Path | None, typer.Option(help="The HTML file to write; report.html in MODEL if not given.")
    ] = None,
) -> None:
    """Write a page on a model: what it was trained on, how training went, what it can promise."""
    from adcgan.detectors import DETECTORS, load
    from adcgan.report import model_page, render

    path = model / "report.html" if out is None else out
    check_output_file(path)
    detector = load(model, device="cpu")
    names = {kind: name for name, kind in DETECTORS.items()}
    page = model_page(detector, names[type(detector)], model.resolve().name, read_run(model))
    make_folder(path.parent)
    write_text(path, render(page))
    say(f"report     {path}")


def detectors(json: options.Json = False) -> None:
    """List the detectors."""
    from adcgan.detectors import DETECTORS

    rows = [
        {"name": name, "description": (kind.__doc__ or "").strip().split("\n")[0]}
        for name, kind in DETECTORS.items()
    ]
    if json:
        print_json(rows)
    else:
        print_table(["name", "what it is"], [[row["name"], row["description"]] for row in rows])
