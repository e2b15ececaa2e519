"""What a reader must know beside the figures of a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from adcgan.benchmark.rows import Row

_SPREAD = "± is the standard deviation over seeds, of the mean over classes where there is one."
_PRETRAINED = (
    "These use what a network learned from a million labelled photographs, of cats, dogs, "
    "vehicles and clothes among others. The paper's systems learn from the normal images "
    "alone, so figures of the two do not compare."
)
_INTERVAL = "The interval is Student's 95% interval over seeds"


def paper_notes(rows: Sequence[Row], split: str) -> list[str]:
    """Return what goes with figures that stand beside the paper's.

    Parameters
    ----------
    rows : sequence of dict
        The rows of results behind the figures, failures included.
    split : {"test", "development"}
        What the detectors were judged on.
    """
    notes = [
        _SPREAD,
        f"{_INTERVAL}; beside the paper's figure stands where it lies to it. The spread of the "
        "paper's own figure, a mean of three runs, is left out.",
    ]
    if split == "development":
        notes.append("The paper's figures are of the test split.")
    return notes + _provenance(rows)


def category_notes(rows: Sequence[Row], pretrained: bool) -> list[str]:
    """Return what goes with figures of photographs with defects, by category.

    Parameters
    ----------
    rows : sequence of dict
        As for `paper_notes`.
    pretrained : bool
        Whether their detectors were pretrained on other images.
    """
    return [
        *([_PRETRAINED] if pretrained else []),
        "± is the standard deviation over seeds; a figure without it is of one seed.",
        *left_out_lines(rows),
        *_provenance(rows),
    ]


def left_out_lines(rows: Iterable[Row]) -> list[str]:
    """Say of photographs with defects which are in no figure, or in none over pixels.

    Parameters
    ----------
    rows : iterable of dict
        Rows of results; those of classes have nothing to say.

    Returns
    -------
    list of str
        Each line once, with its detectors where it does not hold for all of the category's.
    """
    detectors: dict[str, set[str]] = {}
    said: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        category = row["class"]
        lines = list(row.get("pixels_left_out") or ())
        if names := row.get("unreadable"):
            have = "1 image" if len(names) == 1 else f"{len(names):,} images"
            lines.append(f"{have} could not be read and are left out; the first: {names[0]}.")
        for line in lines:
            said.setdefault((category, line), set()).add(row["detector"])
        if row["error"] is None:
            detectors.setdefault(category, set()).add(row["detector"])
    return [
        f"{category}{'' if of == detectors[category] else ', ' + ', '.join(sorted(of))}: {line}"
        for (category, line), of in said.items()
    ]


def pretrained_notes(rows: Sequence[Row]) -> list[str]:
    """Return what goes with figures of detectors that were pretrained on other images.

    Parameters
    ----------
    rows : sequence of dict
        As for `paper_notes`.
    """
    return [
        _PRETRAINED,
        _SPREAD,
        f"{_INTERVAL}.",
        *_provenance(rows),
    ]


def _provenance(rows: Sequence[Row]) -> list[str]:
    """Return when, where and from what the figures came, and how many cells failed."""
    done = [row for row in rows if row["error"] is None]
    notes = []
    if done:
        dates = sorted(row["date"][:10] for row in done)
        notes += [
            f"Cells: {len(done)}. Dates: {dates[0]} to {dates[-1]}.",
            f"Devices: {_listed(done, 'device')}. Commits: {_listed(done, 'commit')}.",
        ]
    if len(done) < len(rows):
        notes.append(f"Cells that failed: {len(rows) - len(done)}.")
    return notes + [f"{note}." for note in sorted({row["note"] for row in done} - {""})]


def _listed(rows: Iterable[Row], field: str) -> str:
    """Return the values that occur, as text."""
    return ", ".join(sorted({row[field] for row in rows}))
