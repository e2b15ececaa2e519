"""The images of a page: what the model saw, what it made of it, and where it differs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from adcgan.data.ragged import Maps, gathered
from adcgan.data.thumbnails import data_uri, reduced
from adcgan.report.pictures import overlay, to_uint8

if TYPE_CHECKING:
    from adcgan.benchmark import Evaluation
    from adcgan.data import ImageSet
    from adcgan.scoring import Scorer

# Pixels of the longer side at most: a page of fifty pictures stays small enough to send.
_LONGEST_SIDE = 192
# Share of the pixels below the top colour of the heatmaps.
_HOTTEST = 0.995
# Values of each map that the top colour comes from, at most.
_SAMPLED = 1 << 17


@dataclass(frozen=True)
class Card:
    """One image on the page; addresses are ``data:`` ones, "" where there is no picture."""

    name: str
    score: float
    p_value: float
    truth: str
    flagged: bool
    image: str
    reconstruction: str
    heatmap: str


@dataclass(frozen=True)
class Row:
    """A few images that have something in common."""

    title: str
    cards: list[Card]


def gallery(
    detector: Scorer, images: ImageSet, evaluation: Evaluation, n: int = 8
) -> tuple[list[Row], float | None]:
    """Return the most anomalous, the borderline and the most normal images of an evaluation.

    Parameters
    ----------
    detector : Scorer
        Fitted; one that cannot reconstruct gives images alone.
    images : ImageSet
        What was evaluated.
    evaluation : Evaluation
        Its scores.
    n : int, default=8
        Images in each row, at most.

    Returns
    -------
    rows : list of Row
        Three rows, each in the order of the score.
    hottest : float or None
        The value at and above which a heatmap has its top colour, for all of them; None without
        heatmaps.
    """
    scores = evaluation.assessment.scores[images.positions]
    order = np.argsort(-scores, kind="stable")
    near = np.argsort(np.abs(scores - detector.threshold_), kind="stable")[:n]
    chosen = {
        "Most anomalous": order[:n],
        "Closest to the threshold": near[np.argsort(-scores[near], kind="stable")],
        "Most normal": order[-n:],
    }
    wanted = np.unique(np.concatenate(list(chosen.values())))
    seen = [images.images[i].transpose(1, 2, 0) for i in wanted]
    passes = list(detector.passes(images.images, wanted))
    made = _joined([scored.reconstruction for scored in passes])
    heat = _joined([scored.anomaly_map for scored in passes])
    hottest = None if heat is None else hottest_value(heat)
    cards = {}
    for i, index in enumerate(wanted):
        row = int(images.positions[index])
        cards[int(index)] = Card(
            name=evaluation.assessment.names[row],
            score=float(evaluation.assessment.scores[row]),
            p_value=float(evaluation.assessment.p_values[row]),
            truth="anomalous" if evaluation.labels[row] == 1 else "normal",
            flagged=bool(evaluation.assessment.anomalous[row] == 1),
            image=_picture(seen[i]),
            reconstruction="" if made is None else _picture(to_uint8(made[i].transpose(1, 2, 0))),
            heatmap=""
            if heat is None or hottest is None
            else _picture(overlay(seen[i], heat[i], hottest)),
        )
    rows = [Row(title, [cards[int(i)] for i in indexes]) for title, indexes in chosen.items()]
    return rows, hottest


def hottest_value(heat: Maps) -> float:
    """Return the anomaly value, above 0, for the top colour of maps shown together."""
    # Of large maps every few values say as much.
    values = np.concatenate([one.ravel()[:: -(-one.size // _SAMPLED)] for one in heat])
    return max(float(np.quantile(values, _HOTTEST)), float(np.finfo(np.float32).tiny))


def _joined(parts: Sequence[NDArray[np.float32] | None]) -> Maps | None:
    """Return the pictures of all batches, None where there are none."""
    there = [part for part in parts if part is not None]
    return gathered(there) if there else None


def _picture(image: NDArray[np.uint8]) -> str:
    """Return a picture of shape (H, W, C) for the page, made smaller where it is large."""
    return data_uri(reduced(image, _LONGEST_SIDE))
