"""What candidates are judged on: held-out normal images, and anomalies made from them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from adcgan.benchmark.metrics import auroc, auroc_interval
from adcgan.data import ImageSet
from adcgan.data.planted import CONTENTS, DEFECTS, other_content, planted
from adcgan.errors import InputError

if TYPE_CHECKING:
    from adcgan.scoring import Scorer

Image = NDArray[np.uint8]

# Of all normal images, those that are judged and never learned from; at most and at least so many.
HELD_OUT_SHARE, MOST_HELD_OUT, LEAST_HELD_OUT = 0.2, 100, 4
# What a comparison needs to begin: some to learn from, some held out.
LEAST_IMAGES = 12
# Photographs are judged, and learned from, with a longer side of so many pixels at most.
LONGEST_SIDE = 1024
# Pixels of all images that one candidate judges: what the slowest takes a minute or two for.
MOST_PIXELS = 100_000_000
# A defect's lengths, to those that `adcgan.data.planted` gives it.
SIZES = (0.5, 1.0, 2.0)
# Of the user's own anomalies: at most this many of a kind.
MOST_OWN = 100
# A size is found if so much of it is.
FOUND = 0.5


@dataclass(frozen=True, eq=False)
class Judged:
    """Images that candidates are judged on.

    Attributes
    ----------
    normal : list of ndarray of uint8 (H, W, C)
        Held out: no candidate learns from them.
    defects : dict of str to list of ndarray
        For each kind in `adcgan.data.planted.DEFECTS`, each of the normal images with one in it.
    size : dict of str to ndarray of float64 (n,)
        Which of `SIZES` each has.
    extent : dict of str to ndarray of float64 (n,)
        The longer side of the box around each, in pixels of the image.
    contents : dict of str to list of ndarray
        For each kind in `adcgan.data.planted.CONTENTS`, each of the normal images changed so.
    own : dict of str to list of ndarray
        The user's own anomalies by type.
    """

    normal: list[Image]
    defects: dict[str, list[Image]]
    size: dict[str, NDArray[np.float64]]
    extent: dict[str, NDArray[np.float64]]
    contents: dict[str, list[Image]]
    own: dict[str, list[Image]]


def held_out(images: ImageSet, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Divide normal images.

    Parameters
    ----------
    images : ImageSet
        As they will be judged.
    seed : int
        Decides which.

    Returns
    -------
    learned, judged : ndarray of intp
        Ascending indices, without one in common.

    Raises
    ------
    InputError
        There are fewer than 12 images.
    """
    n = len(images)
    if n < LEAST_IMAGES:
        raise InputError(
            f"A comparison needs at least {LEAST_IMAGES} readable normal images: some to learn "
            f"from and some to judge by. Got {n} in {images.source}."
        )
    _, height, width = images.shape
    passes = 1 + len(DEFECTS) + len(CONTENTS)
    affordable = max(MOST_PIXELS // (passes * height * width), 2 * LEAST_HELD_OUT)
    count = min(max(LEAST_HELD_OUT, round(HELD_OUT_SHARE * n)), MOST_HELD_OUT, affordable)
    order = np.random.default_rng(seed).permutation(n)
    return np.sort(order[count:]), np.sort(order[:count])


def judged_images(
    images: ImageSet,
    judged: NDArray[np.intp],
    own: ImageSet | None,
    seed: int,
) -> Judged:
    """Make what candidates are judged on.

    Parameters
    ----------
    images : ImageSet
        Normal images.
    judged : ndarray of intp
        Those of them that `held_out` held out.
    own : ImageSet or None
        Anomalies that the user has, with types where they are known.
    seed : int
        Decides every defect.
    """
    normal = [_upright(images, i) for i in judged]
    defects, size, extent = {}, {}, {}
    for number, kind in enumerate(DEFECTS):
        rng = np.random.default_rng([seed, number])
        size[kind] = np.array([SIZES[(i + number) % len(SIZES)] for i in range(len(normal))])
        made = [planted(x, kind, rng, float(s)) for x, s in zip(normal, size[kind], strict=True)]
        defects[kind] = [damaged for damaged, _ in made]
        extent[kind] = np.array([_extent(where) for _, where in made], dtype=np.float64)
    contents = {}
    for number, kind in enumerate(CONTENTS, start=len(DEFECTS)):
        rng = np.random.default_rng([seed, number])
        contents[kind] = [other_content(x, kind, rng) for x in normal]
    return Judged(normal, defects, size, extent, contents, _by_type(own, seed))


def figures(detector: Scorer, judged: Judged) -> dict[str, Any]:
    """Return what a fitted detector says of the judged images.

    Parameters
    ----------
    detector : Scorer
        Fitted on none of them.
    judged : Judged
        What `judged_images` returned.

    Returns
    -------
    dict
        JSON-ready. ``defects``, ``contents`` and ``own``: by kind ``n``, ``auroc``, ``auroc_ci95``
        and ``caught`` (share above the threshold in force). ``sizes``: the same for the defects of
        each size, with ``size`` and ``extent`` (their median, in pixels). ``smallest`` (pixels, or
        None): the extent of the smallest size of which half is caught. ``false_alarms``: the
        share of held-out normal images above the threshold. ``budget``: what it
        may be, as far as the calibration images allow. ``images_a_second``: scored.
    """

    def scored(images: Sequence[Image]) -> NDArray[np.float64]:
        # Arrays that were learned from as they came are scored as they come.
        return detector.decision_function(list(images) if detector.resized_ else np.stack(images))

    start = time.perf_counter()
    normal = scored(judged.normal)
    seconds = time.perf_counter() - start
    by_kind = {kind: scored(images) for kind, images in judged.defects.items()}
    defects = {kind: against(normal, scores, detector) for kind, scores in by_kind.items()}
    together = np.concatenate(list(by_kind.values()))
    size = np.concatenate([judged.size[kind] for kind in by_kind])
    extent = np.concatenate([judged.extent[kind] for kind in by_kind])
    sizes = [
        {
            "size": one,
            "extent": float(np.median(extent[size == one])),
            **against(normal, together[size == one], detector),
        }
        for one in SIZES
    ]
    found = [row["extent"] for row in sizes if row["caught"] >= FOUND]
    own = {kind: scored(images) for kind, images in judged.own.items()}
    if len(own) > 1:
        own["all"] = np.concatenate(list(own.values()))
    return {
        "defects": defects,
        "sizes": sizes,
        "smallest": min(found, default=None),
        "contents": {
            kind: against(normal, scored(images), detector)
            for kind, images in judged.contents.items()
        },
        "own": {kind: against(normal, scores, detector) for kind, scores in own.items()},
        "false_alarms": float((normal > detector.threshold_).mean()),
        "budget": detector.fpr_,
        "images_a_second": len(normal) / seconds,
    }


def against(
    normal: NDArray[np.float64], anomalous: NDArray[np.float64], detector: Scorer
) -> dict[str, Any]:
    """Return the figures of anomalous scores against normal ones."""
    labels = np.repeat([0, 1], [len(normal), len(anomalous)])
    scores = np.concatenate([normal, anomalous])
    return {
        "n": len(anomalous),
        "auroc": auroc(labels, scores),
        "auroc_ci95": list(auroc_interval(labels, scores)),
        "caught": float((anomalous > detector.threshold_).mean()),
    }


def _upright(images: ImageSet, i: int | np.intp) -> Image:
    """Return an image (H, W, C)."""
    return np.ascontiguousarray(images.images[int(i)].transpose(1, 2, 0))


def _extent(where: NDArray[np.bool_]) -> int:
    """Return the longer side of the box around the marked pixels."""
    return max(int(np.ptp(np.flatnonzero(where.any(axis)))) + 1 for axis in (0, 1))


def _by_type(own: ImageSet | None, seed: int) -> dict[str, list[Image]]:
    """Return the user's anomalies by type, of each as many as are judged."""
    if own is None or not len(own):
        return {}
    names = np.array([kind or "anomalous" for kind in own.types or [None] * len(own)])
    rng = np.random.default_rng(seed)
    chosen = {}
    for kind in sorted(set(names.tolist())):
        index = rng.permutation(np.flatnonzero(names == kind))[:MOST_OWN]
        chosen[kind] = [_upright(own, i) for i in np.sort(index)]
    return chosen
