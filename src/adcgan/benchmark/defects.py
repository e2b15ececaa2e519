"""Metrics for each defect type and, given masks, for defective pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from adcgan.benchmark.metrics import auroc, auroc_interval
from adcgan.benchmark.pixel_metrics import pixel_summary
from adcgan.data.masks import (
    longest_side,
    photograph_size,
    read_mask,
    seen_map,
    seen_mask,
    seen_size,
)
from adcgan.errors import InputError

if TYPE_CHECKING:
    from adcgan.data import ImageSet
    from adcgan.data.ragged import Maps

# Name for defects without a type.
UNTYPED = "no type"


@dataclass(frozen=True, eq=False)
class Truth:
    """The defective pixels of n readable images, at the size of `adcgan.data.masks`.

    Attributes
    ----------
    masks : list of (ndarray of bool (H, W), or None)
        None for anomalous images without a mask, which pixel metrics leave out.
    sizes : list of (int, int)
        Width and height of each original image.
    resize : str
        How images are resized for the model.
    longest : int
        Maximum length of the longer side.
    """

    masks: list[NDArray[np.bool_] | None]
    sizes: list[tuple[int, int]]
    resize: str
    longest: int

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which images pixel metrics can include, shape (n,)."""
        return np.array([mask is not None for mask in self.masks], dtype=bool)


def read_truth(images: ImageSet, resize: str) -> Truth | None:
    """Read the masks of labelled images.

    Parameters
    ----------
    images : ImageSet
        Images with labels. Normal images have all-zero masks.
    resize : str
        How images are resized for the model.

    Returns
    -------
    Truth or None
        None if the data has no masks.

    Raises
    ------
    InputError
        If `adcgan.data.masks.read_mask` rejects a mask, or a mask marks a defect in an image
        labelled normal.
    """
    if images.masks is None or images.files is None or images.labels is None:
        return None
    masks: list[NDArray[np.bool_] | None] = []
    sizes = [photograph_size(file) for file in images.files]
    longest = longest_side(sizes, resize)
    for i, (path, file) in enumerate(zip(images.masks, images.files, strict=True)):
        mask = None if path is None else seen_mask(read_mask(path, file), resize, longest)
        if images.labels[i] == 0:
            if mask is not None and mask.any():
                raise InputError(
                    f"The mask {path!r} must not mark any pixels, as its image {file!r} is "
                    f"labelled normal. It marks {int(mask.sum())}."
                )
            seen = seen_size(*sizes[i], resize, longest)
            # A single value broadcast to all pixels takes no memory.
            mask = np.broadcast_to(np.False_, seen[::-1])
        masks.append(mask)
    return Truth(masks, sizes, resize, longest)


def defect_figures(
    images: ImageSet,
    scores: NDArray[np.float64],
    flagged: NDArray[np.bool_],
    truth: Truth | None,
    maps: Maps | None,
) -> dict[str, Any]:
    """Compute image metrics for each defect type, and pixel metrics for each type and overall.

    Each type is compared with all normal images. Maps are resized to the size of the originals.

    Parameters
    ----------
    images : ImageSet
        Images with labels (1 anomalous, 0 normal), of which n are readable.
    scores : ndarray of float64 (n,)
        Scores; higher is more anomalous.
    flagged : ndarray of bool (n,)
        Whether an image's score is above the threshold.
    truth : Truth or None
        Result of `read_truth` for the images.
    maps : Maps or None
        Anomaly maps of the images, or None if the detector makes none.

    Returns
    -------
    dict
        ``defects``: by type, ``n``, ``auroc``, ``auroc_ci95``, ``caught`` (fraction found at the
        threshold), ``n_masks`` and ``pixels``, the result of `pixel_summary` or None. ``pixels``:
        the same for all images, with ``n_masks`` and ``longest_side`` (to which larger images are
        reduced), or None. ``pixels_left_out``: reasons why pixel metrics are missing or leave out
        images, one line each.
    """
    assert images.labels is not None
    anomalous = images.labels == 1
    names = np.array([name or UNTYPED for name in images.types or [None] * len(images)])
    types = [] if images.types is None else sorted(set(names[anomalous].tolist()))
    left_out: list[str] = []
    if truth is not None:
        left_out += _without_masks(names[anomalous & ~truth.known].tolist(), bool(types))
        if maps is None and truth.known[anomalous].any():
            left_out.append("There are no pixel metrics: the detector makes no maps.")

    def over_pixels(chosen: NDArray[np.bool_], called: str) -> dict[str, Any] | None:
        if truth is None or maps is None or not truth.known[chosen].any():
            return None
        kept = np.flatnonzero((chosen | ~anomalous) & truth.known)
        if not any(_marked(truth, int(i)) for i in kept):
            left_out.append(f"Pixel metrics for {called} are left out: the masks are empty.")
            return None
        return pixel_summary(
            _Made(kept, lambda i: truth.masks[i]),
            _Made(kept, lambda i: seen_map(maps[i], *truth.sizes[i], truth.resize, truth.longest)),
        )

    defects = {}
    for kind in types:
        chosen = anomalous & (names == kind)
        judged = chosen | ~anomalous
        labels = images.labels[judged]
        defects[kind] = {
            "n": int(chosen.sum()),
            "auroc": auroc(labels, scores[judged]),
            "auroc_ci95": list(auroc_interval(labels, scores[judged])),
            "caught": float(flagged[chosen].mean()),
            "n_masks": 0 if truth is None else int(truth.known[chosen].sum()),
            "pixels": over_pixels(chosen, repr(kind)),
        }
    pixels = over_pixels(anomalous, "all images")
    if pixels is not None and truth is not None:
        pixels["n_masks"] = int(truth.known[anomalous].sum())
        pixels["longest_side"] = truth.longest
    return {"defects": defects, "pixels": pixels, "pixels_left_out": left_out}


class _Made(Sequence[Any]):
    """Arrays that are computed on access, so that not all are in memory at once."""

    def __init__(self, index: NDArray[np.intp], make: Callable[[int], Any]) -> None:
        self._index, self._make = index, make

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, i: Any) -> Any:
        return self._make(int(self._index[i]))


def _marked(truth: Truth, i: int) -> bool:
    mask = truth.masks[i]
    return mask is not None and bool(mask.any())


def _without_masks(names: list[str], typed: bool) -> list[str]:
    """Report in one line which anomalous images have no mask, if any."""
    if not names:
        return []
    counts = ", ".join(f"{name} {n}" for name, n in sorted(Counter(names).items()))
    which = f" ({counts})" if typed else ""
    have = "1 anomalous image has" if len(names) == 1 else f"{len(names):,} anomalous images have"
    return [f"Pixel metrics leave out images without a mask: {have} none{which}."]
