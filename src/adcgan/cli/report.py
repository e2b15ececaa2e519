"""``adcgan report``: a page on a model or a benchmark, without new images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adcgan.cli.evaluate import read_run
from adcgan.cli.inputs import check_output_file, make_folder
from adcgan.cli.terminal import say
from adcgan.errors import InputError
from adcgan.files import write_text

if TYPE_CHECKING:
    from adcgan.report import Page


def report(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL|R", help="A model folder, or the folder of an 'adcgan benchmark'."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="The HTML file to write. Default: report.html in the folder."),
    ] = None,
) -> None:
    """Write a page on a model or on a benchmark.

    On a model: what it was trained on, how training went, what it can promise. On a benchmark: our
    figures beside the paper's.
    """
    from adcgan.benchmark.rows import ROWS_FILE
    from adcgan.report import render

    path = folder / "report.html" if out is None else out
    check_output_file(path)
    page = _sweep_page(folder) if (folder / ROWS_FILE).exists() else _model_page(folder)
    make_folder(path.parent)
    write_text(path, render(page))
    say(f"report     {path}")


def _model_page(folder: Path) -> Page:
    from adcgan.detectors import load
    from adcgan.report import model_page

    detector = load(folder, device="cpu")
    return model_page(detector, detector.name, folder.resolve().name, read_run(folder))


def _sweep_page(folder: Path) -> Page:
    from adcgan.benchmark.rows import ROWS_FILE, read_rows
    from adcgan.report import sweep_page

    rows = read_rows(folder)
    if not rows:
        raise InputError(f"{str(folder / ROWS_FILE)!r} holds no rows yet.")
    return sweep_page(rows, folder.resolve().name)
