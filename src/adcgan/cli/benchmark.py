"""``adcgan benchmark``: train and judge detectors on the classes of a set, or on folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adcgan.cli import options
from adcgan.cli.settings import settings
from adcgan.cli.terminal import print_json, print_table, say
from adcgan.errors import InputError

if TYPE_CHECKING:
    from adcgan.benchmark.cells import Cell
    from adcgan.benchmark.sweep import Outcome


def benchmark(
    dataset: Annotated[
        str,
        typer.Option(
            help="A named set (see 'adcgan data list'), or a folder with train/good/, test/good/ "
            "and test/DEFECT/ in it, or one of several such folders (categories)."
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="The folder for result rows. An interrupted sweep resumes from it.")
    ],
    scheme: Annotated[
        str | None,
        typer.Option(
            help="Of a set with classes. one-vs-all, the default: the class is normal, the others "
            "anomalous. all-vs-one: the reverse."
        ),
    ] = None,
    detectors: Annotated[
        str, typer.Option(metavar="A,B", help="Names from 'adcgan detectors', separated by commas.")
    ] = "adcgan",
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="0-9",
            help="Class numbers, or A,B: categories of a folder. All by default.",
        ),
    ] = None,
    seeds: Annotated[
        str, typer.Option(metavar="0-2", help="Use at least three seeds for reported results.")
    ] = "0-2",
    epochs: Annotated[
        int | None,
        typer.Option(help="Overrides the detector's epochs; the warm-up is set separately."),
    ] = None,
    max_train: Annotated[
        int | None, typer.Option(help="Maximum number of training images.", min=1)
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="[DETECTOR.]KEY=VALUE",
            help="Set a parameter of one detector, or of all that have it. Repeatable.",
        ),
    ] = None,
    split: Annotated[
        str,
        typer.Option(help="test; or development: judge on held-out training images alone."),
    ] = "test",
    protocol: Annotated[
        str, typer.Option(help="paper; or released: leaks labels, for audit only.")
    ] = "paper",
    workers: Annotated[
        int | None, typer.Option(help="Processes that compute cells in parallel.", min=1)
    ] = None,
    cells_at_once: Annotated[
        int | None,
        typer.Option(
            help="Cells that each process trains in turn, a step of each at a time. By default 1; "
            "on CUDA devices as many as fit, at most 8.",
            min=1,
        ),
    ] = None,
    device: options.Device = "auto",
    cuda_graphs: options.CudaGraphs = None,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Run on a Ray cluster: HOST:PORT, auto or local."),
    ] = None,
    keep_models: Annotated[
        bool, typer.Option("--keep-models", help="Keep the models, in OUT/cells.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Train and judge detectors, one cell for each class or category, detector and seed.

    The same command resumes a sweep that was stopped and skips finished cells. A cell that fails
    is a row with its error and does not stop the others; the exit code is then 1, or 3 if all
    that failed diverged. OUT/report.html and 'adcgan tables OUT' show the
    figures.
    """
    from adcgan.benchmark.categories import is_folder_set
    from adcgan.benchmark.cells import plan
    from adcgan.benchmark.notes import left_out_lines
    from adcgan.benchmark.sweep import sweep
    from adcgan.report.wording import printable

    chosen: dict[str, Any] = {
        "detectors": _settings_by_detector(_names(detectors), assignments or []),
        "seeds": numbers("--seeds", seeds),
        "max_train": max_train,
        "epochs": epochs,
    }
    if is_folder_set(dataset):
        cells = _folder_cells(dataset, classes, scheme, protocol, split, chosen)
    else:
        cells = plan(
            dataset=dataset,
            scheme=scheme or "one-vs-all",
            classes=None if classes is None else numbers("--classes", classes),
            protocol=protocol,
            split=split,
            **chosen,
        )
    outcome = sweep(
        cells,
        out,
        workers=workers,
        device=device,
        cuda_graphs=cuda_graphs,
        cells_at_once=cells_at_once,
        ray=ray,
        keep_models=keep_models,
    )
    if json:
        print_json(outcome.rows)
    else:
        _show(outcome)
    for line in left_out_lines(outcome.rows):
        say(f"left out   {printable(line)}")
    _write_report(out)
    _account_for(outcome, out)


