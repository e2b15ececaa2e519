"""The result of a comparison, and its advice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from adcgan.errors import InputError
from adcgan.selection.candidates import PHOTOGRAPH

if TYPE_CHECKING:
    from adcgan.detectors import Detector

Row = dict[str, Any]
# Of the user's own anomalies: with fewer, what is made of normal images says more.
ENOUGH_OWN = 10
# A mean AUROC below this is not much better than chance.
POOR = 0.6
# What anomalies are made of normal images.
KINDS = ("defects", "contents")
# What must be the same for rows to stand beside one another.
_SAME = ("images", "n_learned", "n_judged", "seed", "fpr")


class Comparison:
    """Candidates, judged on the same images.

    Attributes
    ----------
    by : {"own", "defects", "contents"}
        What candidates are ranked by.
    plan : dict
        What was compared on what: ``images`` (``source``, ``n``, ``shape``, ``anomalies``),
        ``n_learned``, ``n_judged``, ``seed``, ``fpr``, ``versions``, ``hardware``, ``date``.
    rows : list of dict
        For each candidate ``detector``, ``league``, ``settings``, ``steps`` (the share of its own
        number of training steps, or None), ``n_images`` learned from, ``fit_seconds``, what
        `adcgan.selection.judging.figures` returns, and ``error`` (None, or why there are no
        figures).
    begun : dict
        ``settings``, ``steps`` and ``n_images`` of each candidate that began to learn.
    detector : Detector or None
        The best candidate, fitted; None where it was read from a folder.
    examples : dict of str to ndarray of uint8 (H, W, C)
        A held-out image, and what was made of it, by kind.
    """

    def __init__(self, plan: Row, by: str) -> None:
        self.plan, self.by = plan, by
        self.rows: list[Row] = []
        self.begun: dict[str, Row] = {}
        self.detector: Detector | None = None
        self.examples: dict[str, NDArray[np.uint8]] = {}

    @property
    def ranking(self) -> list[Row]:
        """The rows with figures, the best first."""
        judged = [row for row in self.rows if row["error"] is None]
        return sorted(judged, key=self.standing, reverse=True)

    @property
    def best(self) -> Row | None:
        """The best row; None if no candidate could be judged."""
        return next(iter(self.ranking), None)

    def standing(self, row: Row) -> float:
        """Return what candidates are ranked by: a mean AUROC in [0, 1]."""
        own = own_auroc(row)
        if self.by == "own" and own is not None:
            return own
        return mean_auroc(row[self.by])

    @property
    def advice(self) -> str:
        """Which detector to take, and why, in a sentence or two."""
        best, *others = self.ranking
        name, standing = best["detector"], self.standing(best)
        if standing < POOR:
            return (
                f"None of these detectors is much better than chance on such images; {name} comes "
                f"first with a mean AUROC of {standing:.2f}. More images or a longer comparison "
                "may help."
            )
        what = {
            "own": "your own anomalies",
            "defects": "copies with a defect",
            "contents": "copies that show something else",
        }[self.by]
        next_best = ""
        if others:
            second = others[0]
            next_best = f"; next is {second['detector']}, {self.standing(second):.2f}"
        found = best["smallest"]
        size = f" It catches most defects of {found:.0f} pixels or more." if found else ""
        return (
            f"Take {name}: it is best at telling held-out normal images from {what} (mean AUROC "
            f"{standing:.2f}{next_best}).{size}"
        )

    @property
    def table(self) -> list[Row]:
        """A row of figures for each candidate, the best first, those without figures last.

        AUROCs are means over kinds, in [0, 1]; ``own`` is None without anomalies of the user's.
        """
        failed = [row for row in self.rows if row["error"] is not None]
        return [_summary(row) for row in [*self.ranking, *failed]]

    def _repr_html_(self) -> str:
        """Return the advice and the table, for notebooks."""
        columns = list(_summary({"detector": "", "error": ""}))
        head = "".join(f"<th>{escape(name.replace('_', ' '))}</th>" for name in columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{_cell(row[name])}</td>" for name in columns) + "</tr>"
            for row in self.table
        )
        return f"<p>{escape(self.advice)}</p><table><tr>{head}</tr>{body}</table>"

    def has(self, name: str) -> bool:
        """Say whether a candidate was judged."""
        return any(row["detector"] == name and row["error"] is None for row in self.rows)

    def add(self, row: Row, detector: Detector | None) -> None:
        """Add a row, or replace that of the same detector; keep the detector if it is the best."""
        self.rows = [one for one in self.rows if one["detector"] != row["detector"]] + [row]
        if row["error"] is None and self.best is row:
            self.detector = detector

    def line(self, row: Row) -> str:
        """Return what was found of one candidate, in a line."""
        if row["error"] is not None:
            return str(row["error"])
        parts = [f"AUROC {mean_auroc(row['defects']):.3f} on made defects"]
        parts.append(f"{mean_auroc(row['contents']):.3f} on other contents")
        own = own_auroc(row)
        if own is not None:
            parts.append(f"{own:.3f} on your own anomalies")
        return ", ".join(parts)

    def to_json(self) -> Row:
        """Return plan and rows, for `take_over`."""
        return {"plan": self.plan, "ranked_by": self.by, "begun": self.begun, "rows": self.rows}

    def take_over(self, path: Path) -> None:
        """Take over the rows that `path` holds, of an earlier comparison on the same images.

        Raises
        ------
        InputError
            That was on other images, or with another seed or budget.
        """
        before = json.loads(path.read_text(encoding="utf-8"))
        for key in _SAME:
            if before["plan"][key] != self.plan[key]:
                raise InputError(
                    f"The comparison in {str(path.parent)!r} was made with other {key}: "
                    f"{before['plan'][key]!r}, now {self.plan[key]!r}. Choose another folder."
                )
        self.begun, self.rows = before["begun"], before["rows"]


def ranked_by(look_for: str | None, shape: tuple[int, int, int], n_own: int) -> str:
    """Return what candidates are ranked by: "own", "defects" or "contents".

    Parameters
    ----------
    look_for : str or None
        What the user wants it to be: "defects" or "contents".
    shape : (int, int, int)
        Of the images (C, H, W).
    n_own : int
        How many anomalies the user has.

    Raises
    ------
    InputError
        `look_for` is something else.
    """
    if look_for not in (None, *KINDS):
        raise InputError(
            f"The 'look_for' parameter must be one of {', '.join(KINDS)}. Got {look_for!r} instead."
        )
    if look_for is not None:
        return look_for
    if n_own >= ENOUGH_OWN:
        return "own"
    return "defects" if max(shape[1:]) >= PHOTOGRAPH else "contents"


def own_auroc(row: Row) -> float | None:
    """Return the AUROC of all of the user's own anomalies, None where there are none."""
    own = row["own"]
    return float(own.get("all", next(iter(own.values())))["auroc"]) if own else None


def _summary(row: Row) -> Row:
    """Return the main figures of a row."""
    done = row["error"] is None
    return {
        "detector": row["detector"],
        "defects": mean_auroc(row["defects"]) if done else None,
        "contents": mean_auroc(row["contents"]) if done else None,
        "own": own_auroc(row) if done else None,
        "smallest": row["smallest"] if done else None,
        "false_alarms": row["false_alarms"] if done else None,
        "fit_seconds": row["fit_seconds"] if done else None,
        "images_a_second": row["images_a_second"] if done else None,
        "error": row["error"],
    }


def _cell(value: object) -> str:
    """Return a figure for people."""
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else escape(str(value))


def mean_auroc(group: Mapping[str, Row]) -> float:
    """Return the mean AUROC of kinds of anomalies."""
    return float(np.mean([figures["auroc"] for figures in group.values()]))
