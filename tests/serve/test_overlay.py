from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest

from adcgan.report import pictures
from adcgan.serve.overlay import COLOURS, grey_map, overlay, top_of


def test_the_colours_are_those_of_the_reports():
    places = np.linspace(0, 255, len(COLOURS)).round().astype(int)
    expected = np.rint(mpl.colormaps[pictures.HEAT_COLOURS](places)[:, :3] * 255)
    stops = np.array([list(bytes.fromhex(colour[1:])) for colour in COLOURS])
    assert np.array_equal(stops, expected)


def test_an_overlay_is_that_of_the_reports_but_for_the_rounding_of_colours():
    rng = np.random.default_rng(0)
    for channels in (1, 3):
        pixels = rng.integers(0, 256, (channels, 12, 12), dtype=np.uint8)
        heat = rng.uniform(0, 2, (12, 12)).astype(np.float32)
        ours = overlay(pixels, heat, 1.5).astype(int)
        theirs = pictures.overlay(pixels.transpose(1, 2, 0), heat, 1.5).astype(int)
        assert abs(ours - theirs).max() <= 6


def test_a_grey_map_is_linear_up_to_its_top():
    heat = np.array([[0, 1, 2, 4]], dtype=np.float32)
    assert grey_map(heat, 2).tolist() == [[0, 128, 255, 255]]


def test_the_top_of_a_map_without_any_anomaly_is_above_zero():
    assert top_of(np.zeros((8, 8), np.float32)) > 0


@pytest.mark.parametrize(("top", "levels"), [(1e-320, [0, 255, 255]), (1e300, [0, 0, 0])])
def test_a_top_beyond_the_range_of_the_map_gives_the_colours_at_either_end(top, levels):
    heat = np.array([[0, 1e-30, 3]], dtype=np.float32)
    assert grey_map(heat, top).tolist() == [levels]
    assert overlay(np.zeros((1, 1, 3), np.uint8), heat, top).shape == (1, 3, 3)
