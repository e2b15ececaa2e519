from __future__ import annotations

import math

import numpy as np
import pytest

from adcgan.errors import InputError
from adcgan.scoring import (
    conformal_p_values,
    contamination_threshold,
    false_alarm_interval,
    images_needed,
    smallest_budget,
    threshold_for_budget,
)

BUDGETS = [0.001, 0.01, 0.05, 0.07, 0.1, 0.29, 1 / 49, 0.5, 0.57, 0.58, 0.999]


def test_p_values_count_calibration_scores_at_least_as_high() -> None:
    rng = np.random.default_rng(0)
    # Few distinct values, so that ties are common.
    calibration, scores = rng.integers(0, 6, 23), rng.integers(-2, 8, 40)
    expected = [(1 + sum(c >= s for c in calibration)) / 24 for s in scores]
    np.testing.assert_array_equal(conformal_p_values(scores, calibration), expected)


def test_p_values_range_from_the_smallest_budget_to_one() -> None:
    calibration = np.array([3.0, 1.0, 2.0])
    p_values = conformal_p_values([np.inf, 9.0, 3.0, 1.0, -np.inf], calibration)
    assert p_values.tolist() == [0.25, 0.25, 0.5, 1.0, 1.0]
    assert p_values[0] == smallest_budget(3)


def test_an_image_without_a_score_has_no_p_value() -> None:
    p_values = conformal_p_values([np.nan, 0.0], [1.0])
    assert np.isnan(p_values).tolist() == [True, False]


def test_p_values_of_no_images_are_empty() -> None:
    assert conformal_p_values([], [1.0]).shape == (0,)


def test_p_values_fall_as_scores_rise() -> None:
    rng = np.random.default_rng(1)
    scores = np.sort(rng.normal(size=200))
    assert (np.diff(conformal_p_values(scores, rng.normal(size=30))) <= 0).all()


@pytest.mark.parametrize("ties", [False, True])
def test_p_values_of_exchangeable_scores_are_super_uniform(ties: bool) -> None:
    rng = np.random.default_rng(2)
    m, repeats = 19, 20_000
    draws = rng.normal(size=(repeats, m + 1))
    if ties:
        draws = np.round(draws)
    p_values = np.array([conformal_p_values(row[:1], row[1:])[0] for row in draws])
    for level in np.arange(1, m + 1) / (m + 1):
        rate = np.mean(p_values <= level)
        # Four standard deviations of a binomial share: a chance failure is 1 in 30 000.
        slack = 4 * math.sqrt(level * (1 - level) / repeats)
        assert rate <= level + slack
        if not ties:  # Without ties the p-value is exactly uniform on its steps.
            assert rate >= level - slack


@pytest.mark.parametrize("fpr", BUDGETS)
def test_images_needed_is_the_least_number_that_supports_the_budget(fpr: float) -> None:
    m = images_needed(fpr)
    assert smallest_budget(m) <= fpr
    assert m >= 1
    assert smallest_budget(m - 1) > fpr


@pytest.mark.parametrize(("fpr", "m"), [(0.1, 9), (0.05, 19), (0.01, 99), (0.001, 999)])
def test_images_needed_for_common_budgets(fpr: float, m: int) -> None:
    assert images_needed(fpr) == m


def test_images_needed_undoes_smallest_budget() -> None:
    assert all(images_needed(smallest_budget(m)) == m for m in range(1, 3000))


def test_images_needed_for_a_vanishing_budget_is_a_number() -> None:
    assert images_needed(1e-320) > 10**319


@pytest.mark.parametrize("fpr", BUDGETS)
@pytest.mark.parametrize("m", [1, 2, 9, 48, 49, 99, 100, 250])
@pytest.mark.parametrize("distinct", [2, 10, 10_000])
def test_threshold_flags_exactly_the_p_values_within_the_budget_in_force(
    fpr: float, m: int, distinct: int
) -> None:
    rng = np.random.default_rng([m, distinct])
    calibration = rng.integers(0, distinct, m) / 7
    scores = np.concatenate([calibration, rng.integers(-1, distinct + 1, 50) / 7])
    threshold = threshold_for_budget(calibration, fpr)
    flagged = conformal_p_values(scores, calibration) <= threshold.fpr_in_force
    np.testing.assert_array_equal(scores > threshold.value, flagged)
    assert threshold.supported == (m >= images_needed(fpr))


