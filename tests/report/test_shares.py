from __future__ import annotations

import numpy as np
import pytest

from adcgan.report.shares import shares

RNG = np.random.default_rng(0)
LABELS = np.repeat([0, 1], [200, 100])


def parts():
    return {
        "strong": RNG.normal(size=300) + 4 * LABELS,
        "weak": 3 * RNG.normal(size=300) + LABELS,
        "wrong": RNG.normal(size=300) - 2 * LABELS,
        "idle": np.full(300, 7.0),
    }


def found(contributions):
    return {share.name: share for share in shares(contributions, contributions, LABELS)}


def test_shares_of_difference_and_of_spread_add_up_to_one():
    measured = found(parts())
    assert sum(share.of_difference for share in measured.values()) == pytest.approx(1)
    assert sum(share.of_spread for share in measured.values()) == pytest.approx(1)


def test_shares_are_those_of_their_definition():
    # Two normal images, two anomalous ones: means 1 and 5 of the first part, 2 and 3 of the other.
    labels = np.array([0, 0, 1, 1])
    first, second = np.array([0.0, 2.0, 4.0, 6.0]), np.array([1.0, 3.0, 3.0, 3.0])
    one, other = shares({"a": first, "b": second}, {"a": first, "b": 0.5 * second}, labels)
    assert one.of_difference == pytest.approx(4 / 4.5)
    assert other.of_difference == pytest.approx(0.5 / 4.5)
    # Over the normal images a is 0, 2 and b/2 is 0.5, 1.5: standard deviations 1 and 0.5.
    assert one.of_spread == pytest.approx(1 / 1.5)
    assert other.of_spread == pytest.approx(0.5 / 1.5)
    assert (one.alone, one.without) == (1.0, 0.75)


def test_a_part_that_pulls_the_wrong_way_has_a_negative_share_and_helps_by_its_absence():
    contributions = parts()
    measured = found(contributions)
    assert measured["wrong"].of_difference < 0
    assert measured["wrong"].alone < 0.5
    assert measured["wrong"].without > measured["strong"].without
    assert max(measured.values(), key=lambda share: share.of_difference).name == "strong"
    assert max(measured.values(), key=lambda share: share.of_spread).name == "weak"


def test_a_part_that_is_the_same_for_every_image_has_no_share():
    idle = found(parts())["idle"]
    assert (idle.of_difference, idle.of_spread, idle.alone) == pytest.approx((0, 0, 0.5))


def test_where_anomalous_images_do_not_score_higher_there_is_nothing_to_share():
    measured = found({"a": -1.0 * LABELS, "b": np.zeros(300)})
    assert [share.of_difference for share in measured.values()] == [None, None]
    assert [share.of_spread for share in measured.values()] == [None, None]


def test_a_score_of_one_part_has_nothing_without_it():
    (only,) = shares({"a": 1.0 * LABELS}, {"a": 2.0 * LABELS}, LABELS)
    assert (only.without, only.of_difference, only.alone) == (None, 1, 1)
