"""The page of a benchmark's sweep: what was run, and our figures beside the paper's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any
from urllib.parse import quote

import numpy as np
from markupsafe import Markup

from adcgan.benchmark.audit import WARNING
from adcgan.benchmark.formats import grid
from adcgan.benchmark.lines import MISSING, Line, Table
from adcgan.benchmark.protocol import PROTOCOLS, SPLITS
from adcgan.benchmark.published import AVERAGE
from adcgan.benchmark.rows import Row, latest
from adcgan.benchmark.tables import make_tables, select
from adcgan.data import DATASETS
from adcgan.errors import InputError
from adcgan.report.comparison import aurocs_by_class, bars_against_paper
from adcgan.report.page import Page, Section, Tile
from adcgan.report.pictures import svg
from adcgan.report.wording import counted, duration, printable


def sweep_page(rows: Iterable[Row], name: str) -> Page:
    """Return the page of a sweep.

    Parameters
    ----------
    rows : iterable of dict
        Rows of results, as `adcgan.benchmark.rows.read_rows` returns them; of several rows of one
        cell the last success counts.
    name : str
        What the page calls the sweep, such as its folder's name.

    Returns
    -------
    Page
        To be given to `adcgan.report.render`. Rows of different protocols or splits are on
        sections of their own, and so are those of detectors pretrained on other images and those
        of each set of photographs with defects.

    Raises
    ------
    InputError
        If there are no rows.
    """
    found = latest(rows)
    if not found:
        raise InputError("The 'rows' parameter must hold rows of results. Got none.")
    done = [row for row in found if row["error"] is None]
    failed = [row for row in found if row["error"] is not None]
    # The honest protocol on the test split comes first.
    groups = sorted(
        {(row["protocol"], row["split"]) for row in found},
        key=lambda group: (PROTOCOLS.index(group[0]), SPLITS.index(group[1])),
    )
    tables = {group: make_tables(select(found, *group), *group) for group in groups}
    sections = [Section("facts", "What was run", {"rows": _facts(found)})]
    sections += [
        _comparison(league, *group) for group, made in tables.items() for league in _leagues(made)
    ]
    if failed:
        sections.append(Section("failures", "Failures", {"rows": failed}))
    if done:
        configuration = {"Versions": _versions(done)}
        sections.append(Section("configuration", "Configuration", {"tables": configuration}))
    return Page(
        title=f"Benchmark {printable(name)}",
        verdict=_verdict(done, failed, tables),
        tiles=_tiles(done, failed),
        sections=sections,
        footer="Made from the rows of the benchmark; the same figures as 'adcgan tables'.",
    )


def _verdict(
    done: Sequence[Row], failed: Sequence[Row], tables: dict[tuple[str, str], list[Table]]
) -> str:
    """Return the sweep in a sentence or two: what was run, and the averages that are whole."""
    text = f"{counted(len(done), 'cell')} of {_listed([*done, *failed], 'detector')} on "
    text += f"{_listed([*done, *failed], 'dataset')}"
    text += f", and {counted(len(failed), 'cell')} that failed." if failed else "."
    for group, made in tables.items():
        for league in _leagues(made):
            what, whole = _told(league[0])
            if whole:
                told = "; ".join(f"{_what(line)} {line.ours:.1f}" for line in whole)
                named = _named(*group) + (f", {league[0].league}" if league[0].league else "")
                return f"{text} {what}, in percent{named}: {told}."
    return f"{text} No average is complete: it needs every class."


def _told(table: Table) -> tuple[str, list[Line]]:
    """Return what the verdict says of a league's first table, and its figures."""
    found = [line for line in table.lines if line.ours is not None]
    if not table.figure:
        return "Mean AUROC over classes", found
    if len({line.subject for line in table.lines}) == 1:
        return "AUROC of images", found
    return "Mean AUROC over categories", [line for line in found if line.subject == AVERAGE]


def _named(protocol: str, split: str) -> str:
    """Return the label for figures of another protocol or split than the paper's."""
    told = "" if protocol == "paper" else f", {protocol} protocol ({WARNING})"
    return told + ("" if split == "test" else f", {split} split")


def _tiles(done: Sequence[Row], failed: Sequence[Row]) -> list[Tile]:
    seeds = {row["seed"] for row in [*done, *failed]}
    return [
        Tile("Cells done", f"{len(done):,}", f"{len(failed):,} failed"),
        Tile("Detectors", f"{len({row['detector'] for row in [*done, *failed]}):,}"),
        Tile("Seeds", f"{len(seeds):,}", "" if len(seeds) > 2 else "use 3 for reported results"),
        Tile("Computed for", duration(sum(row["seconds"] for row in done)), "all cells together"),
    ]


def _facts(rows: Sequence[Row]) -> dict[str, str]:
    """Return what was run, by the name of the fact."""
    dates = sorted(row["date"][:10] for row in rows)
    return {
        "Data": _listed(rows, "dataset"),
        "Scheme": _listed(rows, "scheme"),
        "Classes": _listed(rows, "class"),
        "Detectors": _listed(rows, "detector"),
        "Seeds": _listed(rows, "seed"),
        "Protocol": _listed(rows, "protocol"),
        "Judged on": _listed(rows, "split") + " split",
        "Dates": " to ".join(dict.fromkeys((dates[0], dates[-1]))),
    }


def _listed(rows: Iterable[Row], field: str) -> str:
    """Return the values that occur, numbers in their order, as text."""
    found = sorted({row[field] for row in rows}, key=lambda x: (isinstance(x, str), x))
    return ", ".join(printable(str(value)) for value in found)


