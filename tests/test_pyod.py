"""Detectors beside their peers: what PyOD and scikit-learn do with detectors, they do with ours."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.exceptions import NotFittedError
from sklearn.metrics import make_scorer, roc_auc_score
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.utils.validation import check_is_fitted

from adcgan import DETECTORS, Detector, load_named
from adcgan.data.prepare import split_held_out

SMALL = {"width": 0.125, "warmup_epochs": 1, "epochs": 1, "min_steps": 0, "device": "cpu"}
SETTINGS: dict[str, dict[str, Any]] = {"adcgan": SMALL, "pixel-pca": {}, "pixel-knn": {}}
each = pytest.mark.parametrize("name", SETTINGS)


@cache
def digits() -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int64]]:
    """Return zeros to train on, and other images of all digits with 0/1 labels."""
    train, test = load_named("digits", "train"), load_named("digits", "test")
    assert train.labels is not None
    assert test.labels is not None
    zeros = train.images[train.labels == 0].transpose(0, 2, 3, 1)
    return zeros, test.images.transpose(0, 2, 3, 1), (test.labels != 0).astype(np.int64)


@cache
def fitted(name: str) -> Detector:
    return DETECTORS[name](fpr=0.1, **SETTINGS[name]).fit(digits()[0])


def scores_of_all() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the scores of training and of test images, a column for each detector."""
    detectors = [fitted(name) for name in SETTINGS]
    train = np.stack([detector.decision_scores_ for detector in detectors], axis=1)
    return train, np.stack([one.decision_function(digits()[1]) for one in detectors], axis=1)


# -- PyOD --------------------------------------------------------------------------------------


@pytest.mark.peers
@each
def test_pyods_evaluation_takes_our_scores(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = pytest.importorskip("pyod.utils.data")
    _, tested, y = digits()
    scores = fitted(name).decision_function(tested)
    data.evaluate_print(name, y, scores)
    printed = capsys.readouterr().out
    assert printed.startswith(f"{name} ROC:{np.round(roc_auc_score(y, scores), 4)},")
    assert "precision @ rank n:" in printed


@pytest.mark.peers
@each
def test_pyod_takes_ours_for_a_detector(name: str) -> None:
    pytest.importorskip("pyod.utils.utility").check_detector(fitted(name))


@pytest.mark.peers
def test_pyods_combinations_take_our_scores() -> None:
    pytest.importorskip("combo", reason="PyOD combines through the package combo")
    combination = pytest.importorskip("pyod.models.combination")
    utility = pytest.importorskip("pyod.utils.utility")
    train, test = utility.standardizer(*scores_of_all())
    assert np.allclose(train.mean(0), 0)
    np.testing.assert_allclose(combination.average(test), test.mean(1))
    np.testing.assert_array_equal(combination.maximization(test), test.max(1))
    assert roc_auc_score(digits()[2], combination.average(test)) > 0.9


@pytest.mark.peers
def test_pixel_knn_gives_the_scores_of_pyods_knn() -> None:
    knn = pytest.importorskip("pyod.models.knn")
    zeros, tested, _ = digits()
    ours = fitted("pixel-knn")
    used = split_held_out(len(zeros), ours.validation_fraction, ours.random_state).train
    theirs = knn.KNN(n_neighbors=5, method="largest").fit(zeros[used].reshape(len(used), -1) / 255)
    expected = theirs.decision_function(tested.reshape(len(tested), -1) / 255)
    np.testing.assert_allclose(ours.decision_function(tested), expected, rtol=1e-9)


@pytest.mark.peers
@each
def test_contamination_gives_the_labels_of_pyods_rule(name: str) -> None:
    utility = pytest.importorskip("pyod.utils.utility")
    detector = DETECTORS[name](contamination=0.1, **SETTINGS[name]).fit(digits()[0])
    expected = utility.score_to_label(detector.decision_scores_, outliers_fraction=0.1)
    np.testing.assert_array_equal(detector.labels_, expected)


# -- scikit-learn ------------------------------------------------------------------------------


@each
def test_check_is_fitted_tells_a_fitted_detector(name: str) -> None:
    check_is_fitted(fitted(name))
    with pytest.raises(NotFittedError):
        check_is_fitted(DETECTORS[name]())


@each
def test_a_deep_copy_scores_alike_and_is_a_detector_of_its_own(name: str) -> None:
    detector, tested = fitted(name), digits()[1]
    other = copy.deepcopy(detector)
    other.threshold_ = np.inf
    np.testing.assert_array_equal(
        other.decision_function(tested), detector.decision_function(tested)
    )
    assert detector.predict(tested).any()


def test_a_detector_is_shown_by_what_differs_from_its_defaults() -> None:
    assert repr(DETECTORS["pixel-knn"](n_neighbors=3)) == "PixelKNN(n_neighbors=3)"


def test_grid_search_chooses_a_parameter_on_labelled_images() -> None:
    zeros, tested, y = digits()
    images, labels = np.concatenate([zeros, tested]), np.concatenate([np.zeros(len(zeros)), y])
    parts = PredefinedSplit(np.repeat([-1, 0], [len(zeros), len(tested)]))
    scorer = make_scorer(roc_auc_score, response_method="decision_function")
    search = GridSearchCV(
        DETECTORS["pixel-knn"](fpr=0.1),
        {"n_neighbors": [1, 5]},
        scoring=scorer,
        cv=parts,
        refit=False,
        error_score="raise",
    ).fit(images, labels)
    assert search.best_params_["n_neighbors"] in (1, 5)
    assert search.best_score_ > 0.9
