from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from adcgan.detectors.anomaly_map import (
    SMOOTHING,
    enlarged,
    mean_of_largest,
    residual_map,
    smoothed,
)


def test_smoothing_leaves_a_constant_map_as_it_is() -> None:
    torch.testing.assert_close(smoothed(torch.full((2, 9, 13), 3.0)), torch.full((2, 9, 13), 3.0))


def test_smoothing_is_a_gaussian_filter_with_a_mirror_at_the_border() -> None:
    maps = torch.rand(2, 40, 28, generator=torch.Generator().manual_seed(0))
    widths = (SMOOTHING * 40, SMOOTHING * 28)
    reference = [
        gaussian_filter(one, widths, mode="reflect", truncate=6) for one in maps.double().numpy()
    ]
    np.testing.assert_allclose(smoothed(maps).numpy(), np.stack(reference), rtol=1e-5)


def test_smoothing_moves_what_a_map_shows_and_adds_nothing() -> None:
    maps = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    maps[0, 0, 0] = 100.0
    torch.testing.assert_close(smoothed(maps).sum((1, 2)), maps.sum((1, 2)))


def test_a_region_outweighs_a_lone_pixel_that_is_hotter() -> None:
    maps = torch.zeros(1, 28, 28)
    maps[0, 3, 3] = 1.0
    maps[0, 18:22, 18:22] = 0.6
    row, column = divmod(int(smoothed(maps)[0].argmax()), 28)
    assert 18 <= row < 22
    assert 18 <= column < 22


def test_the_residual_map_is_the_smoothed_sum_over_channels() -> None:
    rng = torch.Generator().manual_seed(0)
    x, x_hat = torch.rand(2, 3, 16, 16, generator=rng), torch.rand(2, 3, 16, 16, generator=rng)
    heat = residual_map(x, x_hat)
    assert heat.shape == (2, 16, 16)
    assert (heat >= 0).all()
    torch.testing.assert_close(heat, smoothed((x - x_hat).abs().sum(1)))
    assert residual_map(x, x).max() == 0


def test_enlarging_leaves_a_constant_map_as_it_is_and_peaks_where_the_place_is() -> None:
    torch.testing.assert_close(
        enlarged(torch.full((2, 3, 5), 3.0), 100, 170, 32, 15.5), torch.full((2, 100, 170), 3.0)
    )
    maps = torch.zeros(1, 4, 6)
    maps[0, 2, 3] = 1.0
    row, column = divmod(int(enlarged(maps, 33, 48, 8, 4)[0].argmax()), 48)
    assert (row, column) == (2 * 8 + 4, 3 * 8 + 4)


def test_the_largest_are_a_share_of_the_places_rounded_up() -> None:
    maps = torch.arange(20.0).reshape(1, 4, 5).flip(2)
    for share, count in ((0.01, 1), (0.05, 1), (0.06, 2), (0.5, 10), (1.0, 20)):
        expected = maps.flatten().topk(count).values.mean()
        torch.testing.assert_close(mean_of_largest(maps, share)[0], expected)
