"""What a detector's file says of it, with its score as a weighted sum of the components."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from adcgan import __version__
from adcgan.detectors import Detector
from adcgan.errors import InputError
from adcgan.scoring.onnx_file import INPUT, MAP, RECONSTRUCTION, SCORE, Description, Weighing
from adcgan.scoring.scorer import Components

_PROBES = 16


def describe(detector: Detector) -> Description:
    """Return the metadata of a fitted detector's file.

    Raises
    ------
    InputError
        Its score is no weighted sum of its components.
    """
    black = np.zeros((1, *detector.image_shape_), dtype=np.uint8)
    components = list(detector._components_in(black))
    assert not {INPUT, SCORE, MAP, RECONSTRUCTION} & set(components)
    variants = detector.score_variants({name: np.ones(1) for name in components})
    return Description(
        version=__version__,
        detector=type(detector).__name__,
        parameters=detector.get_params(),
        image_shape=detector.image_shape_,
        resize=detector.resize,
        resized=detector.resized_,
        n_train=detector.n_train_,
        threshold=float(detector.threshold_),
        fpr=None if detector.fpr_ is None else float(detector.fpr_),
        calibration_scores=detector.calibration_scores_.tolist(),
        components=components,
        score=weighing(detector._combine, components),
        variants={name: weighing(_variant(detector, name), components) for name in variants},
    )


def weighing(
    combine: Callable[[Components], NDArray[np.float64]], components: list[str]
) -> Weighing:
    """Read off how `combine` weighs `components` by asking it, and verify that it is a sum.

    Parameters
    ----------
    combine : callable
        Makes scores (n,) of components (n,) each.
    components : list of str
        Their names.

    Returns
    -------
    Weighing

    Raises
    ------
    InputError
        It is no weighted sum.
    """
    n = len(components)
    # The first row is all zeros, row k + 1 has a one in component k, the others are random.
    random = np.random.default_rng(0).uniform(0, 100, (_PROBES, n))
    rows = np.concatenate([np.zeros((1, n)), np.eye(n), random])
    probes = dict(zip(components, rows.T, strict=True))
    scores = combine(probes)
    slopes = scores[1 : n + 1] - scores[0]
    found = Weighing(dict(zip(components, slopes.tolist(), strict=True)), float(scores[0]))
    if not np.allclose(found(probes), scores, rtol=1e-9, atol=1e-9 * np.abs(scores).max()):
        raise InputError(
            "A detector can be exported if its score is a weighted sum of its components "
            f"({', '.join(components)}). This one's is not."
        )
    return found


def _variant(detector: Detector, name: str) -> Callable[[Components], NDArray[np.float64]]:
    """Return the function that makes the score variant `name`."""
    return lambda components: detector.score_variants(components)[name]
