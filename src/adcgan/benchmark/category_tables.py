"""Tables of results on images with defects: one row per category, one column per detector.

The paper reports no such figures. Image AUROC comes first, then pixel AUROC and PRO if there are
masks, then the image AUROC of each defect type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from adcgan.benchmark.lines import MISSING, Line, Table, line_of
from adcgan.benchmark.notes import category_notes
from adcgan.benchmark.protocol import DEFECTS
from adcgan.benchmark.published import AVERAGE
from adcgan.benchmark.rows import Row
from adcgan.detectors import DETECTORS

_TITLES = {
    "auroc": "Image AUROC (%) of every category",
    "pixel_auroc": "Pixel AUROC (%) of every category",
    "pro30": "PRO to 30% of false positives (%) of every category",
    "defect_auroc": "Image AUROC (%) of every type of defect",
}
_PRETRAINED = "Pretrained on ImageNet: a separate league. "

# Detector, and its settings as text.
_Method = tuple[str, str]
# Percentages by subject, method and seed.
_Figures = dict[str, dict[_Method, dict[int, float]]]


def category_tables(rows: Sequence[Row], settings: Callable[[Row], str]) -> list[Table]:
    """Build the tables of rows whose scheme is `adcgan.benchmark.protocol.DEFECTS`.

    For each data set and league, there is one table per figure that any row has. If there are
    several categories, a line shows their mean over the seeds for which all of them are complete.

    Parameters
    ----------
    rows : sequence of dict
        One row per cell.
    settings : callable
        Returns a description of the settings in which a row differs from the detector's defaults.
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row["dataset"], row["class"], row["images"])):
        league = DETECTORS[row["detector"]].league
        groups.setdefault((league, row["dataset"]), []).append(row)
    return [
        table
        for (league, dataset), found in sorted(groups.items())
        for table in _tables(league, dataset, found, settings)
    ]


def _tables(
    league: str, dataset: str, rows: Sequence[Row], settings: Callable[[Row], str]
) -> list[Table]:
    """Build the tables of one data set and league."""
    methods = sorted(
        {(row["detector"], settings(row)) for row in rows},
        key=lambda method: (list(DETECTORS).index(method[0]), method[1]),
    )
    names = _names(rows)
    notes = category_notes(rows, bool(league))
    made = []
    for figure, title in _TITLES.items():
        found: _Figures = {}
        for row in rows:
            for part, value in _values(row, figure).items():
                subject = ", ".join(filter(None, (names[row["class"], row["images"]], part)))
                by_method = found.setdefault(subject, {})
                if value is not None:
                    seeds = by_method.setdefault((row["detector"], settings(row)), {})
                    seeds[row["seed"]] = value
        if not any(found.values()) and figure != "auroc":
            continue
        lines = [
            line_of(_key(dataset, subject, method), method[1], seeds.get(method, {}), None, MISSING)
            for subject, seeds in found.items()
            for method in methods
        ]
        if figure != "defect_auroc" and len(found) > 1:
            lines += [_mean(dataset, found, method) for method in methods]
        title = (_PRETRAINED if league else "") + title
        made.append(Table(0, title, lines, notes, league=league, figure=figure))
    return made


def _key(dataset: str, subject: str, method: _Method) -> tuple[str, str, str, str]:
    return dataset, DEFECTS, subject, method[0]


def _names(rows: Sequence[Row]) -> dict[tuple[str, str], str]:
    """Return the display name of each category, with its hash if the name is ambiguous."""
    seen = {(row["class"], row["images"]) for row in rows}
    names = [name for name, _ in seen]
    return {
        (name, images): name if names.count(name) == 1 and name != AVERAGE else f"{name} ({images})"
        for name, images in seen
    }


def _values(row: Row, figure: str) -> Mapping[str, float | None]:
    """Return a row's values of a figure in percent, by defect type or ""."""
    if figure == "defect_auroc":
        defects: dict[str, Any] = row["defects"] or {}
        return {kind: 100 * found["auroc"] for kind, found in defects.items()}
    value = row["auroc"] if figure == "auroc" else (row["pixels"] or {}).get(figure)
    return {"": None if value is None else 100 * value}


def _mean(dataset: str, found: _Figures, method: _Method) -> Line:
    """Return the line with a detector's mean over categories."""
    by_category = [seeds.get(method, {}) for seeds in found.values()]
    whole = set.intersection(*(set(seeds) for seeds in by_category))
    means = {seed: float(np.mean([seeds[seed] for seeds in by_category])) for seed in sorted(whole)}
    have = sum(map(bool, by_category))
    state = f"{have} of {len(found)} categories" if have else MISSING
    return line_of(_key(dataset, AVERAGE, method), method[1], means, None, state)
