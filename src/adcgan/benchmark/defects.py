"""Figures for each type of defect and, where masks mark them, for defective pixels."""

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

# What a defect is called that nobody gave a type.
UNTYPED = "no type"


@dataclass(frozen=True, eq=False)
class Truth:
    """Which pixels of n readable images are defective, at the size of `adcgan.data.masks`.

    Attributes
    ----------
    masks : list of (ndarray of bool (H, W), or None)
        None for an anomalous image without a mask, which no figure over pixels can take in.
    sizes : list of (int, int)
        Width and height of each photograph.
    resize : str
        How the model's images are made of photographs.
    longest : int
        Of the longer side, at most.
    """

    masks: list[NDArray[np.bool_] | None]
    sizes: list[tuple[int, int]]
    resize: str
    longest: int

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which images can be part of figures over pixels, shape (n,)."""
        return np.array([mask is not None for mask in self.masks], dtype=bool)


def read_truth(images: ImageSet, resize: str) -> Truth | None:
    """Read the masks of labelled images.

    Parameters
    ----------
    images : ImageSet
        With labels. A normal image has an all-zero mask.
    resize : str
        How the model's images are made of photographs.

    Returns
    -------
    Truth or None
        None where such data has no masks.

    Raises
    ------
    InputError
        If a mask is refused by `adcgan.data.masks.read_mask`, or marks a defect in an image that
        is called normal.
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
                    f"The mask {path!r} must mark no pixel, as its image {file!r} is called "
                    f"normal. It marks {int(mask.sum())}."
                )
            seen = seen_size(*sizes[i], resize, longest)
            # One value for all pixels takes no memory.
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
    """Return figures of images for each type of defect, and of pixels for each type and all.

    Every type is judged against all normal images. Maps are brought to the photographs' size.

    Parameters
    ----------
    images : ImageSet
        With labels: 1 anomalous, 0 normal; n readable images.
    scores : ndarray of float64 (n,)
        Higher is more anomalous.
    flagged : ndarray of bool (n,)
        Whether the threshold calls an image anomalous.
    truth : Truth or None
        What `read_truth` returned for the images.
    maps : Maps or None
        Anomaly maps of the images; None where the detector makes none.

    Returns
    -------
    dict
        ``defects``: by type, ``n``, ``auroc``, ``auroc_ci95``, ``caught`` (share at the
        threshold), ``n_masks`` and ``pixels``, which is what `pixel_summary` returns, or None.
        ``pixels``: the same of all images with ``n_masks`` and ``longest_side`` (what larger
        photographs are reduced to), or None. ``pixels_left_out``: why
        there are no such figures, or of fewer images than there are; one line each.
    """
    assert images.labels is not None
    anomalous = images.labels == 1
    names = np.array([name or UNTYPED for name in images.types or [None] * len(images)])
    types = [] if images.types is None else sorted(set(names[anomalous].tolist()))
    left_out: list[str] = []
    if truth is not None:
        left_out += _without_masks(names[anomalous & ~truth.known].tolist(), bool(types))
        if maps is None and truth.known[anomalous].any():
            left_out.append("There are no figures over pixels: the detector makes no maps.")

    def over_pixels(chosen: NDArray[np.bool_], called: str) -> dict[str, Any] | None:
        if truth is None or maps is None or not truth.known[chosen].any():
            return None
        kept = np.flatnonzero((chosen | ~anomalous) & truth.known)
        if not any(_marked(truth, int(i)) for i in kept):
            left_out.append(
                f"The figures over pixels of {called} are left out: its masks are empty."
            )
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
    """Arrays that are made when they are asked for, so that not all are held at a time."""

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
    """Say in a line which anomalous images have no mask, if any."""
    if not names:
        return []
    counts = ", ".join(f"{name} {n}" for name, n in sorted(Counter(names).items()))
    which = f" ({counts})" if typed else ""
    have = "1 anomalous image has" if len(names) == 1 else f"{len(names):,} anomalous images have"
    return [f"The figures over pixels leave out what has no mask: {have} none{which}."]