def _folder_cells(
    dataset: str,
    classes: str | None,
    scheme: str | None,
    protocol: str,
    split: str,
    chosen: dict[str, Any],
) -> list[Cell]:
    """Return the cells of a folder's categories; print what they are."""
    from adcgan.benchmark.categories import find_categories
    from adcgan.benchmark.cells import plan_categories
    from adcgan.data.layouts import beside_categories
    from adcgan.report.wording import printable

    names = None if classes is None else [name.strip() for name in classes.split(",")]
    categories = find_categories(dataset, names)
    _refuse_for_folders("--scheme", scheme, None)
    _refuse_for_folders("--protocol", protocol, "paper")
    _refuse_for_folders("--split", split, "test")
    listed = ", ".join(printable(category.name) for category in categories)
    what = "1 category" if len(categories) == 1 else f"{len(categories):,} categories"
    others = ", ".join(printable(name) for name in beside_categories(dataset))
    left_out = f"; left out, without train/ and test/: {others}" if others else ""
    say(f"layout     of {printable(dataset)}, {what}: {listed}{left_out}")
    return plan_categories(categories, **chosen)


def _refuse_for_folders(option: str, given: str | None, usual: str | None) -> None:
    """Refuse an option that applies only to sets with classes."""
    if given != usual:
        raise InputError(
            f"{option} must be left out if --dataset is a folder, whose layout says what is normal "
            f"and what is for testing. Got {given!r} instead."
        )


def numbers(option: str, text: str) -> list[int]:
    """Read numbers and ranges: ``0-2,5`` is 0, 1, 2, 5."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise InputError(
                f"{option} must be numbers and ranges such as 0-2,5. Got {text!r} instead."
            )
        stop = int(last) if dash else int(first)
        if stop < int(first):
            raise InputError(f"{option}: the range {part.strip()!r} runs backwards.")
        found += range(int(first), stop + 1)
    return list(dict.fromkeys(found))


def _names(detectors: str) -> list[str]:
    """Return the detectors' names, each known and once."""
    from adcgan.detectors import DETECTORS

    names = [name.strip() for name in detectors.split(",")]
    for name in names:
        if name not in DETECTORS:
            raise InputError(
                f"--detectors must be among {', '.join(DETECTORS)}. Got {name!r} instead."
            )
    return list(dict.fromkeys(names))


def _settings_by_detector(
    names: Sequence[str], assignments: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Return the parameters that ``--set`` gives each detector."""
    from adcgan.detectors import DETECTORS

    parameters = {name: DETECTORS[name]().get_params() for name in names}
    given: dict[str, list[str]] = {name: [] for name in names}
    for assignment in assignments:
        path, equals, value = assignment.partition("=")
        prefix, dot, key = path.rpartition(".")
        if dot and prefix not in names:
            raise InputError(
                f"--set {path}: {prefix!r} must be one of --detectors ({', '.join(names)})."
            )
        having = [prefix] if dot else [name for name in names if key in parameters[name]]
        # Where none has it, the first one says what it has instead.
        for name in having or names[:1]:
            given[name].append(f"{key}{equals}{value}")
    return {name: settings(DETECTORS[name], given[name], {}) for name in names}


def _show(outcome: Outcome) -> None:
    from adcgan.report.wording import printable

    of_defects = any("pixels" in row for row in outcome.rows)
    print_table(
        ["class", "detector", "settings", "seed", "AUROC", *(["pixel AUROC"] * of_defects)],
        [
            [
                printable(f"{row['class']}"),
                row["detector"],
                ", ".join(f"{key}={value}" for key, value in row["settings"].items()),
                f"{row['seed']}",
                "failed" if row["auroc"] is None else f"{row['auroc']:.4f}",
                *([_pixel_auroc(row)] * of_defects),
            ]
            for row in outcome.rows
        ],
    )


def _pixel_auroc(row: dict[str, Any]) -> str:
    """Return the figure over pixels, or "-" where there is none."""
    pixels = row.get("pixels")
    return f"{pixels['pixel_auroc']:.4f}" if pixels else "-"


def _write_report(out: Path) -> None:
    """Write the page of everything in the folder `out`, of this run and of earlier ones."""
    from adcgan.benchmark.rows import read_rows
    from adcgan.files import write_text
    from adcgan.report import render, sweep_page

    write_text(out / "report.html", render(sweep_page(read_rows(out), out.resolve().name)))
    say(f"report     {out / 'report.html'}")


def _account_for(outcome: Outcome, out: Path) -> None:
    """Print what was done and what failed, and exit with a code that tells them apart."""
    from adcgan.report.wording import counted

    if any(row["protocol"] == "released" for row in outcome.rows):
        say("warning: the released protocol leaks labels; its figures are for audit only")
    for row in outcome.failed:
        say(f"failed     {row['key']}: {row['error']}")
    done = f"{counted(len(outcome.rows), 'cell')}, {outcome.n_skipped:,} of them already done"
    say(f"rows       {out} ({done}, {len(outcome.failed):,} failed)")
    if outcome.failed:
        diverged = all(row["error"].startswith("DivergedError") for row in outcome.failed)
        raise typer.Exit(3 if diverged else 1)
    say(f"next       adcgan tables {out}")
