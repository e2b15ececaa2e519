"""The table of scores: one row for each input, unreadable ones included."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adcgan.files import replacing

if TYPE_CHECKING:
    from adcgan.scoring import Assessment


def write_scores(path: str | Path, assessment: Assessment) -> None:
    """Write ``path,score,p_value,anomalous,<components>,error``, whole or not at all.

    Parameters
    ----------
    path : str or Path
        The CSV file (UTF-8, quoted where a name needs it); replaced if it exists. Its folder is
        made if need be.
    assessment : Assessment
        One row each, in its order. Where an image could not be read, the row holds its name and
        error and nothing else.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        replacing(path) as temporary,
        # A name that UTF-8 cannot hold must not make the other rows unreadable.
        open(temporary, "w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "score", "p_value", "anomalous", *assessment.components, "error"])
        writer.writerows(_row(assessment, i) for i in range(len(assessment.names)))


def _row(assessment: Assessment, i: int) -> list[Any]:
    """Return the fields of input `i`; floats keep every digit."""
    name, error = assessment.names[i], assessment.errors[i]
    parts = assessment.components.values()
    if error:
        return [name, "", "", "", *("" for _ in parts), error]
    figures = [float(assessment.scores[i]), float(assessment.p_values[i])]
    return [name, *figures, int(assessment.anomalous[i]), *(float(part[i]) for part in parts), ""]
