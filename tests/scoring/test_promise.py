"""p-values promise P(p ≤ a) ≤ a for every detector, however few images calibrate it.

Simulated: a fitted detector, and normal images that it never saw, of which each trial draws some to
measure the scale and the rules with, some to calibrate with, and some to judge.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from adcgan import DETECTORS, Detector
from adcgan.data.prepare import divided, split_held_out
from adcgan.detectors import SelfSupervisedADCGAN
from adcgan.detectors.selfsupervised import SelfSupervisedModel, informed
from adcgan.scoring import conformal_p_values

QUICK: dict[str, Any] = {
    "width": 0.06,
    "batch_size": 16,
    "warmup_epochs": 1,
    "epochs": 1,
    "min_steps": 0,
    "warmup_steps": 2,
    "search_steps": 1,
    "restarts": 1,
    "feature_size": 32,
    "fpr": 0.5,
    "device": "cpu",
}
CASES = {name: (name, {}) for name in DETECTORS} | {
    "adcgan, normalised": ("adcgan", {"normalise": "validation"})
}
POOL, TRIALS, JUDGED = 400, 3000, 20

Components = dict[str, NDArray[np.float64]]
# From the images that measure scales and rules to the scores of all images of the pool.
Scores = Callable[[NDArray[np.int64]], NDArray[np.float64]]


def discs(n: int, seed: int) -> NDArray[np.uint8]:
    """Return soft discs (n, 16, 16) near the middle, of several sizes, with some noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:16, :16]
    centre, size = rng.uniform(6, 10, (n, 2, 1, 1)), rng.uniform(8, 30, (n, 1, 1))
    distance = (y - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2
    return np.uint8(200 * np.exp(-distance / size) + rng.uniform(0, 30, (n, 16, 16)))


@cache
def scorer(case: str) -> Scores:
    """Return what scores the pool, for the detector of a case."""
    name, settings = CASES[case]
    known = {key: value for key, value in QUICK.items() if key in DETECTORS[name].rules()}
    detector: Detector = DETECTORS[name](**{**known, **settings}).fit(discs(60, 0))
    pool = discs(POOL, 1)[:, None]
    model = detector.model_
    if model.scale is None:
        fixed = model.combine(detector.components_of(pool))
        return lambda _: fixed
    scale = model.scale
    if not isinstance(model, SelfSupervisedModel):
        parts = detector.components_of(pool)

        def scaled(scaling: NDArray[np.int64]) -> NDArray[np.float64]:
            scale.measure({key: values[scaling] for key, values in parts.items()})
            return model.combine(parts)

        return scaled

    # The rule says which questions count in recognition: all the components, for each answer.
    with torch.no_grad():
        right = torch.cat([model._right(x) for x in model.batches(pool)])
    by_rule: dict[tuple[bool, ...], Components] = {}

    def ruled(scaling: NDArray[np.int64]) -> NDArray[np.float64]:
        known = informed(right[scaling], model.critic.task)
        key = tuple(known.tolist())
        if key not in by_rule:
            model.informed = known
            by_rule[key] = detector.components_of(pool)
        scale.measure({k: values[scaling] for k, values in by_rule[key].items()})
        return model.combine(by_rule[key])

    return ruled


def share_at(case: str, m: int, *, apart: bool = True) -> float:
    """Return the share of unseen normal images whose p-value is the least there is, 1/(m + 1)."""
    scores_of, rng = scorer(case), np.random.default_rng(m)
    n_scaling = max(m // 3, 1)
    found = 0.0
    for _ in range(TRIALS):
        drawn = rng.permutation(POOL)
        calibration, judged = drawn[:m], drawn[m : m + JUDGED]
        scaling = drawn[m + JUDGED :][:n_scaling] if apart else calibration
        scores = scores_of(scaling)
        p = conformal_p_values(scores[judged], scores[calibration])
        found += float((p <= 1 / (m + 1)).mean())
    return found / TRIALS


def allowed(m: int) -> float:
    """Return the promise, and four standard errors of the simulation."""
    a = 1 / (m + 1)
    # A trial's share has the variance of Beta(1, m), and that of the few images judged.
    variance = a * (1 - a) / (m + 2) + a * (1 - a) / JUDGED
    return a + 4 * float(np.sqrt(variance / TRIALS))


def cases() -> list[Any]:
    found = []
    for case, (name, _) in CASES.items():
        packages = DETECTORS[name].packages
        missing = any(find_spec(package) is None for package in packages)
        marks = [pytest.mark.peers, pytest.mark.skipif(missing, reason="needs an extra")]
        found.append(pytest.param(case, marks=marks if packages else ()))
    return found


@pytest.mark.parametrize("case", cases())
@pytest.mark.parametrize("m", [3, 9, 19, 99])
def test_no_more_normal_images_have_a_small_p_value_than_promised(case: str, m: int) -> None:
    assert share_at(case, m) <= allowed(m)


@pytest.mark.parametrize("case", ["adcgan-ss", "adcgan, normalised"])
def test_a_scale_measured_on_the_calibration_images_breaks_the_promise(case: str) -> None:
    # So the simulation sees what it is there to see.
    assert share_at(case, 3, apart=False) > allowed(3)


@pytest.mark.parametrize(
    "detector",
    [
        SelfSupervisedADCGAN(width=0.06, warmup_steps=1, epochs=1, min_steps=2, fpr=0.5),
        DETECTORS["adcgan"](
            width=0.06, warmup_epochs=1, epochs=1, min_steps=0, normalise="validation", fpr=0.5
        ),
    ],
    ids=["adcgan-ss", "adcgan"],
)
def test_fit_measures_the_scale_on_images_that_calibrate_nothing(detector: Detector) -> None:
    images = discs(90, 2)
    detector.set_params(validation_fraction=0.2, device="cpu").fit(images)
    scaling, calibration = divided(split_held_out(90, 0.2, 0).held_out, 0)
    assert (len(scaling), len(calibration)) == (4, 14)
    assert not set(scaling) & set(calibration)
    assert detector.n_calibration_ == 14
    components = detector.score_components(images[scaling])
    assert detector.model_.scale is not None
    for name, values in components.items():
        assert detector.model_.scale.location[name] == pytest.approx(values.mean(), rel=1e-4)
    np.testing.assert_allclose(
        detector.calibration_scores_,
        np.sort(detector.decision_function(images[calibration])),
        rtol=1e-4,
        atol=1e-4,
    )


def test_with_very_few_held_out_images_all_calibrate() -> None:
    detector = SelfSupervisedADCGAN(
        width=0.06, warmup_steps=1, epochs=1, min_steps=2, fpr=0.5, device="cpu"
    ).fit(discs(12, 3))
    assert detector.n_calibration_ == 1
    assert np.isfinite(detector.decision_function(discs(5, 4))).all()
