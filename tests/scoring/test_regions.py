from __future__ import annotations

import time

import numpy as np
import pytest

from adcgan.errors import InputError
from adcgan.scoring import threshold_for_budget
from adcgan.scoring.regions import Region, pixel_threshold, region_mask, regions


def maps_with_maxima(maxima: list[float], seed: int = 0) -> list[np.ndarray]:
    """Return maps of different sizes, each with one pixel at its maximum and the rest below."""
    rng = np.random.default_rng(seed)
    maps = []
    for largest in maxima:
        found = (largest * rng.random(rng.integers(2, 9, size=2)) * 0.9).astype(np.float32)
        found[tuple(rng.integers(found.shape))] = largest
        maps.append(found)
    return maps


def slow_regions(anomaly_map: np.ndarray, threshold: float) -> list[Region]:
    """Return the regions by flooding from each pixel, in reading order."""
    # NumPy would round the threshold to float32.
    anomaly_map = anomaly_map.astype(np.float64)
    left = [tuple(place) for place in np.argwhere(anomaly_map > threshold).tolist()]
    found = []
    while left:
        region, edge = [], [left.pop(0)]
        while edge:
            row, column = edge.pop()
            region.append((row, column))
            near = [p for p in left if abs(p[0] - row) <= 1 and abs(p[1] - column) <= 1]
            left = [p for p in left if p not in near]
            edge += near
        rows, columns = zip(*region, strict=True)
        peak = max(anomaly_map[place] for place in region)
        row, column = min(place for place in region if anomaly_map[place] == peak)
        found.append(
            Region(
                left=min(columns),
                top=min(rows),
                width=max(columns) - min(columns) + 1,
                height=max(rows) - min(rows) + 1,
                area=len(region),
                peak=float(peak),
                peak_row=row,
                peak_column=column,
            )
        )
    return sorted(found, key=lambda region: -region.peak)


@pytest.mark.parametrize("levels", [3, 10, 10**6])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_regions_equal_those_of_a_slow_search(levels: int, share: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        shape = rng.integers(1, 15, size=2)
        found = (rng.integers(levels, size=shape) / levels).astype(np.float32)
        assert regions(found, 1 - share) == slow_regions(found, 1 - share)


def test_a_region_has_its_box_its_area_and_its_peak() -> None:
    found = np.zeros((6, 8), np.float32)
    found[1, 2:5] = 2
    found[2, 5] = 4  # Touches at a corner.
    found[5, 7] = 3  # Touches the border.
    assert regions(found, 1) == [
        Region(left=2, top=1, width=4, height=2, area=4, peak=4.0, peak_row=2, peak_column=5),
        Region(left=7, top=5, width=1, height=1, area=1, peak=3.0, peak_row=5, peak_column=7),
    ]


def test_fields_are_plain_numbers() -> None:
    (region,) = regions(np.ones((2, 2), np.float32), 0)
    assert {type(value) for value in vars(region).values()} == {int, float}
    assert type(region.peak) is float


@pytest.mark.parametrize("threshold", [1.0, 2.0, np.inf])
def test_nothing_above_the_threshold_is_no_region(threshold: float) -> None:
    found = np.ones((4, 5), np.float32)
    assert regions(found, threshold) == []
    assert not region_mask(found, threshold).any()


def test_the_mask_is_what_the_regions_consist_of() -> None:
    found = np.random.default_rng(1).normal(size=(30, 40)).astype(np.float32)
    mask = region_mask(found, 1)
    assert mask.shape == (30, 40)
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, found > 1)
    assert mask.sum() == sum(region.area for region in regions(found, 1))


def test_a_threshold_between_two_numbers_of_the_map_s_precision_is_not_rounded() -> None:
    # In float32, 0.1 is above 0.1.
    found = np.full((1, 1), 0.1, np.float32)
    assert region_mask(found, 0.1).all()
    assert len(regions(found, 0.1)) == 1


