"""Whether images have drifted from those learned from: a test that holds its level."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import ks_2samp

from adcgan.detectors import PixelPCA
from adcgan.errors import InputError
from adcgan.scoring import Drift, drift
from adcgan.scoring.drift import LEVEL


def discs(n: int, seed: int) -> NDArray[np.uint8]:
    """Return soft discs (n, 16, 16) near the middle, of several sizes, with some noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:16, :16]
    centre, size = rng.uniform(6, 10, (n, 2, 1, 1)), rng.uniform(8, 30, (n, 1, 1))
    distance = (y - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2
    return np.uint8(150 * np.exp(-distance / size) + rng.uniform(0, 30, (n, 16, 16)))


@pytest.fixture(scope="module")
def detector() -> PixelPCA:
    return PixelPCA(n_components=8, fpr=0.05, device="cpu").fit(discs(400, seed=0))


def test_normal_images_from_the_same_source_give_no_warning(detector: PixelPCA) -> None:
    scores = detector.decision_function(discs(6000, seed=1))
    found = [detector.verdict().drift(draw) for draw in scores.reshape(100, 60)]
    assert not any(one.unlike for one in found)
    assert np.mean([one.share_above for one in found]) < 0.1


@pytest.mark.parametrize("n", [20, 60])
def test_brighter_images_give_one(detector: PixelPCA, n: int) -> None:
    brighter = np.uint8(discs(n, seed=2) * 1.35)
    found = detector.verdict().drift(detector.decision_function(brighter))
    assert found.unlike
    assert found.higher
    said = found.warning() or ""
    assert said.startswith("These images are unlike those it learned from: their scores are higher")
    assert f"over {n} images, {found.share_above:.1%} of them above the threshold" in said


def test_images_learned_from_are_said_to_score_lower_than_held_out_ones() -> None:
    known = np.linspace(1, 2, 99)
    found = drift(np.linspace(0.5, 1.5, 60), known, 1.95)
    assert (found.unlike, found.higher, found.share_above) == (True, False, 0)
    assert "The last 60 are unlike its held-out normal images: their scores are lower" in str(
        found.warning("The last 60")
    )


@pytest.mark.parametrize(("m", "n"), [(9, 25), (30, 30), (30, 500), (300, 60)])
def test_false_warnings_are_no_more_often_than_stated(m: int, n: int) -> None:
    rng = np.random.default_rng(m + n)
    trials, level = 2000, 0.05
    p = np.array([drift(rng.normal(size=n), rng.normal(size=m), 1).p_value for _ in range(trials)])
    assert (p <= level).mean() <= level + 3 * math.sqrt(level / trials)
    assert (p < LEVEL).sum() <= 8


@pytest.mark.parametrize("round_to", [10, 1])
@pytest.mark.parametrize(("m", "n"), [(9, 40), (30, 30), (99, 500), (600, 25)])
def test_statistic_and_p_value_are_scipys(m: int, n: int, round_to: int) -> None:
    """With ties too, which rounding makes; the p-value errs to the safe side."""
    rng = np.random.default_rng(0)
    for shift in np.linspace(-2, 2, 21):
        known, new = rng.normal(size=m).round(round_to), rng.normal(shift, size=n).round(round_to)
        found, exact = drift(new, known, 1), ks_2samp(new, known, method="exact")
        assert found.statistic == pytest.approx(exact.statistic)
        assert 0.95 * exact.pvalue - 1e-12 <= found.p_value
        assert found.p_value < LEVEL or found.p_value <= 3 * exact.pvalue
        assert found.higher == (exact.statistic_sign < 0)


def test_few_images_and_none_give_no_warning() -> None:
    known = np.linspace(0, 1, 99)
    assert drift(np.full(19, 9.0), known, 0.5).p_value < LEVEL
    assert not drift(np.full(19, 9.0), known, 0.5).unlike
    assert drift(np.full(20, 9.0), known, 0.5).unlike
    none = drift([np.nan, np.nan], known, 0.5)
    assert (none.n, none.unlike, none.warning()) == (0, False, None)
    assert np.isnan([none.share_above, none.statistic, none.p_value]).all()


def test_unreadable_images_are_left_out_and_infinite_scores_count() -> None:
    known = np.linspace(0, 1, 9)
    found = drift([np.nan, np.inf, 0.2, -np.inf], known, 0.5)
    assert found == Drift(3, 1 / 3, found.statistic, found.p_value, found.higher)
    assert found.statistic == pytest.approx(2 / 3 - 2 / 9)


@pytest.mark.parametrize(("scores", "known"), [([[0.0]], [1.0]), ([0.0], []), ([0.0], [np.nan])])
def test_what_is_no_row_of_scores_is_refused(scores: list[float], known: list[float]) -> None:
    with pytest.raises(InputError, match="parameter must"):
        drift(scores, known, 0)