@pytest.mark.parametrize("m", range(1, 130))
def test_threshold_at_the_attainable_budgets_survives_rounding(m: int) -> None:
    calibration = np.arange(m, dtype=float)
    for flagged in range(1, m + 1):
        threshold = threshold_for_budget(calibration, flagged / (m + 1))
        # p ≤ j/(m + 1) allows j − 1 calibration scores at or above the score.
        assert threshold.value == m - flagged
        assert threshold.supported


def test_too_few_images_fall_back_to_the_largest_calibration_score() -> None:
    threshold = threshold_for_budget([2.0, 5.0, 3.0], fpr=0.01)
    assert (threshold.value, threshold.fpr_in_force) == (5.0, 0.25)
    assert not threshold.supported


def test_a_supported_budget_is_the_one_in_force() -> None:
    assert threshold_for_budget(np.arange(99.0), fpr=0.013).fpr_in_force == 0.013


@pytest.mark.parametrize("fpr", [0.05, 0.1, 0.25])
def test_normal_images_are_flagged_at_the_budget(fpr: float) -> None:
    rng = np.random.default_rng(3)
    m, repeats, n = 39, 2000, 50
    rates = np.empty(repeats)
    for i in range(repeats):
        threshold = threshold_for_budget(rng.gamma(2.0, size=m), fpr)
        assert threshold.supported
        rates[i] = np.mean(rng.gamma(2.0, size=n) > threshold.value)
    # The budgets are multiples of 1/40, so the mean rate equals them: 4 standard errors each way.
    assert rates.mean() == pytest.approx(fpr, abs=4 * rates.std() / math.sqrt(repeats))


def test_contamination_threshold_flags_that_share_of_the_training_images() -> None:
    scores = np.random.default_rng(4).permutation(np.arange(200.0))
    value = contamination_threshold(scores, 0.1)
    assert np.sum(scores > value) == 20
    assert value == pytest.approx(np.percentile(scores, 90))


@pytest.mark.parametrize("contamination", [0.0, -0.1, 0.51, float("nan")])
def test_contamination_outside_its_range_is_refused(contamination: float) -> None:
    with pytest.raises(InputError, match=r"'contamination' .* above 0 and at most 0.5"):
        contamination_threshold([1.0], contamination)


@pytest.mark.parametrize("fpr", [0.0, 1.0, -0.1, 2.0, float("nan")])
def test_budgets_outside_0_to_1_are_refused(fpr: float) -> None:
    with pytest.raises(InputError, match=r"'fpr' .* between 0 and 1"):
        threshold_for_budget([1.0], fpr)
    with pytest.raises(InputError, match=r"'fpr' .* between 0 and 1"):
        images_needed(fpr)


def test_a_negative_number_of_images_is_refused() -> None:
    with pytest.raises(InputError, match=r"'m' .* at least 0"):
        smallest_budget(-1)


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [np.inf]])
def test_calibration_and_training_scores_must_be_finite(values: list[float]) -> None:
    with pytest.raises(InputError, match=r"'calibration_scores' .* finite"):
        conformal_p_values([0.0], values)
    with pytest.raises(InputError, match=r"'calibration_scores' .* finite"):
        threshold_for_budget(values, 0.1)
    with pytest.raises(InputError, match=r"'training_scores' .* finite"):
        contamination_threshold(values, 0.1)


def test_scores_must_be_one_dimensional() -> None:
    with pytest.raises(InputError, match=r"'scores' .* one-dimensional array. Got shape \(1, 2\)"):
        conformal_p_values([[0.0, 1.0]], [1.0])
    with pytest.raises(InputError, match=r"'calibration_scores' .* one-dimensional"):
        threshold_for_budget(1.0, 0.1)


@pytest.mark.parametrize(("m", "fpr"), [(14, 0.1), (99, 0.01), (99, 0.1)])
def test_the_interval_of_the_false_alarm_rate_covers_as_often_as_it_says(
    m: int, fpr: float
) -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        calibration = rng.uniform(size=m)
        threshold = threshold_for_budget(calibration, fpr).value
        low, high = false_alarm_interval(calibration, threshold, confidence=0.9)
        # Of uniform scores, a share of 1 − threshold lies above it.
        covered += low <= 1 - threshold <= high
    assert 0.87 < covered / 1000 < 0.93


def test_more_calibration_images_narrow_the_interval() -> None:
    def width(m: int) -> float:
        scores = np.arange(m, dtype=float)
        low, high = false_alarm_interval(scores, threshold_for_budget(scores, 0.1).value)
        assert low < 0.1 < high
        return high - low

    assert width(2000) < width(200) < width(20)