def test_the_threshold_is_that_of_the_largest_values_as_scores() -> None:
    maxima = np.random.default_rng(2).permutation(np.arange(1.0, 41)).tolist()
    verdict = pixel_threshold(maps_with_maxima(maxima), 0.1)
    assert verdict.threshold == threshold_for_budget(maxima, 0.1).value
    assert verdict.calibration_scores.tolist() == maxima
    assert (verdict.fpr, verdict.warning) == (0.1, None)


def test_a_map_has_a_region_exactly_where_its_largest_value_is_anomalous() -> None:
    maxima = np.random.default_rng(3).random(60).tolist()
    maps = maps_with_maxima(maxima)
    verdict = pixel_threshold(maps[:30], 0.3)
    new = np.array([found.max() for found in maps], dtype=np.float64)
    decided = verdict.anomalous(new)
    assert 0 < decided.sum() < 60
    assert decided.tolist() == [int(bool(regions(m, verdict.threshold))) for m in maps]
    np.testing.assert_array_equal(decided == 1, verdict.p_values(new) <= 0.3)


def test_new_normal_images_have_a_region_at_the_rate_of_the_budget() -> None:
    rng = np.random.default_rng(4)
    alarms = []
    for _ in range(300):
        maps = rng.normal(size=(19 + 20, 6, 6)).astype(np.float32)
        verdict = pixel_threshold(list(maps[:19]), 0.1)
        alarms.append(np.mean([region_mask(m, verdict.threshold).any() for m in maps[19:]]))
    # Without ties the rate is 0.1 on average over calibration sets; four standard errors.
    assert abs(np.mean(alarms) - 0.1) < 4 * np.std(alarms) / np.sqrt(len(alarms))


def test_too_few_images_for_the_budget_are_said_and_the_largest_value_decides() -> None:
    verdict = pixel_threshold(maps_with_maxima([3.0, 5.0, 4.0]), 0.01)
    assert (verdict.threshold, verdict.fpr) == (5.0, 0.25)
    assert verdict.warning is not None
    assert "needs 99 held-out normal images. There are 3" in verdict.warning


@pytest.mark.parametrize("n_regions", [1, 40_000])
def test_a_photograph_of_twelve_million_pixels_takes_a_moment(n_regions: int) -> None:
    found = np.zeros((3000, 4000), np.float32)
    if n_regions == 1:
        found[500:1500, 500:1500] = 1
    else:
        found[::15, ::20] = 1
    start = time.process_time()
    assert len(regions(found, 0.5)) == n_regions
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((2, 2, 1)), r"two-dimensional .* Got shape \(2, 2, 1\) of float64"),
        (np.zeros((0, 2)), r"at least one pixel. Got shape \(0, 2\)"),
        (np.zeros((2, 2), int), "floating-point numbers .* of int64"),
        (np.array([[0.0, np.nan], [np.inf, 0.0]]), "finite values only. Got 2 values"),
    ],
)
def test_maps_that_have_no_largest_value_are_refused(wrong: np.ndarray, message: str) -> None:
    for function in (region_mask, regions):
        with pytest.raises(InputError, match=f"'anomaly_map' parameter .*{message}"):
            function(wrong, 0.5)
    with pytest.raises(InputError, match=rf"'maps\[1\]' parameter .*{message}"):
        pixel_threshold([np.zeros((2, 2)), wrong], 0.1)


def test_no_maps_a_budget_that_cannot_be_and_a_threshold_that_is_none_are_refused() -> None:
    with pytest.raises(InputError, match="'maps' parameter must hold at least one map"):
        pixel_threshold([], 0.1)
    with pytest.raises(InputError, match="'fpr' parameter must be between 0 and 1"):
        pixel_threshold([np.zeros((2, 2))], 1.0)
    with pytest.raises(InputError, match=r"'threshold' parameter must be a number\. Got nan"):
        regions(np.zeros((2, 2)), float("nan"))
