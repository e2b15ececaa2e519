from __future__ import annotations

import re
from xml.etree import ElementTree

import matplotlib
import numpy as np

from adcgan.report import pictures, plots


def drawn():
    return pictures.svg(
        lambda axes: plots.roc_curve(axes, [0, 0.5, 1], [0, 0.9, 1]), 'ROC "curve" of <a> & b'
    )


def test_svg_is_one_element_with_its_description():
    element = ElementTree.fromstring(drawn())
    assert element.tag.endswith("svg")
    assert element.attrib["role"] == "img"
    assert element.attrib["aria-label"] == 'ROC "curve" of <a> & b'
    assert "viewBox" in element.attrib
    assert "width" not in element.attrib


def test_svg_takes_colours_and_font_from_the_page():
    text = drawn()
    assert "var(--normal)" in text
    assert "var(--ink)" in text
    assert not any(colour in text for colour in plots.COLOURS)
    assert "font-family" not in text
    assert "<style" not in text
    assert "normal images flagged" in text


def test_svg_is_the_same_each_time_and_repeats_no_id():
    assert drawn() == drawn()
    ids = re.findall(r' id="([^"]+)"', drawn())
    assert len(ids) == len(set(ids))
    assert all(f"#{name}" in drawn() for name in ids)


def test_svg_leaves_matplotlibs_settings_alone():
    before = dict(matplotlib.rcParams)
    drawn()
    assert dict(matplotlib.rcParams) == before


def test_to_uint8_rounds_and_clips():
    assert pictures.to_uint8(np.array([-1, 0, 0.5, 1, 2])).tolist() == [0, 0, 128, 255, 255]


def test_overlay_leaves_a_cold_image_grey_and_colours_the_hot_part():
    image = np.full((2, 2, 3), 100, np.uint8)
    heat = np.array([[0, 0], [0, 2]], np.float32)
    picture = pictures.overlay(image, heat, hottest=2.0)
    assert picture.shape == (2, 2, 3)
    assert (picture[0] == 100).all()
    red, green, blue = picture[1, 1].astype(int)
    assert red > 200
    assert green > 200
    assert blue < 180


def test_overlay_clips_what_is_hotter_than_the_scale():
    image = np.zeros((1, 1, 1), np.uint8)
    top, beyond = (
        pictures.overlay(image, np.full((1, 1), heat, np.float32), 1.0) for heat in (1, 9)
    )
    assert np.array_equal(top, beyond)


def test_enlarged_repeats_pixels_until_the_shorter_side_is_long_enough():
    image = np.arange(6, dtype=np.uint8).reshape(2, 3)
    large = pictures.enlarged(image, 5)
    assert large.shape == (6, 9)
    assert np.array_equal(large[::3, ::3], image)
    assert pictures.enlarged(image, 2).shape == (2, 3)


def test_an_outline_goes_around_what_is_marked_and_leaves_it_to_be_seen():
    image = np.full((40, 50, 3), 7, np.uint8)
    mask = np.zeros((40, 50), dtype=bool)
    mask[10:20, 15:30] = True
    picture = pictures.outlined(image, mask)
    assert (picture[mask] == 7).all()
    drawn = (picture != 7).any(axis=2)
    expected = np.zeros_like(mask)
    expected[8:22, 13:32] = True
    np.testing.assert_array_equal(drawn, expected & ~mask)
    assert (image == 7).all()


def test_outlines_of_what_was_found_and_of_defects_differ_on_a_grey_photograph():
    image = np.full((40, 50, 1), 7, np.uint8)
    mask = np.zeros((40, 50), dtype=bool)
    mask[10:20, 15:30] = True
    for colour in (pictures.FOUND, pictures.DEFECT):
        picture = pictures.outlined(image, mask, colour)
        assert picture.shape == (40, 50, 3)
        assert tuple(picture[9, 20]) == colour
    assert np.abs(np.subtract(pictures.FOUND, pictures.DEFECT)).max() > 100


def test_an_outline_of_the_whole_image_lies_on_its_border():
    image = np.full((40, 50, 3), 7, np.uint8)
    drawn = (pictures.outlined(image, np.ones((40, 50), dtype=bool)) != 7).any(axis=2)
    expected = np.ones((40, 50), dtype=bool)
    expected[2:-2, 2:-2] = False
    np.testing.assert_array_equal(drawn, expected)


def test_an_outline_of_nothing_is_nothing():
    image = np.full((40, 50, 3), 7, np.uint8)
    np.testing.assert_array_equal(pictures.outlined(image, np.zeros((40, 50), dtype=bool)), image)
