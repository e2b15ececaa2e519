from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import NearestNeighbors

from adcgan.data.prepare import split_held_out
from adcgan.detectors import PixelIsolationForest, PixelKNN, PixelPCA, load
from adcgan.errors import InputError
from adcgan.progress import silent

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)
NEW = RNG.integers(0, 256, (300, 16, 16, 3), dtype=np.uint8)
TRAINED_ON = split_held_out(60, 0.1, 0).train


def rows(images):
    """Return pixels in [0, 1], channels first, as the detectors see them."""
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1) / 255


def fitted(system, **options):
    return system(fpr=0.5, **options).fit(IMAGES, progress=silent)


def test_pca_agrees_with_scikit_learn():
    scores = fitted(PixelPCA, n_components=7).decision_function(NEW)
    pca = PCA(7, random_state=0).fit(rows(IMAGES)[TRAINED_ON])
    error = rows(NEW) - pca.inverse_transform(pca.transform(rows(NEW)))
    np.testing.assert_allclose(scores, (error**2).mean(1), rtol=1e-9)


def test_knn_agrees_with_scikit_learn():
    scores = fitted(PixelKNN, n_neighbors=3).decision_function(NEW)
    search = NearestNeighbors(n_neighbors=3).fit(rows(IMAGES)[TRAINED_ON])
    np.testing.assert_allclose(scores, search.kneighbors(rows(NEW))[0][:, -1], rtol=1e-9)


def test_isolation_forest_agrees_with_scikit_learn():
    scores = fitted(PixelIsolationForest, n_estimators=30, random_state=4).decision_function(NEW)
    trained_on = split_held_out(60, 0.1, 4).train
    forest = IsolationForest(n_estimators=30, random_state=4)
    forest.fit(rows(IMAGES)[trained_on] * 255)
    np.testing.assert_allclose(scores, -forest.score_samples(rows(NEW) * 255), rtol=1e-9)


def test_knn_distance_to_a_training_image_is_exactly_zero():
    scores = fitted(PixelKNN, n_neighbors=1).decision_function(IMAGES[TRAINED_ON])
    assert (scores == 0).all()


def test_settings_that_few_images_cannot_fill_are_cut_to_what_there_is():
    few = IMAGES[:4]
    knn = PixelKNN(n_neighbors=50, fpr=0.5).fit(few, progress=silent)
    assert knn.model_.neighbors.n_neighbors == 3
    pca = PixelPCA(n_components=50, fpr=0.5).fit(few, progress=silent)
    assert pca.model_.components.shape[0] == 3


def test_pca_map_sums_to_the_score_of_the_image():
    detector = fitted(PixelPCA, n_components=7)
    heat = detector.anomaly_map(NEW[:5]).astype(np.float64)
    expected = detector.decision_function(NEW[:5]) * 16 * 16 * 3
    np.testing.assert_allclose(heat.sum((1, 2)), expected, rtol=1e-5)


@pytest.mark.parametrize("system", [PixelKNN, PixelIsolationForest])
def test_systems_without_reconstruction_say_so(system):
    detector = fitted(system)
    with pytest.raises(InputError, match="does not reconstruct"):
        detector.reconstruct(NEW[:2])
    with pytest.raises(InputError, match="anomaly maps"):
        detector.anomaly_map(NEW[:2])


@pytest.mark.parametrize("system", [PixelPCA, PixelKNN, PixelIsolationForest])
def test_model_folder_holds_arrays_and_text_alone(system, tmp_path):
    fitted(system).save(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".md", ".safetensors"}
    scores = load(tmp_path).decision_function(NEW)
    np.testing.assert_array_equal(scores, fitted(system).decision_function(NEW))
