from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from adcgan.data.thumbnails import contact_sheet, data_uri, png, reduced

RNG = np.random.default_rng(0)


def opened(content):
    return np.asarray(Image.open(io.BytesIO(content)))


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3), (5, 7, 4)])
def test_png_keeps_every_pixel(shape):
    image = RNG.integers(0, 256, shape, np.uint8)
    assert np.array_equal(opened(png(image)).reshape(shape), image)


def test_a_data_address_holds_the_picture():
    image = RNG.integers(0, 256, (3, 4), np.uint8)
    head, _, content = data_uri(image).partition(",")
    assert head == "data:image/png;base64"
    assert np.array_equal(opened(base64.b64decode(content)), image)


@pytest.mark.parametrize("channels", [1, 3])
def test_large_images_are_reduced_in_proportion_and_small_ones_left(channels):
    large = np.full((100, 50, channels), 90, np.uint8)
    small = reduced(large, 20)
    assert small.shape == (20, 10, channels)
    assert (small == 90).all()
    assert reduced(small, 20) is small


@pytest.mark.parametrize("channels", [1, 3])
def test_a_contact_sheet_has_every_image_once_and_gaps_that_are_see_through(channels):
    images = RNG.integers(0, 256, (5, 4, 6, channels), np.uint8)
    sheet = contact_sheet(images, n_columns=3, gap=2)
    assert sheet.shape == (4 + 2 + 4, 6 + 2 + 6 + 2 + 6, 4)
    for i, image in enumerate(images):
        top, left = 6 * (i // 3), 8 * (i % 3)
        assert np.array_equal(
            sheet[top : top + 4, left : left + 6, :3], np.broadcast_to(image, (4, 6, 3))
        )
    assert (sheet[..., 3] == 255).sum() == 5 * 4 * 6


def test_a_contact_sheet_of_few_images_is_as_wide_as_they_are():
    assert contact_sheet(np.zeros((2, 4, 4, 1), np.uint8), n_columns=8, gap=1).shape == (4, 9, 4)
