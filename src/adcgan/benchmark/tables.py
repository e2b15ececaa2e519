"""Results as the paper's Tables 1, 3 and 4, next to its figures, and as further tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from adcgan.benchmark.audit import WARNING
from adcgan.benchmark.category_tables import category_tables
from adcgan.benchmark.lines import MISSING, Line, Table, line_of
from adcgan.benchmark.notes import paper_notes, pretrained_notes
from adcgan.benchmark.protocol import DEFECTS, SCHEMES
from adcgan.benchmark.published import AVERAGE, Subject, published
from adcgan.benchmark.rows import Row, latest
from adcgan.data import DATASETS
from adcgan.detectors import DETECTORS
from adcgan.errors import InputError

_TITLES = {
    1: "Table 1: AUROC (%), mean over classes",
    3: "Table 3: AUROC (%) of every class",
    4: "Table 4: AUROC (%) by variant of AD-CGAN's score, mean over classes",
}
# Detectors that know more than the normal images are reported separately.
_PRETRAINED_TITLES = {
    1: "Pretrained on ImageNet: a separate league. AUROC (%), mean over classes",
    3: "Pretrained on ImageNet: a separate league. AUROC (%) of every class",
}
_VARIANTS = ("LG", "LFE", "LFL", "GF")

# Data set, scheme, detector, settings as text.
_Group = tuple[str, str, str, str]
# Percentages by class and seed.
_Values = dict[tuple[int, int], float]


def make_tables(rows: Iterable[Row], protocol: str = "paper", split: str = "test") -> list[Table]:
    """Build Tables 1, 3 and 4, followed by tables of pretrained detectors, if there are any.

    Rows of images with defects have separate tables, by category, which come last. If there are no
    other rows, only these tables are returned.

    Figures of different protocols or splits are never mixed. Averages over only some of the classes
    are never shown; the line gives the number of classes instead. Rows with different settings are
    on separate lines. Tables 1 and 4 list everything in the paper, Table 3 what was run. Detectors
    of another league are in none of the three.

    Parameters
    ----------
    rows : iterable of dict
        Rows of results, only of `protocol` and `split` (see `adcgan.benchmark.tables.select`).
    protocol : {"paper", "released"}
        Tables of "released" state that they leak labels.
    split : {"test", "development"}
        Images on which the detectors were evaluated.

    Raises
    ------
    InputError
        If a row has another protocol or split.
    """
    rows = latest(rows)
    _refuse_mixture(rows, protocol, split)
    photographs = [row for row in rows if row["scheme"] == DEFECTS]
    of_categories = category_tables(photographs, _settings)
    if photographs and len(photographs) == len(rows):
        return of_categories
    rows = [row for row in rows if row["scheme"] != DEFECTS]
    return _tables_of_classes(rows, protocol, split) + of_categories


def _tables_of_classes(rows: Sequence[Row], protocol: str, split: str) -> list[Table]:
    """Build the paper's tables and those of pretrained detectors."""
    pretrained = [row for row in rows if _league(row)]
    own = [row for row in rows if not _league(row)]
    groups, notes = _grouped(own), paper_notes(own, split)
    paper = sorted(_averages(groups) + _absent(published(1), groups), key=_order)
    lines = {1: paper, 3: _classes(groups), 4: _variants(groups)}
    tables = [
        Table(number, _title(_TITLES[number], protocol, split), found, notes, protocol, split)
        for number, found in lines.items()
    ]
    return tables + (_pretrained_tables(pretrained, protocol, split) if pretrained else [])


def _pretrained_tables(rows: Sequence[Row], protocol: str, split: str) -> list[Table]:
    """Build the tables of averages and of classes for pretrained detectors."""
    groups = _grouped(rows)
    notes = pretrained_notes(rows)
    lines = {1: sorted(_averages(groups), key=_order), 3: _classes(groups)}
    titles = {n: _title(title, protocol, split) for n, title in _PRETRAINED_TITLES.items()}
    return [
        Table(number, titles[number], found, notes, protocol, split, _league(rows[0]))
        for number, found in lines.items()
    ]


def _league(row: Row) -> str:
    """Return the league of a row's detector."""
    return DETECTORS[row["detector"]].league


def select(rows: Iterable[Row], protocol: str, split: str) -> list[Row]:
    """Return the rows of one protocol and split."""
    return [row for row in rows if row["protocol"] == protocol and row["split"] == split]


