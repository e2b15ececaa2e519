from __future__ import annotations

import itertools
import json
import time

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from adcgan.benchmark.pixel_metrics import (
    best_f1,
    pixel_auroc,
    pixel_average_precision,
    pixel_summary,
    pro,
)
from adcgan.errors import InputError

FIGURES = [pixel_auroc, pixel_average_precision, pro, best_f1, pixel_summary]


def mask_of(*rows):
    """Return a mask from text, one '#' for each defective pixel."""
    return np.array([[letter == "#" for letter in row] for row in rows])


def random_images(seed, levels, n=4):
    """Return masks and maps of `n` small images of different sizes, the first one normal.

    With few `levels`, most values tie, within and between normal and defective pixels.
    """
    rng = np.random.default_rng(seed)
    masks, maps = [], []
    for index in range(n):
        shape = tuple(rng.integers(1, 9, size=2))
        # Dense enough for several regions an image, and for many at the border.
        mask = rng.random(shape) < (0.25 if index else 0)
        masks.append(mask)
        maps.append((rng.integers(levels, size=shape) / levels + mask * 0.2).astype(np.float32))
    masks[-1][0, 0] = True
    return masks, maps


def pooled(arrays):
    return np.concatenate([array.ravel() for array in arrays])


def slow_regions(masks):
    """Return the pixels of each region as (image, row, column), by flooding from each pixel."""
    found = []
    for index, mask in enumerate(masks):
        left = set(zip(*np.nonzero(mask), strict=True))
        while left:
            region, edge = [], [left.pop()]
            while edge:
                row, column = edge.pop()
                region.append((index, row, column))
                for near in itertools.product(
                    (row - 1, row, row + 1), (column - 1, column, column + 1)
                ):
                    if near in left:
                        left.remove(near)
                        edge.append(near)
            found.append(region)
    return found


def slow_pro(masks, maps, max_fpr):
    """Return the per-region overlap from its definition, threshold by threshold."""
    regions = slow_regions(masks)
    normal = pooled(maps)[~pooled(masks)].tolist()
    points = []
    for threshold in [*sorted(set(pooled(maps).tolist()), reverse=True), -1.0]:
        shares = [sum(maps[i][r, c] > threshold for i, r, c in one) / len(one) for one in regions]
        fpr = sum(value > threshold for value in normal) / len(normal)
        points.append((fpr, sum(shares) / len(shares)))
    area = 0.0
    for (left, low), (right, high) in itertools.pairwise(points):
        if left < max_fpr and right > left:
            end = min(right, max_fpr)
            at_end = low + (high - low) * (end - left) / (right - left)
            area += (end - left) * (low + at_end) / 2
    return area / max_fpr


@pytest.mark.parametrize("levels", [1, 3, 10, 10**6])
@pytest.mark.parametrize("max_fpr", [0.05, 0.3, 1.0])
def test_pro_equals_a_loop_over_thresholds_and_regions(levels, max_fpr):
    for seed in range(20):
        masks, maps = random_images(seed, levels)
        assert pro(masks, maps, max_fpr) == pytest.approx(slow_pro(masks, maps, max_fpr), abs=1e-12)


@pytest.mark.parametrize("levels", [1, 3, 10, 10**6])
def test_auroc_and_average_precision_equal_those_of_all_pixels_in_one_row(levels):
    for seed in range(20):
        masks, maps = random_images(seed, levels)
        labels, values = pooled(masks), pooled(maps)
        assert pixel_auroc(masks, maps) == pytest.approx(roc_auc_score(labels, values), abs=1e-12)
        assert pixel_average_precision(masks, maps) == pytest.approx(
            average_precision_score(labels, values), abs=1e-12
        )


@pytest.mark.parametrize("levels", [1, 3, 10, 10**6])
def test_best_f1_is_the_best_of_all_thresholds_and_its_threshold_reaches_it(levels):
    for seed in range(5):
        masks, maps = random_images(seed, levels)
        labels, values = pooled(masks), pooled(maps)
        best = best_f1(masks, maps)
        every = [f1_score(labels, values >= value) for value in np.unique(values)]
        assert best.f1 == pytest.approx(max(every), abs=1e-12)
        assert f1_score(labels, values > best.threshold) == pytest.approx(best.f1, abs=1e-12)


def test_the_threshold_of_the_best_f1_separates_maps_of_mixed_precision():
    masks = [mask_of("#"), mask_of(".")]
    maps = [np.array([[0.5]], np.float32), np.array([[np.nextafter(0.5, 0)]], np.float64)]
    best = best_f1(masks, maps)
    assert best.f1 == 1
    assert maps[1].max() <= best.threshold < 0.5


def test_a_perfect_map_has_the_best_figures():
    masks = [mask_of("#..#", "....", "##.#"), mask_of("..", "..")]
    found = pixel_summary(masks, [mask.astype(np.float32) for mask in masks])
    assert found["pixel_auroc"] == found["pixel_average_precision"] == 1
    assert found["pro30"] == found["pixel_best_f1"] == 1


