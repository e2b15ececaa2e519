"""Every map points at a defect that was planted, far more often than by chance."""

from __future__ import annotations

import inspect
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter

from adcgan import DETECTORS, Detector, load_named

# Enough to point at something, in seconds.
SMALL: dict[str, Any] = {
    "width": 0.125,
    "warmup_epochs": 1,
    "epochs": 15,
    "min_steps": 150,
    "crop": 64,
    "memory": 256,
    "fpr": 0.5,
    "device": "cpu",
}
MOST_PLANTED = 20
TIMES_CHANCE = 5
# Their reconstructions are of little use before minutes of training: benchmarks/planted_defects.py.
SLOW_LEARNERS = {"alad", "adgan", "anogan", "egbad"}
# Learns in a minute; test_local.py has a quick test of where its maps point.
SLOW = {"adcgan-local"}


def digits() -> NDArray[np.uint8]:
    """Return handwritten zeros (n, 16, 16)."""
    found = load_named("digits", "train")
    assert found.labels is not None
    return found.images[found.labels == 0, 0]


def photographs() -> NDArray[np.uint8]:
    """Return photographs (n, 320, 384) of brushed metal."""
    rng = np.random.default_rng(0)
    pixels = 110 + rng.normal(0, 12, (60, 1, 384)) + rng.normal(0, 6, (60, 320, 384))
    return pixels.clip(0, 255).astype(np.uint8)


def with_squares(images: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return images (n, H, W) of which a 16th is inverted in one place, and where or next to it.

    Next to it is within a 25th of the longer side: what is wrong with a square may be its edge.
    """
    rng = np.random.default_rng(0)
    changed, where = images.copy(), np.zeros(images.shape, bool)
    height, width = (side // 4 for side in images.shape[1:])
    for image, mask in zip(changed, where, strict=True):
        top, left = (
            rng.integers(0, image.shape[0] - height),
            rng.integers(0, image.shape[1] - width),
        )
        square = (slice(top, top + height), slice(left, left + width))
        image[square] = 255 - image[square]
        mask[square] = True
        mask[:] = maximum_filter(mask, 2 * (max(mask.shape) // 25) + 1)
    return changed, where


def marks(name: str, kind: type[Detector]) -> list[pytest.MarkDecorator]:
    """Return the marks of a detector's case."""
    return [pytest.mark.peers] * bool(kind.packages) + [pytest.mark.matrix] * (name in SLOW)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=marks(name, kind))
        for name, kind in DETECTORS.items()
        if name not in SLOW_LEARNERS
    ],
)
def test_the_peak_lies_in_a_planted_square_far_more_often_than_by_chance(name: str) -> None:
    kind = DETECTORS[name]
    if any(find_spec(package) is None for package in kind.packages):
        pytest.skip(f"{name} needs {', '.join(kind.packages)}")
    known = inspect.signature(kind).parameters
    settings = {key: value for key, value in SMALL.items() if key in known}
    whole = "resize" in known and known["resize"].default == "keep"
    images = photographs() if whole else digits()
    detector = kind(**settings).fit(images[:-MOST_PLANTED])
    if detector.calibration_peaks_ is None:
        pytest.skip(f"{name} makes no maps")
    planted, masks = with_squares(images[-MOST_PLANTED:])
    maps = detector.assess(planted, maps=True).maps
    assert maps is not None
    assert np.shape(maps) == masks.shape
    peaks = np.reshape(maps, (MOST_PLANTED, -1)).argmax(1)
    hits = masks.reshape(MOST_PLANTED, -1)[np.arange(MOST_PLANTED), peaks].mean()
    assert hits > TIMES_CHANCE * masks.mean(), f"{name}: {hits:.0%}, chance {masks.mean():.0%}"
