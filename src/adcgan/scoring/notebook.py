"""How a notebook displays an assessment."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np

from adcgan.data.thumbnails import contact_sheet, data_uri, reduced

if TYPE_CHECKING:
    from adcgan.scoring.assessment import Assessment

_LISTED, _SIDE = 10, 96


def html_of(assessment: Assessment) -> str:
    """Return an HTML fragment: counts, the most anomalous images, and their maps if there are any.

    It needs no other file, and takes colours and font from the page it is on.
    """
    verdicts = assessment.anomalous
    budget = assessment.verdict.fpr
    facts = [
        f"{(verdicts == 1).sum():,} of {(verdicts >= 0).sum():,} images are anomalous: their score "
        f"is above {assessment.verdict.threshold:.4g}"
        + ("" if budget is None else f" (false-alarm budget {100 * budget:.3g}%)")
    ]
    unreadable = int((verdicts < 0).sum())
    facts += [f"{unreadable:,} could not be read"] if unreadable else []
    lines = "".join(f"<div>{escape(fact)}</div>" for fact in facts)
    return f"<div><strong>Assessment</strong>{lines}{_table(assessment)}{_maps(assessment)}</div>"


def _highest(assessment: Assessment) -> list[int]:
    """Return the rows of the highest scores, in falling order."""
    known = np.flatnonzero(~np.isnan(assessment.scores))
    order = known[np.argsort(-assessment.scores[known], kind="stable")]
    return [int(i) for i in order[:_LISTED]]


def _table(assessment: Assessment) -> str:
    """Return the most anomalous images as a table."""
    rows = "".join(
        f"<tr><td>{escape(assessment.names[i])}</td><td>{assessment.scores[i]:.4g}</td>"
        f"<td>{assessment.p_values[i]:.3g}</td>"
        f"<td>{'anomalous' if assessment.anomalous[i] == 1 else 'normal'}</td></tr>"
        for i in _highest(assessment)
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in ("image", "score", "p-value", ""))
    return f"<table><tr>{head}</tr>{rows}</table>" if rows else ""


def _maps(assessment: Assessment) -> str:
    """Return the maps of the most anomalous images side by side, on one scale of grey."""
    if assessment.maps is None or not len(assessment.maps):
        return ""
    readable = np.flatnonzero(assessment.anomalous >= 0)
    chosen = [assessment.maps[int(np.searchsorted(readable, i))] for i in _highest(assessment)]
    top = max(float(heat.max()) for heat in chosen) or 1.0
    shown = [reduced((255 * heat / top).astype(np.uint8)[..., None], _SIDE) for heat in chosen]
    frames = np.zeros((len(shown), *np.max([one.shape for one in shown], axis=0)), np.uint8)
    for frame, one in zip(frames, shown, strict=True):
        frame[: one.shape[0], : one.shape[1]] = one
    return (
        f'<img src="{data_uri(contact_sheet(frames, n_columns=5))}" '
        f'alt="Anomaly maps of the {len(shown)} most anomalous images, in that order" '
        f'style="max-width: 100%; margin: 6px 0">'
    )