def _refuse_mixture(rows: Sequence[Row], protocol: str, split: str) -> None:
    """Raise `InputError` for rows that must not be in one table."""
    for row in rows:
        if (row["protocol"], row["split"]) != (protocol, split):
            raise InputError(
                f"The 'rows' parameter must contain only protocol {protocol!r} and split "
                f"{split!r}. Got a row of {row['protocol']!r} and {row['split']!r} instead."
            )


def _grouped(rows: Iterable[Row]) -> dict[_Group, list[Row]]:
    """Group the rows that differ only in class and seed, in the paper's order."""
    groups: dict[_Group, list[Row]] = {}
    for row in rows:
        key = (row["dataset"], row["scheme"], row["detector"], _settings(row))
        groups.setdefault(key, []).append(row)
    return groups


def _settings(row: Row) -> str:
    """Return the settings in which a row deviates from the protocol."""
    given: dict[str, Any] = dict(row["settings"])
    if row["max_train"] is not None:
        given["max_train"] = row["max_train"]
    return ", ".join(f"{key}={value}" for key, value in given.items())


def _averages(groups: Mapping[_Group, Sequence[Row]]) -> list[Line]:
    """Return the lines of Table 1 for which there are rows."""
    paper = published(1)
    return [_average(group, AVERAGE, _values(rows), paper) for group, rows in groups.items()]


def _classes(groups: Mapping[_Group, Sequence[Row]]) -> list[Line]:
    """Return the lines of Table 3."""
    paper = published(3)
    lines = []
    for (dataset, scheme, detector, settings), rows in groups.items():
        values = _values(rows)
        for class_ in range(len(DATASETS[dataset].class_names)):
            by_seed = {seed: value for (c, seed), value in values.items() if c == class_}
            subject = (dataset, scheme, str(class_), detector)
            lines.append(line_of(subject, settings, by_seed, paper.get(subject), MISSING))
    return sorted(lines, key=_order)


def _variants(groups: Mapping[_Group, Sequence[Row]]) -> list[Line]:
    """Return the lines of Table 4."""
    paper = published(4)
    own = {group: rows for group, rows in groups.items() if group[2] == "adcgan"}
    lines = [
        _average(group, variant, _values(rows, variant), paper)
        for group, rows in own.items()
        for variant in _VARIANTS
    ] + _absent(paper, own)
    return sorted(lines, key=_order)


def _values(rows: Iterable[Row], variant: str | None = None) -> _Values:
    """Return the AUROC in percent of the score or a variant of it, by class and seed."""
    found = {}
    for row in rows:
        if row["error"] is not None:
            continue
        auroc = row["auroc"] if variant is None else row["variants"].get(variant)
        if auroc is not None:
            found[row["class"], row["seed"]] = 100 * auroc
    return found


def _average(group: _Group, subject: str, values: _Values, paper: Mapping[Subject, float]) -> Line:
    """Return the line of a mean over classes, using the seeds with all classes."""
    dataset, scheme, detector, settings = group
    total = len(DATASETS[dataset].class_names)
    by_seed: dict[int, list[float]] = {}
    for (_, seed), value in values.items():
        by_seed.setdefault(seed, []).append(value)
    whole = {s: float(np.mean(found)) for s, found in by_seed.items() if len(found) == total}
    most = max(map(len, by_seed.values()), default=0)
    state = f"{most} of {total} classes" if most else MISSING
    key = (dataset, scheme, subject, detector)
    return line_of(key, settings, whole, paper.get(key), state)


def _absent(paper: Mapping[Subject, float], groups: Iterable[_Group]) -> list[Line]:
    """Return a line for each figure of the paper for which there are no rows."""
    run = {group[:3] for group in groups}
    return [
        Line(*key, paper=figure, state=MISSING)
        for key, figure in paper.items()
        if (key[0], key[1], key[3]) not in run
    ]


def _order(line: Line) -> tuple[Any, ...]:
    """Return the sort key of a line."""
    subject = line.subject
    place = _VARIANTS.index(subject) if subject in _VARIANTS else 0
    return (
        list(DATASETS).index(line.dataset),
        SCHEMES.index(line.scheme),
        int(subject) if subject.isdecimal() else place,
        list(DETECTORS).index(line.detector),
        # The benchmark's default settings come first.
        line.settings,
    )


def _title(title: str, protocol: str, split: str) -> str:
    """Return a title that makes the protocol and the split unmistakable."""
    if protocol == "released":
        title = f"RELEASED PROTOCOL ({WARNING}). {title}"
    if split == "development":
        title = f"DEVELOPMENT SPLIT (held out of the training split). {title}"
    return title