def _versions(rows: Sequence[Row]) -> dict[str, str]:
    """Return every version, device and commit that occurs in the rows."""
    names = dict.fromkeys(name for row in rows for name in row["versions"])
    versions = {
        name: ", ".join(sorted({row["versions"].get(name, "none") for row in rows}))
        for name in names
    }
    return versions | {"device": _listed(rows, "device"), "commit": _listed(rows, "commit")}


def _leagues(made: Sequence[Table]) -> list[list[Table]]:
    """Return the tables by league, the paper's first, without empty ones.

    Each set of photographs with defects is a league of its own.
    """

    def league_of(table: Table) -> tuple[str, str]:
        return table.league, table.lines[0].dataset if table.figure else ""

    leagues = [list(league) for _, league in groupby(made, key=league_of)]
    ran = [
        league
        for league in leagues
        if any(line.state != MISSING for table in league for line in table.lines)
    ]
    return ran or leagues[:1]


def _comparison(made: Sequence[Table], protocol: str, split: str) -> Section:
    """Return the tables and plots of one protocol, split and league."""
    anchor = f"results-{protocol}-{split}"
    title = "Results" if (protocol, split) == ("paper", "test") else f"Results: {protocol}, {split}"
    if made[0].league:
        anchor, title = f"{anchor}-pretrained", f"{title}, {made[0].league}"
    if made[0].figure:
        dataset = made[0].lines[0].dataset
        anchor, title = f"{anchor}-{_in_anchor(dataset)}", f"{title}: {printable(dataset)}"
    tables = [part for table in made for part in _parts(table, anchor)]
    data = {
        "warning": f"This protocol {WARNING}." if protocol == "released" else "",
        "plots": [] if made[0].figure else _plots(made),
        "tables": tables,
        "notes": made[0].notes,
    }
    return Section("comparison", title, data, anchor)


def _parts(table: Table, anchor: str) -> list[dict[str, Any]]:
    """Return a table for each data set and scheme that was run, without empty lines."""
    columns, rows = grid(table)
    if table.figure:
        ran = rows
    else:
        ran = [row for row, line in zip(rows, table.lines, strict=True) if line.state != MISSING]
    return [
        {
            "anchor": f"{anchor}-{table.figure or table.number}-{_in_anchor(dataset)}-{scheme}",
            "title": f"{table.title.removesuffix(':')}; {printable(dataset)}, {scheme}",
            "columns": columns[2:],
            "rows": [row[2:] for row in block],
        }
        for (dataset, scheme), block in groupby(ran, key=lambda row: (row[0], row[1]))
    ]


def _in_anchor(dataset: str) -> str:
    """Return the name of a set as a part of an anchor, without spaces."""
    return quote(dataset.replace(" ", "_"))


def _plots(made: Sequence[Table]) -> list[dict[str, Any]]:
    averages, classes = made[:2]
    kind = f"{averages.protocol} protocol, {averages.split} split"
    return [
        _averages(f"{dataset}, {scheme}", kind, x) for (dataset, scheme), x in _blocks(averages)
    ] + [_classes(f"{dataset}, {scheme}", kind, x) for (dataset, scheme), x in _blocks(classes)]


def _averages(subject: str, kind: str, lines: Sequence[Line]) -> dict[str, Any]:
    """Return the plot of the means over classes."""
    ours, paper, spread = (
        np.array([getattr(line, field) for line in lines], dtype=np.float64)
        for field in ("ours", "paper", "spread")
    )
    names = _methods(lines)
    picture = svg(
        lambda axes: bars_against_paper(axes, names, ours, paper, spread),
        f"Bars of the mean AUROC over classes, {subject}, {kind}. The figures are in the tables.",
        size=(4.1, 1.3 + 0.4 * len(lines)),
    )
    return {
        "title": f"Mean over classes: {subject}",
        "note": "Whiskers are the standard deviation over seeds.",
        "svg": Markup(picture),
    }


def _classes(subject: str, kind: str, lines: Sequence[Line]) -> dict[str, Any]:
    """Return the plot of every class that was run."""
    run = sorted({int(line.subject) for line in lines})
    names = [DATASETS[lines[0].dataset].class_names[class_] for class_ in run]
    points = {name: [float("nan")] * len(run) for name in _methods(lines)}
    for name, line in zip(_methods(lines), lines, strict=True):
        assert line.ours is not None
        points[name][run.index(int(line.subject))] = line.ours
    picture = svg(
        lambda axes: aurocs_by_class(axes, names, points),
        f"AUROC of each class by detector, {subject}, {kind}. The figures are in the tables.",
    )
    return {
        "title": f"Every class: {subject}",
        "note": "AUROC, mean over seeds.",
        "svg": Markup(picture),
    }


def _blocks(table: Table) -> list[tuple[tuple[str, str], list[Line]]]:
    """Return the lines with a figure of ours, by data set and scheme."""
    ours = [line for line in table.lines if line.ours is not None]
    return [(key, list(block)) for key, block in groupby(ours, key=lambda x: (x.dataset, x.scheme))]


def _methods(lines: Sequence[Line]) -> list[str]:
    """Return the detector of each line, with its settings where it comes with several."""
    settings: dict[str, set[str]] = {}
    for line in lines:
        settings.setdefault(line.detector, set()).add(line.settings)
    return [
        f"{line.detector} ({line.settings or 'default'})"
        if len(settings[line.detector]) > 1
        else line.detector
        for line in lines
    ]


def _what(line: Line) -> str:
    """Return what an average is of."""
    settings = f" ({line.settings})" if line.settings else ""
    return f"{line.detector}{settings} on {line.dataset} {line.scheme}"
