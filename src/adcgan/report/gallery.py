"""The images of a page: each with its reconstruction and where the two differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from adcgan.data.masks import (
    photograph_size,
    read_mask,
    seen_map,
    seen_mask,
    seen_photograph,
)
from adcgan.data.ragged import Maps, gathered
from adcgan.data.thumbnails import data_uri, photograph_uri, reduced
from adcgan.errors import InputError
from adcgan.report.pictures import DEFECT, FOUND, outlined, overlay, to_uint8
from adcgan.scoring.regions import region_mask

if TYPE_CHECKING:
    from adcgan.benchmark import Evaluation
    from adcgan.data import ImageSet
    from adcgan.scoring import Scorer

# Pixels of the longer side at most: a page of fifty pictures stays small enough to send.
_LONGEST_SIDE = 192
# The same of photographs, on which a person is to tell a scratch from a speck of dust.
_LONGEST_PHOTOGRAPH = 480
# Share of the pixels below the top colour of the heatmaps.
_HOTTEST = 0.995
# Values of each map that the top colour comes from, at most.
_SAMPLED = 1 << 17


@dataclass(frozen=True)
class Card:
    """One image on the page; addresses are ``data:`` ones, "" where there is no picture.

    `large` says whether the pictures are of the photograph's file, not of what the model saw;
    `marked` whether its mask's outline is on the heatmap, `found` whether those of regions above
    the threshold for pixels are; `type` is that of the defect, or "".
    """

    name: str
    score: float
    p_value: float
    truth: str
    flagged: bool
    image: str
    reconstruction: str
    heatmap: str
    large: bool = False
    marked: bool = False
    found: bool = False
    type: str = ""


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
    threshold = None
    if detector.calibration_peaks_ is not None:
        threshold = detector.pixel_verdict(evaluation.assessment.verdict.fpr).threshold
    cards = {}
    for i, index in enumerate(wanted):
        row = int(images.positions[index])
        rebuilt = None if made is None else made[i].transpose(1, 2, 0)
        one_map = None if heat is None else heat[i]
        shown = _shown(detector, images, int(index), seen[i], rebuilt, one_map, threshold)
        type_ = None if images.types is None else images.types[index]
        cards[int(index)] = Card(
            name=evaluation.assessment.names[row],
            score=float(evaluation.assessment.scores[row]),
            p_value=float(evaluation.assessment.p_values[row]),
            truth="anomalous" if evaluation.labels[row] == 1 else "normal",
            flagged=bool(evaluation.assessment.anomalous[row] == 1),
            type=type_ or "",
            large=shown.large,
            marked=shown.mask is not None and shown.heat is not None,
            found=shown.found is not None,
            **shown.addresses(hottest),
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


@dataclass(frozen=True, eq=False)
class _Shown:
    """The pictures of one image, its mask and what was found, all of one height and width."""

    image: NDArray[np.uint8]
    rebuilt: NDArray[np.floating] | None
    heat: NDArray[np.float32] | None
    mask: NDArray[np.bool_] | None = None
    found: NDArray[np.bool_] | None = None
    large: bool = False

    def addresses(self, hottest: float | None) -> dict[str, str]:
        """Return the pictures as a `Card` takes them."""
        picture = photograph_uri if self.large else _picture
        heatmap = ""
        if self.heat is not None and hottest is not None:
            heatmap = picture(self._outlined(overlay(self.image, self.heat, hottest)))
        return {
            "image": picture(self.image),
            "reconstruction": "" if self.rebuilt is None else picture(to_uint8(self.rebuilt)),
            "heatmap": heatmap,
        }

    def _outlined(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Draw lines around what was found and, over them, around what the mask marks."""
        if self.found is not None:
            image = outlined(image, self.found, FOUND)
        return image if self.mask is None else outlined(image, self.mask, DEFECT)


def _shown(
    detector: Scorer,
    images: ImageSet,
    index: int,
    seen: NDArray[np.uint8],
    rebuilt: NDArray[np.floating] | None,
    heat: NDArray[np.float32] | None,
    threshold: float | None,
) -> _Shown:
    """Return the pictures of an image, at its photograph's size if that can still be read."""
    small = _Shown(seen, rebuilt, heat)
    if images.files is None:
        return small
    path, resize = images.files[index], detector.target_.resize
    try:
        width, height = photograph_size(path)
        image = seen_photograph(path, resize, _LONGEST_PHOTOGRAPH)
    except InputError:
        return small
    if max(image.shape[:2]) <= min(max(seen.shape[:2]), _LONGEST_SIDE):
        return small
    if seen.shape[2] == 1:
        # A model of grey images has not seen any colour.
        image = np.rint(image.mean(axis=2, keepdims=True)).astype(np.uint8)

    def at_size(values: NDArray[np.floating]) -> NDArray[np.float32]:
        values = values.astype(np.float32, copy=False)
        return seen_map(values, width, height, resize, _LONGEST_PHOTOGRAPH)

    found = None
    if heat is not None and threshold is not None:
        # At the photograph's own size, as `adcgan score --masks` has it, and then made smaller.
        above = region_mask(seen_map(heat, width, height, resize, max(width, height)), threshold)
        if above.any():
            found = _reduced_mask(above, image.shape[1], image.shape[0])
    mask = None
    if images.masks is not None and (marked := images.masks[index]) is not None:
        mask = _reduced_mask(
            seen_mask(read_mask(marked, path), resize), image.shape[1], image.shape[0]
        )
    return _Shown(
        image,
        None
        if rebuilt is None
        else np.dstack([at_size(part) for part in np.moveaxis(rebuilt, 2, 0)]),
        None if heat is None else at_size(heat),
        mask,
        found,
        large=True,
    )


def _reduced_mask(mask: NDArray[np.bool_], width: int, height: int) -> NDArray[np.bool_]:
    """Shrink a mask without losing parts that become thinner than a pixel."""
    picture = Image.fromarray(mask.astype(np.float32))
    some: NDArray[np.bool_] = np.asarray(picture.resize((width, height), Image.Resampling.BOX)) > 0
    return some


def _picture(image: NDArray[np.uint8]) -> str:
    """Return a picture of shape (H, W, C) for the page, made smaller where it is large."""
    return data_uri(reduced(image, _LONGEST_SIDE))
