"""Images of different sizes: how they are kept, and how crops of them are cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from adcgan import InputError, load_images
from adcgan.data.crops import DeviceCrops
from adcgan.data.ragged import Ragged, gathered, typical_shape

CPU = torch.device("cpu")
SIDES = [(70, 90), (64, 64), (20, 130)]


def noise(height: int, width: int, channels: int = 1, seed: int = 0) -> NDArray[np.uint8]:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def photographs() -> list[NDArray[np.uint8]]:
    return [noise(*sides, seed=i) for i, sides in enumerate(SIDES)]


def test_kept_images_have_their_own_size_and_pixels(photographs: list[NDArray[np.uint8]]) -> None:
    found = load_images(photographs, resize="keep")
    assert isinstance(found.images, Ragged)
    for image, pixels in zip(found.images, photographs, strict=True):
        np.testing.assert_array_equal(image[0], pixels)
    assert found.shape == (1, 64, 90)
    assert found.images.nbytes == sum(pixels.size for pixels in photographs)


def test_kept_images_of_one_size_are_one_array_that_need_not_be_square() -> None:
    found = load_images([noise(40, 70), noise(40, 70, seed=1)], resize="keep")
    assert isinstance(found.images, np.ndarray)
    assert found.images.shape == (2, 1, 40, 70)


def test_the_longer_side_is_limited_and_the_aspect_kept(tmp_path: Path) -> None:
    for name, (width, height) in {"a": (400, 100), "b": (90, 300), "c": (50, 60)}.items():
        Image.fromarray(noise(height, width)).save(tmp_path / f"{name}.png")
    images = load_images(tmp_path, image_size=200, resize="keep").images
    assert [image.shape for image in images] == [(1, 50, 200), (1, 200, 60), (1, 60, 50)]


def test_grey_images_become_rgb_where_one_is(photographs: list[NDArray[np.uint8]]) -> None:
    colour = noise(30, 40, 3)
    images = load_images([*photographs, colour], resize="keep").images
    for image, pixels in zip(images, photographs, strict=False):
        for channel in image:
            np.testing.assert_array_equal(channel, pixels)
    np.testing.assert_array_equal(images[3].transpose(1, 2, 0), colour)


def test_the_cache_gives_images_of_different_sizes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photographs: list[NDArray[np.uint8]]
) -> None:
    monkeypatch.setenv("ADCGAN_CACHE", str(tmp_path / "cache"))
    for i, pixels in enumerate(photographs):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.png")
    for _ in range(2):
        images = load_images(tmp_path / "photos", resize="keep", cache=True).images
        for image, pixels in zip(images, photographs, strict=True):
            np.testing.assert_array_equal(image[0], pixels)
    assert len(list((tmp_path / "cache").glob("*.pixels"))) == 1


def test_images_of_different_sizes_are_refused_where_one_is_needed(
    photographs: list[NDArray[np.uint8]],
) -> None:
    kept = load_images(photographs, resize="keep")
    with pytest.raises(InputError, match=r"must all have one size.* pass image_size"):
        load_images(kept)
    assert load_images(kept, image_size=16).shape == (1, 16, 16)


@pytest.mark.parametrize("size", [63, 8193, 0])
def test_a_longest_side_out_of_range_is_refused(size: int) -> None:
    with pytest.raises(InputError, match=rf"from 64 to 8192\. Got {size} instead"):
        load_images([noise(70, 90)], image_size=size, resize="keep")


def test_selections_share_the_memory(photographs: list[NDArray[np.uint8]]) -> None:
    images = load_images(photographs, resize="keep").images
    chosen = images[np.array([2, 0])]
    assert isinstance(chosen, Ragged)
    assert chosen.shapes == [(1, 20, 130), (1, 70, 90)]
    assert np.shares_memory(chosen[0], images[2])
    np.testing.assert_array_equal(chosen[1], images[0])
    assert len(images[1:]) == 2


def test_gathered_arrays_are_one_array_if_they_can_be() -> None:
    same = gathered([np.zeros((2, 3, 4)), np.ones((1, 3, 4))])
    assert isinstance(same, np.ndarray)
    assert same.shape == (3, 3, 4)
    mixed = gathered([np.zeros((2, 3, 4)), np.ones((1, 5, 4))])
    assert isinstance(mixed, Ragged)
    assert mixed.shapes == [(3, 4), (3, 4), (5, 4)]
    assert mixed[2].min() == 1


def test_the_typical_shape_is_the_median() -> None:
    images = Ragged(np.zeros(3 * 4 + 5 * 6 + 7 * 2, np.uint8), [(1, 3, 4), (1, 5, 6), (1, 7, 2)])
    assert typical_shape(images) == (1, 5, 4)


# -- crops -----------------------------------------------------------------------------------------


def crops(images: list[NDArray[np.uint8]], side: int, index: list[int], seed: int = 0) -> Tensor:
    kept = load_images(images, resize="keep").images
    rng = torch.Generator().manual_seed(seed)
    return DeviceCrops(kept, CPU, side).gather(torch.tensor(index), rng)


def places(crop: NDArray[np.uint8], image: NDArray[np.uint8]) -> list[tuple[int, int]]:
    """Return where `crop` occurs in `image`: by looking everywhere."""
    windows = np.lib.stride_tricks.sliding_window_view(image, crop.shape)
    return [(int(y), int(x)) for y, x in np.argwhere((windows == crop).all((2, 3)))]


def test_a_crop_is_a_piece_of_its_image_and_all_places_occur() -> None:
    images = [noise(20, 24), noise(18, 40, seed=1)]
    seen = set()
    for seed in range(60):
        found = (crops(images, 17, [1, 0], seed)[:, 0] * 255).round().numpy().astype(np.uint8)
        assert len(places(found[0], images[1])) == 1
        seen.update(places(found[1], images[0]))
    assert {y for y, _ in seen} == set(range(4))
    assert {x for _, x in seen} == set(range(8))


def test_the_border_of_an_image_is_seen_about_as_often_as_its_middle() -> None:
    # Each pixel says where it is.
    image = np.arange(100, dtype=np.uint8)[:, None].repeat(90, 1)
    pieces = crops([image, noise(40, 40)], 32, [0] * 2000)
    rows = (pieces[:, 0, :, 0] * 255).round().long()
    seen = torch.bincount(rows.flatten(), minlength=100) / 2000
    assert seen[50] == pytest.approx(32 / 100, abs=0.06)
    assert seen[0] > seen[50] / 3
    assert seen[99] > seen[50] / 3
    # What is only in the outermost crops is not what is only in a hundredth of them.
    assert (rows[:, 0] == 0).float().mean() > 0.1
    assert (rows[:, -1] == 99).float().mean() > 0.1


def test_an_image_smaller_than_the_crop_goes_on_as_its_mirror_image() -> None:
    image = noise(6, 9)
    found = (crops([image, noise(40, 40)], 16, [0])[0, 0] * 255).round().numpy()
    np.testing.assert_array_equal(found, np.pad(image, ((0, 10), (0, 7)), mode="reflect"))


def test_crops_keep_colours_apart_and_follow_the_seed() -> None:
    image = noise(30, 33, 3)
    first = crops([image, noise(40, 50, 3)], 16, [0, 0, 1], seed=3)
    assert first.shape == (3, 3, 16, 16)
    assert torch.equal(first, crops([image, noise(40, 50, 3)], 16, [0, 0, 1], seed=3))
    grey = (first[0] * 255).round().numpy().astype(np.uint8)
    found = {tuple(places(grey[c], image[..., c])) for c in range(3)}
    assert len(found) == 1


def test_crops_of_an_array_are_those_of_the_same_images_apart() -> None:
    array = np.stack([noise(30, 40), noise(30, 40, seed=1)])[:, None]
    apart = Ragged(array.reshape(-1), [(1, 30, 40)] * 2)
    drawn = [
        DeviceCrops(images, CPU, 16).gather(np.array([0, 1]), torch.Generator().manual_seed(5))
        for images in (array, apart)
    ]
    assert torch.equal(*drawn)
