from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adcgan.data import load_images
from adcgan.data.masks import (
    longest_side,
    photograph_map,
    read_mask,
    seen_map,
    seen_mask,
    seen_photograph,
    seen_size,
)
from adcgan.errors import InputError

HALVES = np.repeat(np.array([[0, 255]], np.uint8), [3, 5], axis=1).repeat(4, axis=0)


@pytest.fixture
def photograph(tmp_path: Path) -> str:
    path = tmp_path / "photograph.png"
    Image.new("RGB", (8, 4)).save(path)
    return str(path)


def written(folder: Path, values: np.ndarray, name: str = "mask.png") -> str:
    path = folder / name
    Image.fromarray(values).save(path)
    return str(path)


@pytest.mark.parametrize(
    "values",
    [
        HALVES,
        HALVES // 255,
        HALVES > 0,
        np.where(HALVES > 0, 128, 127).astype(np.uint8),
        HALVES.astype(np.uint16) * 257,
        np.stack([HALVES] * 3, axis=-1),
        np.dstack([HALVES] * 3 + [255 - HALVES]),
    ],
    ids=["0/255", "0/1", "bool", "127/128", "16 bits", "RGB", "RGBA"],
)
def test_masks_of_common_kinds_mark_the_same_pixels(
    tmp_path: Path, photograph: str, values: np.ndarray
) -> None:
    mask = read_mask(written(tmp_path, values), photograph)
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, HALVES > 0)


def test_an_empty_mask_marks_nothing(tmp_path: Path, photograph: str) -> None:
    assert not read_mask(written(tmp_path, np.zeros((4, 8), np.uint8)), photograph).any()


def test_a_mask_of_another_size_than_its_image_is_refused(tmp_path: Path, photograph: str) -> None:
    path = written(tmp_path, HALVES[:3])
    with pytest.raises(InputError, match=r"the size of its image, 8×4 pixels. Got 8×3 instead"):
        read_mask(path, photograph)


def test_a_mask_lies_on_its_image_as_that_is_turned(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (4, 8)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_mask(written(tmp_path, HALVES), str(tmp_path / "turned.jpg")).shape == (4, 8)


@pytest.mark.parametrize(
    ("content", "why"), [(b"", "the file is empty"), (b"no image", "not an image")]
)
def test_a_mask_that_cannot_be_read_is_refused(
    tmp_path: Path, photograph: str, content: bytes, why: str
) -> None:
    path = tmp_path / "mask.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"The mask .*mask.png' cannot be read: {why}"):
        read_mask(str(path), photograph)
    path.unlink()
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_mask(str(path), photograph)


def test_a_mask_of_class_numbers_is_refused(tmp_path: Path, photograph: str) -> None:
    path = written(tmp_path, HALVES // 255 * 3)
    with pytest.raises(InputError, match=r"or 0 and 1. Its highest value is 3"):
        read_mask(path, photograph)


@pytest.mark.parametrize(
    ("resize", "size"),
    [("squash", (40, 20)), ("pad", (40, 20)), ("keep", (40, 20)), ("crop", (20, 20))],
)
def test_what_a_model_sees_is_compared_at_the_photographs_size(
    resize: str, size: tuple[int, int]
) -> None:
    assert seen_size(40, 20, resize) == size


def test_large_photographs_are_compared_at_a_bounded_size() -> None:
    assert seen_size(4000, 3000, "squash") == (1024, 768)
    mask = np.zeros((3000, 4000), dtype=bool)
    mask[:1500] = True
    small = seen_mask(mask, "squash")
    assert small.shape == (768, 1024)
    assert small.mean() == 0.5
    assert seen_map(np.zeros((64, 64), np.float32), 4000, 3000, "squash").shape == (768, 1024)


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
@pytest.mark.parametrize("size", [(96, 64), (64, 96), (33, 32)])
def test_a_map_comes_to_lie_where_the_image_was(
    tmp_path: Path, resize: str, size: tuple[int, int]
) -> None:
    width, height = size
    photograph = np.zeros((height, width), np.uint8)
    photograph[height // 2 :, width // 2 :] = 255
    path = tmp_path / "photograph.png"
    Image.fromarray(photograph).save(path)
    # What a perfect detector would return: the picture that it saw.
    seen = load_images(path, image_size=64, resize=resize).images[0, 0].astype(np.float32)
    heat = seen_map(seen, width, height, resize)
    mask = seen_mask(photograph > 0, resize)
    assert heat.shape == mask.shape
    assert np.mean((heat > 127) != mask) < 0.05
    shown = seen_photograph(str(path), resize, 1024)
    np.testing.assert_array_equal(shown[..., 0] > 127, mask)


@pytest.mark.parametrize(("width", "height"), [(41, 20), (20, 41), (30, 30)])
def test_a_map_of_the_whole_photograph_is_nought_where_the_model_did_not_look(
    width: int, height: int
) -> None:
    heat = photograph_map(np.ones((16, 16), np.float32), width, height, "crop")
    assert heat.shape == (height, width)
    expected = np.zeros((height, width), bool)
    side = min(width, height)
    top, left = (height - side) // 2, (width - side) // 2
    expected[top : top + side, left : left + side] = True
    np.testing.assert_array_equal(heat == 1, expected)
    np.testing.assert_array_equal(heat == 0, ~expected)


def test_a_map_of_the_right_size_is_left_as_it_is() -> None:
    heat = np.random.default_rng(0).random((20, 40), dtype=np.float32)
    np.testing.assert_array_equal(seen_map(heat, 40, 20, "keep"), heat)


def test_many_large_photographs_are_compared_at_a_smaller_size() -> None:
    assert longest_side([(4000, 3000)] * 10, "squash") == 1024
    assert longest_side([(300, 400)] * 1000, "squash") == 1024
    few = longest_side([(4000, 3000)] * 100, "squash", most_pixels=100 * 512 * 384)
    assert few == 512
    assert longest_side([(4000, 3000)] * 100, "squash", most_pixels=100 * 512 * 384 - 1) == 384
    assert longest_side([(4000, 3000)] * 100, "crop", most_pixels=100 * 512 * 384) == 384
    assert longest_side([(4000, 3000)], "squash", most_pixels=1) == 128
