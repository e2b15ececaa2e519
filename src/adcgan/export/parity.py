"""Whether an exported file answers as its detector does."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from adcgan.detectors import Detector
from adcgan.scoring import OnnxScorer

# A value may differ by this share of itself, or of SMALL where it is smaller.
TOLERANCE = 1e-4
SMALL = 1e-2

_OF_EACH_KIND = 8


def check_parity(detector: Detector, scorer: OnnxScorer) -> tuple[float, int]:
    """Compare everything that the two compute, on images of several kinds.

    Parameters
    ----------
    detector : Detector
        On the CPU.
    scorer : OnnxScorer
        Its exported file.

    Returns
    -------
    parity : float
        Largest difference of a score, as a share of it.
    n : int
        Images compared.

    Raises
    ------
    RuntimeError
        A value differs by more than the tolerance.
    """
    images = _images(detector)
    expected, found = detector._components_in(images), scorer._components_in(images)
    for name, values in expected.items():
        _refuse_difference(name, found[name], values)
    _refuse_difference("anomaly map", scorer._maps_in(images), detector._maps_in(images))
    made = detector._reconstructions_in(images)
    _refuse_difference("reconstruction", scorer._reconstructions_in(images), made)
    # One image alone: a graph may have taken the number of images it was traced with for fixed.
    score = np.concatenate([scorer._scores_in(images[:1]), scorer._scores_in(images[1:])])
    expected_score = detector._combine(expected)
    # Components on one scale may cancel out: what counts is what the sum is made of.
    weights = scorer.description_.score.weights
    made_of = np.sum([np.abs(weights[name] * v) for name, v in expected.items()], axis=0)
    _refuse_difference("score", score, expected_score, made_of)
    return float((np.abs(score - expected_score) / made_of.clip(SMALL)).max()), len(images)


def _refuse_difference(
    what: str,
    found: NDArray[np.floating],
    expected: NDArray[np.floating],
    scale: NDArray[np.floating] | None = None,
) -> None:
    """Raise unless the two are equal to the tolerance, relative to `scale` if given."""
    allowed = TOLERANCE * np.abs(expected if scale is None else scale).clip(SMALL)
    if found.shape == expected.shape and bool((np.abs(found - expected) <= allowed).all()):
        return
    raise RuntimeError(
        f"The exported {what} does not agree with the detector's to {TOLERANCE:g}; no file was "
        "written. Please report this, with the versions of torch and ONNX Runtime."
    )


def _images(detector: Detector) -> NDArray[np.uint8]:
    """Return images (n, C, H, W): noise, blurs, extremes, and what the detector makes of them.

    The last are the nearest to normal images that a loaded model can come up with.
    """
    rng = np.random.default_rng(0)
    shape = detector.image_shape_
    noise = rng.integers(0, 256, (_OF_EACH_KIND, *shape), dtype=np.uint8)
    coarse = rng.integers(0, 256, (_OF_EACH_KIND, shape[0], 4, 4), dtype=np.uint8)
    blurs = np.stack([[_enlarged(plane, shape[1:]) for plane in image] for image in coarse])
    levels = np.stack([np.full(shape, level, np.uint8) for level in (0, 128, 255)])
    seen = np.concatenate([noise, blurs, levels])
    made = detector._reconstructions_in(seen)
    return np.concatenate([seen, np.rint(made * 255).clip(0, 255).astype(np.uint8)])


def _enlarged(plane: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return one channel (h, w), smoothly enlarged to `shape` (H, W)."""
    size = (shape[1], shape[0])
    return np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BICUBIC))
