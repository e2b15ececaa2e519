"""``adcgan tables``: the rows of a benchmark as the paper's tables, beside the paper's figures."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adcgan.cli.inputs import check_output_file, make_folder
from adcgan.cli.terminal import print_table, say
from adcgan.errors import InputError
from adcgan.files import replacing, write_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

    from adcgan.benchmark.lines import Line, Table


def tables(
    results: Annotated[
        list[Path],
        typer.Argument(
            metavar="R...", help="Folders that 'adcgan benchmark' wrote, or .jsonl files of rows."
        ),
    ],
    format_: Annotated[
        str, typer.Option("--format", help="terminal, markdown, csv or latex.")
    ] = "terminal",
    out: Annotated[Path | None, typer.Option(help="Write the tables to this file.")] = None,
    plots: Annotated[
        Path | None,
        typer.Option(help="Write plots of these figures against the paper's to this folder."),
    ] = None,
    protocol: Annotated[
        str, typer.Option(help="paper; or released: leaks labels, for audit only.")
    ] = "paper",
    split: Annotated[str, typer.Option(help="test or development.")] = "test",
) -> None:
    """Show Tables 1, 3 and 4 as in the paper: means over seeds with spread, beside the paper's.

    Detectors pretrained on other images have tables of their own, a separate league. So have
    folders of photographs with defects: a row for each category, a column for each detector.

    Rows of the other protocol or split are left out, and counted. An average that lacks a class is
    not shown. What differs from the benchmark's own settings is in a column.
    """
    from adcgan.benchmark import formats
    from adcgan.benchmark.protocol import PROTOCOLS, SPLITS
    from adcgan.benchmark.tables import make_tables, select

    _check("--format", format_, formats.FORMATS)
    _check("--protocol", protocol, PROTOCOLS)
    _check("--split", split, SPLITS)
    if out is not None:
        check_output_file(out)
        if format_ == "terminal":
            raise InputError("--out needs --format markdown, csv or latex.")
    rows = _rows(results)
    chosen = select(rows, protocol, split)
    if not chosen:
        raise InputError(
            f"R must hold rows of protocol {protocol!r} and split {split!r}. "
            f"None of the {len(rows)} rows in {', '.join(map(str, results))} is one."
        )
    made = make_tables(chosen, protocol, split)
    if len(chosen) < len(rows):
        say(f"left out   {len(rows) - len(chosen):,} of another protocol or split")
    if format_ == "terminal":
        _show(made)
    else:
        writers = {
            "markdown": formats.markdown,
            "csv": formats.comma_separated,
            "latex": formats.latex,
        }
        text = writers[format_](made)
        if out is None:
            typer.echo(text, nl=False)
        else:
            make_folder(out.parent)
            write_text(out, text)
            say(f"tables     {out}")
    if plots is not None:
        _plot(made, plots)


def _check(option: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise InputError(f"{option} must be one of {', '.join(allowed)}. Got {value!r} instead.")


def _rows(sources: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the rows of all folders and files."""
    from adcgan.benchmark.rows import ROWS_FILE, read_rows

    rows = []
    for source in sources:
        if not (source.is_file() or (source / ROWS_FILE).is_file()):
            raise InputError(
                f"R must be a folder with {ROWS_FILE} in it, or a file of rows. "
                f"{str(source)!r} is neither."
            )
        rows += read_rows(source)
    return rows


def _show(made: Sequence[Table]) -> None:
    """Print the tables for people, with shared notes below them."""
    for _, league in groupby(made, key=lambda table: (table.league, table.notes)):
        _show_league(list(league))


def _show_league(made: Sequence[Table]) -> None:
    """Print tables that share their notes."""
    from adcgan.benchmark.formats import grid
    from adcgan.report.wording import printable

    for table in made:
        typer.echo(table.title)
        columns, rows = grid(table)
        # A table for each data set and scheme leaves the width of a terminal to the figures.
        for (dataset, scheme), block in groupby(rows, key=lambda row: (row[0], row[1])):
            typer.echo(f"\n{printable(dataset)}, {scheme}")
            print_table(columns[2:], [[printable(cell) for cell in row[2:]] for row in block])
    for note in made[0].notes:
        typer.echo(printable(note))


def _plot(made: Sequence[Table], folder: Path) -> None:
    """Write bars of the averages, and every class of ours over the paper's."""
    make_folder(folder)
    papers = {table.number: table for table in made if table.number and not table.league}
    averages, classes = (
        [line for line in papers[number].lines if line.ours is not None and line.paper is not None]
        if papers
        else []
        for number in (1, 3)
    )
    warning = papers[1].title.split("Table 1")[0] if papers else ""
    for name, lines, draw in (("averages", averages, _bars), ("classes", classes, _scatter)):
        if not lines:
            say(f"no plot of {name}: the paper has none of these figures")
            continue
        path = folder / f"{name}.png"
        figure = draw(lines)
        if warning:
            figure.suptitle(warning, fontsize=9)
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png", dpi=150)
        say(f"plot       {path}")


def _name(line: Line) -> str:
    """Return what a figure is of, without its class."""
    settings = f" ({line.settings})" if line.settings else ""
    return f"{line.dataset} {line.scheme} {line.detector}{settings}"


def _bars(lines: Sequence[Line]) -> Figure:
    """Draw the averages beside the paper's."""
    import numpy as np
    from matplotlib.figure import Figure

    from adcgan.report.comparison import bars_against_paper

    figure = Figure(figsize=(7, 1.4 + 0.45 * len(lines)), layout="constrained")
    ours, paper, spread = (
        np.array([getattr(line, name) for line in lines], dtype=np.float64)
        for name in ("ours", "paper", "spread")
    )
    bars_against_paper(figure.add_subplot(), [_name(x) for x in lines], ours, paper, spread)
    return figure


def _scatter(lines: Sequence[Line]) -> Figure:
    """Draw every class over the paper's figure."""
    from matplotlib.figure import Figure

    from adcgan.report.comparison import scatter_against_paper

    points: dict[str, tuple[list[float], list[float]]] = {}
    for line in lines:
        ours, paper = points.setdefault(_name(line), ([], []))
        assert line.ours is not None
        assert line.paper is not None
        ours.append(line.ours)
        paper.append(line.paper)
    figure = Figure(figsize=(6.5, 6.5 + 0.2 * len(points)), layout="constrained")
    scatter_against_paper(figure.add_subplot(), points)
    return figure
