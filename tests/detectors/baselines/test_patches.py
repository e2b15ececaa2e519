from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf
from torch.nn import functional as F

from adcgan import OnnxScorer, load
from adcgan.data.prepare import split_held_out
from adcgan.data.ragged import Ragged
from adcgan.detectors import PatchPCA
from adcgan.detectors.baselines.patches import LEAST_VARIANCE
from adcgan.onnx.export import export_onnx
from adcgan.progress import silent

SIDES = [(80, 110), (96, 70), (64, 64), (120, 90)]
DOT = (slice(40, 52), slice(36, 48))


def photograph(seed: int, *, broken: bool = False, colour: bool = False) -> NDArray[np.uint8]:
    """Return an image of stripes of one of four sizes, with or without a chequered square."""
    rng = np.random.default_rng(seed)
    height, width = SIDES[seed % len(SIDES)]
    wave = np.sin(np.arange(width) / 6 + rng.uniform(0, 6))
    pixels = 120 + 40 * np.tile(wave, (height, 1)) + rng.normal(0, 4, (height, width))
    if broken:
        pixels[DOT] = np.kron([[30, 220, 30], [220, 30, 220], [30, 220, 30]], np.ones((4, 4)))
    grey = pixels.clip(0, 255).astype(np.uint8)
    return np.stack([grey, grey // 2, 255 - grey], axis=2) if colour else grey


def photographs(seeds: range, **options: bool) -> list[NDArray[np.uint8]]:
    return [photograph(seed, **options) for seed in seeds]


NORMAL, FINE = photographs(range(30)), photographs(range(100, 108))
BROKEN = photographs(range(100, 108), broken=True)


def fitted(images: Any = NORMAL, **options: Any) -> PatchPCA:
    settings = {"fpr": 0.5, "device": "cpu", **options}
    return PatchPCA(**settings).fit(images, progress=silent)


def test_photographs_of_any_size_get_maps_of_theirs_that_point_at_the_defect() -> None:
    detector = fitted()
    assert detector.decision_function(BROKEN).min() > detector.decision_function(FINE).max()
    maps = detector.anomaly_map(BROKEN)
    assert isinstance(maps, Ragged)
    assert maps.shapes == [image.shape for image in BROKEN]
    for heat in maps:
        row, column = np.unravel_index(heat.argmax(), heat.shape)
        assert abs(row - 46) <= 12
        assert abs(column - 42) <= 12


def test_a_distance_is_the_mahalanobis_distance_of_the_patch_by_scikit_learns_covariance() -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 40, 36), dtype=np.uint8)
    model = fitted(images, patch_size=3, shrink=2).model_
    x = torch.from_numpy(images[:, None]) / 255
    patches = [F.unfold(one[None], 3)[0].T.double().numpy() for one in model.prepared(x)]
    # All patches of the images trained on, which are fewer than are drawn at most.
    learned = np.concatenate([patches[i] for i in split_held_out(20, 0.1, 0).train])
    reference = LedoitWolf().fit(learned)
    inverse = np.linalg.inv(reference.covariance_ + LEAST_VARIANCE * np.eye(9))
    apart = patches[0] - reference.location_
    expected = np.sqrt(np.einsum("ni,ij,nj->n", apart, inverse, apart)).reshape(20, 18)
    whitened = F.conv2d(model.prepared(x[:1]), model.weight, model.bias)
    np.testing.assert_allclose(whitened.square().sum(1).sqrt()[0], expected, rtol=1e-3)


def test_brightness_and_contrast_of_a_whole_image_hardly_matter() -> None:
    detector = fitted()
    dim = [(image * 0.7 + 20).astype(np.uint8) for image in FINE]
    changed, as_they_are = detector.decision_function(dim), detector.decision_function(FINE)
    apart = detector.decision_function(BROKEN) - as_they_are
    assert np.abs(changed - as_they_are).max() < 0.3 * apart.min()


def test_a_loaded_model_scores_exactly_as_the_saved_one_and_any_company(tmp_path: Path) -> None:
    detector = fitted(photographs(range(30), colour=True))
    judged = photographs(range(40, 44), colour=True)
    expected = detector.decision_function(judged)
    detector.save(tmp_path)
    loaded = load(tmp_path, device="cpu")
    np.testing.assert_array_equal(loaded.decision_function(judged), expected)
    alone = [loaded.decision_function([image])[0] for image in judged]
    np.testing.assert_allclose(alone, expected, rtol=1e-5)


@pytest.mark.parametrize("colour", [False, True])
def test_an_exported_file_scores_and_maps_images_of_any_size(tmp_path: Path, colour: bool) -> None:
    pytest.importorskip("onnxruntime")
    detector = fitted(photographs(range(30), colour=colour))
    export_onnx(detector, tmp_path / "m.onnx")
    scorer = OnnxScorer(tmp_path / "m.onnx")
    judged = [*photographs(range(40, 44), colour=colour), photograph(3, colour=colour)[:33, :71]]
    expected, found = (one.assess(judged, maps=True) for one in (detector, scorer))
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-4)
    assert found.maps is not None
    assert expected.maps is not None
    for one, other in zip(found.maps, expected.maps, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
