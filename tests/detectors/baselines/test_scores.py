from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from adcgan.detectors import (
    ADGAN,
    AEGAN,
    ALAD,
    EGBAD,
    AnoGAN,
    Detector,
    PatchPCA,
    PixelIsolationForest,
    PixelKNN,
    PixelPCA,
    RobustAutoencoder,
    load,
)
from adcgan.progress import silent

SIZE = 16
TINY = {"width": 0.1, "batch_size": 16, "epochs": 1, "min_steps": 100, "lr": 2e-3}
SYSTEMS: dict[type[Detector], dict[str, object]] = {
    ALAD: TINY,
    ADGAN: TINY | {"min_steps": 40, "restarts": 2},
    AEGAN: TINY,
    AnoGAN: TINY | {"search_steps": 40, "lr_search": 0.1},
    EGBAD: TINY,
    RobustAutoencoder: TINY,
    PixelPCA: {"n_components": 4},
    PixelKNN: {},
    PixelIsolationForest: {"n_estimators": 20},
    PatchPCA: {"patch_size": 4, "shrink": 1},
}
PARTS = {
    ALAD: {"features"},
    ADGAN: {"residual"},
    AEGAN: {"residual", "features", "encoded"},
    AnoGAN: {"residual", "features"},
    EGBAD: {"residual", "features"},
    RobustAutoencoder: {"residual"},
    PixelPCA: {"residual"},
    PixelKNN: {"distance"},
    PixelIsolationForest: {"isolation"},
    PatchPCA: {"peak"},
}


def spots(n: int, seed: int) -> NDArray[np.uint8]:
    """Return images (n, 16, 16) of one bright spot on black, near the middle."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    y, x = rng.uniform(6, 9, (2, n, 1, 1))
    return (255 * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 12)).astype(np.uint8)


NORMAL, ANOMALOUS = spots(20, 1), 255 - spots(20, 2)


@pytest.fixture(scope="module", params=SYSTEMS, ids=lambda system: system.__name__)
def fitted(request) -> Detector:
    detector = request.param(**SYSTEMS[request.param], fpr=0.2, device="cpu")
    return detector.fit(spots(80, 0), progress=silent)


def test_anomalous_images_score_higher(fitted):
    scores = fitted.decision_function(np.concatenate([NORMAL, ANOMALOUS]))
    above = scores[20:, None] > scores[None, :20]
    assert above.mean() > 0.9


def test_score_is_made_of_its_named_parts(fitted):
    parts = fitted.score_components(NORMAL)
    assert set(parts) == PARTS[type(fitted)]
    assert all(part.shape == (20,) and part.dtype == np.float64 for part in parts.values())
    np.testing.assert_array_equal(fitted.backend.combine(parts), fitted.decision_function(NORMAL))


def test_score_depends_on_the_image_alone(fitted):
    images = np.concatenate([NORMAL, ANOMALOUS])
    together = fitted.decision_function(images)
    np.testing.assert_allclose(fitted.decision_function(images[::-1]), together[::-1], rtol=1e-5)
    alone = [fitted.decision_function(images[i : i + 1])[0] for i in (0, 7, 30)]
    np.testing.assert_allclose(alone, together[[0, 7, 30]], rtol=1e-5)


def test_loaded_model_scores_exactly_as_the_saved_one(fitted, tmp_path):
    fitted.save(tmp_path / "model")
    loaded = load(tmp_path / "model", device="cpu")
    assert type(loaded) is type(fitted)
    assert loaded.threshold_ == fitted.threshold_
    np.testing.assert_array_equal(
        loaded.decision_function(NORMAL), fitted.decision_function(NORMAL)
    )


@pytest.mark.parametrize(
    ("system", "weights"),
    [
        (AEGAN, {"residual": 0.7, "features": 0.3, "encoded": 2.0}),
        (AnoGAN, {"residual": 0.7, "features": 0.3}),
        (EGBAD, {"residual": 0.7, "features": 0.3}),
    ],
)
def test_parts_are_weighed_as_published(system, weights):
    options = {"lam": 0.3} | ({"beta": 2.0} if system is AEGAN else {})
    parts = {key: np.array([1.0 + place]) for place, key in enumerate(weights)}
    expected = sum(weights[key] * parts[key] for key in weights)
    np.testing.assert_allclose(system(**options).make_model((1, 16, 16)).combine(parts), expected)
