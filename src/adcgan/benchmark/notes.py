"""Notes to the figures of result tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from adcgan.benchmark.rows import Row

_SPREAD = "± is the standard deviation over seeds; for averages, that of the mean over classes."
_PRETRAINED = (
    "These detectors use a network trained on a million labelled photographs, including cats, "
    "dogs, vehicles and clothes. The paper's systems learn from normal images alone, so the two "
    "are not comparable."
)
_INTERVAL = "The interval is Student's 95% interval over seeds"


def paper_notes(rows: Sequence[Row], split: str) -> list[str]:
    """Return the notes to tables that compare with the paper.

    Parameters
    ----------
    rows : sequence of dict
        The underlying rows of results, including failures.
    split : {"test", "development"}
        Images on which the detectors were evaluated.
    """
    notes = [
        _SPREAD,
        f"{_INTERVAL}; the paper's figure is marked as inside, above or below it. The spread of "
        "the paper's figure, a mean of three runs, is not considered.",
    ]
    if split == "development":
        notes.append("The paper's figures are for the test split.")
    return notes + _provenance(rows)


def category_notes(rows: Sequence[Row], pretrained: bool) -> list[str]:
    """Return the notes to tables of images with defects, by category.

    Parameters
    ----------
    rows : sequence of dict
        As for `paper_notes`.
    pretrained : bool
        Whether the detectors were pretrained on other images.
    """
    return [
        *([_PRETRAINED] if pretrained else []),
        "± is the standard deviation over seeds; figures without it come from one seed.",
        *left_out_lines(rows),
        *_provenance(rows),
    ]


def left_out_lines(rows: Iterable[Row]) -> list[str]:
    """Report which images with defects are left out of all metrics or of pixel metrics.

    Parameters
    ----------
    rows : iterable of dict
        Rows of results; rows of classes are ignored.

    Returns
    -------
    list of str
        Each line once, with its detectors unless it holds for all detectors of the category.
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
    """Return the notes to tables of detectors that were pretrained on other images.

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
    """Return the date, device and commit of the figures and the number of failed cells."""
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
    """Return the distinct values of a field as text."""
    return ", ".join(sorted({row[field] for row in rows}))
