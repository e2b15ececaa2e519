"""Whether an exported file agrees with its detector."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from adcgan.detectors import Model
from adcgan.onnx.scorer import OnnxBackend

# A value may differ by this share of itself, or of SMALL where it is smaller.
TOLERANCE = 1e-4
SMALL = 1e-2

_OF_EACH_KIND = 8


def check_parity(model: Model, written: OnnxBackend) -> tuple[float, int]:
    """Compare all outputs on images of several kinds.

    Parameters
    ----------
    model : Model
        On the CPU.
    written : OnnxBackend
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
    images = _images(model)
    expected, found = model.scored(images), written.scored(images)
    for name, values in expected.components.items():
        _refuse_difference(name, found.components[name], values)
    if expected.anomaly_map is not None:
        _refuse_difference("anomaly map", found.anomaly_map, expected.anomaly_map)
    if expected.reconstruction is not None:
        # A picture in [0, 1], in which what is nearly black may be a sum of large terms.
        white = np.ones_like(expected.reconstruction)
        _refuse_difference("reconstruction", found.reconstruction, expected.reconstruction, white)
    # One image alone: a graph may have taken the number of images it was traced with for fixed.
    score = np.concatenate([written.scores(images[:1]), written.scores(images[1:])])
    expected_score = model.combine(expected.components)
    # Components on one scale may cancel out: what counts is what the sum is made of.
    weights = written.description.score.weights
    made_of = np.sum([np.abs(weights[name] * v) for name, v in expected.components.items()], axis=0)
    _refuse_difference("score", score, expected_score, made_of)
    return float((np.abs(score - expected_score) / made_of.clip(SMALL)).max()), len(images)


def _refuse_difference(
    what: str,
    found: NDArray[np.floating] | None,
    expected: NDArray[np.floating],
    scale: NDArray[np.floating] | None = None,
) -> None:
    """Raise unless the two are equal to the tolerance, relative to `scale` if given."""
    allowed = TOLERANCE * np.abs(expected if scale is None else scale).clip(SMALL)
    if (
        found is not None
        and found.shape == expected.shape
        and bool((np.abs(found - expected) <= allowed).all())
    ):
        return
    raise RuntimeError(
        f"The exported {what} does not agree with the detector's to {TOLERANCE:g}; no file was "
        "written. Please report this, with the versions of torch and ONNX Runtime."
    )


def _images(model: Model) -> NDArray[np.uint8]:
    """Return images (n, C, H, W): noise, blurs, extremes, and what the model makes of them.

    The last are the nearest to normal images that a loaded model can come up with.
    """
    rng = np.random.default_rng(0)
    shape = model.shape
    noise = rng.integers(0, 256, (_OF_EACH_KIND, *shape), dtype=np.uint8)
    coarse = rng.integers(0, 256, (_OF_EACH_KIND, shape[0], 4, 4), dtype=np.uint8)
    blurs = np.stack([[_enlarged(plane, shape[1:]) for plane in image] for image in coarse])
    levels = np.stack([np.full(shape, level, np.uint8) for level in (0, 128, 255)])
    seen = np.concatenate([noise, blurs, levels])
    made = model.scored(seen).reconstruction
    if made is None:
        return seen
    return np.concatenate([seen, np.rint(made * 255).clip(0, 255).astype(np.uint8)])


def _enlarged(plane: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return one channel (h, w), smoothly enlarged to `shape` (H, W)."""
    size = (shape[1], shape[0])
    return np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BICUBIC))