def test_an_inverted_map_is_never_flipped():
    masks, maps = random_images(0, 10)
    inverted = [-one for one in maps]
    assert pixel_auroc(masks, inverted) == pytest.approx(1 - pixel_auroc(masks, maps))
    assert pro([mask_of("#.")], [np.array([[0.0, 1.0]])]) == 0


def test_a_constant_map_has_the_figures_of_chance():
    masks = [mask_of("#...", "....")]
    maps = [np.zeros((2, 4), np.float32)]
    found = pixel_summary(masks, maps)
    assert found["pixel_auroc"] == 0.5
    assert found["pixel_average_precision"] == 1 / 8
    # The curve is the diagonal.
    assert found["pro30"] == pytest.approx(0.15)


def test_a_small_region_weighs_as_much_as_a_large_one_in_pro_and_less_in_the_other_figures():
    mask = mask_of("#.###", "..###", "..###")
    finds_small, finds_large = np.zeros((2, 3, 5), np.float32)
    finds_small[0, 0] = 1
    finds_large[:, 2:] = 1
    assert pro([mask], [finds_small]) == pytest.approx(pro([mask], [finds_large]))
    assert pixel_auroc([mask], [finds_small]) < pixel_auroc([mask], [finds_large])


def test_pixels_that_touch_at_a_corner_are_one_region_and_images_are_apart():
    masks = [mask_of("#..", ".#.", "#.."), mask_of("#.#"), mask_of("#")]
    maps = [np.zeros(mask.shape, np.float32) for mask in masks]
    assert pixel_summary(masks, maps)["n_regions"] == 4


@pytest.mark.parametrize("figure", [pixel_auroc, pixel_average_precision, pro])
def test_figures_depend_on_the_order_of_values_alone(figure):
    masks, maps = random_images(1, 10)
    stretched = [np.exp(3 * one) for one in maps]
    assert figure(masks, stretched) == pytest.approx(figure(masks, maps), abs=1e-12)
    backwards = masks[::-1], maps[::-1]
    assert figure(*backwards) == pytest.approx(figure(masks, maps), abs=1e-12)


def test_summary_has_every_figure_and_the_counts_and_is_json():
    masks, maps = random_images(2, 10)
    found = json.loads(json.dumps(pixel_summary(masks, maps), allow_nan=False))
    best = best_f1(masks, maps)
    assert found == {
        "pixel_auroc": pixel_auroc(masks, maps),
        "pixel_average_precision": pixel_average_precision(masks, maps),
        "pro30": pro(masks, maps, 0.3),
        "pixel_best_f1": best.f1,
        "pixel_best_f1_threshold_chosen_on_test": best.threshold,
        "n_regions": len(slow_regions(masks)),
        "n_defect_pixels": pooled(masks).sum(),
        "n_pixels": pooled(masks).size,
    }


def test_inputs_are_left_as_they_are():
    masks, maps = random_images(3, 10)
    before = [mask.copy() for mask in masks], [one.copy() for one in maps]
    pixel_summary(masks, maps)
    for after, kept in zip([masks, maps], before, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(after, kept, strict=True))


def test_forty_images_of_a_photograph_s_size_take_a_moment():
    rng = np.random.default_rng(0)
    maps = [rng.standard_normal((256, 384), dtype=np.float32) for _ in range(40)]
    masks = [np.zeros((256, 384), bool) for _ in range(40)]
    for mask in masks[:20]:
        mask[50:120, 100:200] = True
    start = time.process_time()
    pixel_summary(masks, maps)
    assert time.process_time() - start < 6


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.parametrize(
    ("masks", "maps", "message"),
    [
        ([], [], "0 defective and 0 normal pixels"),
        ([mask_of("..")], [np.zeros((1, 2))], "0 defective and 2 normal pixels"),
        ([mask_of("##")], [np.zeros((1, 2))], "2 defective and 0 normal pixels"),
        ([mask_of("#.")], [], "Got 1 masks and 0 maps"),
        ([mask_of("#.")], [np.zeros((2, 1))], r"\(1, 2\) and \(2, 1\) at index 0"),
        ([mask_of("#.")[0]], [np.zeros(2)], r"two-dimensional.*\(2,\) and \(2,\) at index 0"),
        ([mask_of("#.") * 255], [np.zeros((1, 2))], "boolean arrays. Got int64 at index 0"),
        ([mask_of("#.")], [np.zeros((1, 2), int)], "floating-point arrays. Got int64"),
        (
            [mask_of("#."), mask_of("..")],
            [np.zeros((1, 2)), np.array([[np.nan, np.inf]])],
            "'maps' parameter must contain only finite values. Got 2 at index 1",
        ),
    ],
)
def test_every_figure_refuses_what_it_is_not_defined_for(figure, masks, maps, message):
    with pytest.raises(InputError, match=message):
        figure(masks, maps)


@pytest.mark.parametrize("max_fpr", [0, -0.1, 1.1, float("nan")])
def test_pro_refuses_a_rate_that_cannot_be(max_fpr):
    with pytest.raises(InputError, match="'max_fpr'"):
        pro([mask_of("#.")], [np.array([[1.0, 0.0]])], max_fpr)
