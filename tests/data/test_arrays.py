from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from adcgan.data import ImageSet, load_images
from adcgan.errors import InputError


def noise(*shape: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("shape", [(3, 20, 20), (3, 20, 20, 1)])
def test_grey_arrays_keep_their_pixels(shape: tuple[int, ...]) -> None:
    array = noise(*shape)
    found = load_images(array)
    np.testing.assert_array_equal(found.images, array.reshape(3, 1, 20, 20))
    assert np.shares_memory(found.images, array)
    assert not found.resized
    assert found.names == ["0", "1", "2"]
    assert found.positions.tolist() == [0, 1, 2]
    assert found.source == "array"


def test_colour_arrays_keep_their_pixels() -> None:
    array = noise(2, 20, 20, 3)
    np.testing.assert_array_equal(load_images(array).images, array.transpose(0, 3, 1, 2))


def test_tensors_are_arrays() -> None:
    array = noise(2, 20, 20)
    np.testing.assert_array_equal(load_images(torch.from_numpy(array)).images[:, 0], array)


def test_arrays_are_resized_like_images_when_asked() -> None:
    array = noise(5, 30, 40, 3)
    found = load_images(array, image_size=16, resize="crop")
    images = load_images([Image.fromarray(x) for x in array], image_size=16, resize="crop")
    assert found.resized
    np.testing.assert_array_equal(found.images, images.images)


def test_arrays_of_the_size_asked_for_are_untouched() -> None:
    array = noise(2, 20, 20)
    found = load_images(array, image_size=20)
    assert np.shares_memory(found.images, array)
    assert found.resized


def test_channels_of_arrays_are_converted_when_asked() -> None:
    array = noise(2, 20, 20)
    colour = load_images(array, channels=3)
    np.testing.assert_array_equal(colour.images, np.repeat(array[:, None], 3, axis=1))
    back = load_images(colour, channels=1)
    np.testing.assert_array_equal(back.images[:, 0], array)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((2, 20, 20), np.nan, np.float32), "NaN"),
        (np.full((2, 20, 20), np.inf), "infinite"),
        (np.full((2, 20, 20), 0.5), r"multiply by 255 and round"),
        (np.full((2, 20, 20), 99.0), r"x\.round\(\)"),
        (np.full((2, 20, 20), -3.0), r"scale to 0\.\.255"),
        (np.ones((2, 20, 20), bool), r"bool instead: multiply by 255"),
        (np.full((2, 20, 20), 200), r"int64 instead: x\.astype\('uint8'\)"),
        (np.full((2, 20, 20), 2000, np.uint16), r"uint16 instead: scale to 0\.\.255"),
        (np.array(["gone.png"]), r"1 of 1 images in 'list of files' cannot be read"),
        (np.array([None]), r"elements of a list must be paths.*Got NoneType at index 0"),
        (noise(20), r"shape \(n, H, W\).*Got \(20,\) instead\."),
        (noise(20, 20), r"for one image pass x\[None\]"),
        (noise(20, 20, 3), r"for one image pass x\[None\]"),
        (noise(2, 3, 20, 20), r"channels last, x\.transpose\(0, 2, 3, 1\)"),
        (noise(2, 1, 20, 20), r"channels last"),
        (noise(2, 20, 20, 4), r"alpha channel"),
        (noise(2, 20, 20, 2), r"Got \(2, 20, 20, 2\) instead\."),
        (noise(2, 20, 20, 3, 1), r"Got \(2, 20, 20, 3, 1\)"),
        (noise(0, 20, 20), "has no pixels"),
        (noise(2, 0, 20, 1), "has no pixels"),
        (noise(2, 20, 24), r"Got 20×24 instead: pass image_size"),
        (noise(2, 8, 8), r"Got 8×8 instead: pass image_size"),
        (noise(2, 300, 300), r"Got 300×300 instead: pass image_size"),
    ],
)
def test_unfit_arrays_are_refused_with_advice(array: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_images(array)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "Got NoneType"),
        (3, "Got int"),
        ({"a": 1}, "Got dict"),
        (Image.new("L", (20, 20)), r"pass \[image\]"),
        ([], "must not be empty"),
        ([noise(20, 20), 3], "Got int at index 1"),
        (torch.zeros((2, 20, 20), dtype=torch.uint8, device="meta"), "main memory"),
    ],
)
def test_other_data_is_refused(data: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_images(data)


def test_lists_of_images_are_read_in_order() -> None:
    shared = Image.new("L", (30, 20), 5)
    images = [shared, Image.new("L", (9, 9), 6), shared]
    found = load_images(images)
    assert found.images.shape == (3, 1, 64, 64)
    assert found.images[:, 0, 0, 0].tolist() == [5, 6, 5]
    assert found.names == ["0", "1", "2"]
    assert shared.size == (30, 20)
    assert found.resized


def test_images_of_a_list_that_cannot_be_loaded_are_skipped(tmp_path: Path) -> None:
    Image.fromarray(noise(50, 50)).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[:1000])
    with Image.open(tmp_path / "a.png") as broken:
        found = load_images([Image.new("L", (20, 20)), broken])
    assert [(item.position, item.name) for item in found.skipped] == [(1, "1")]


def test_npy_files_are_memory_mapped(tmp_path: Path) -> None:
    array = noise(4, 20, 20, 3)
    np.save(tmp_path / "x.npy", array)
    found = load_images(tmp_path / "x.npy")
    assert isinstance(found.images, np.memmap)
    np.testing.assert_array_equal(found.images, array.transpose(0, 3, 1, 2))
    assert found.source == str(tmp_path / "x.npy")


def test_errors_in_npy_files_name_the_file(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 20, 20)))
    with pytest.raises(InputError, match=r"array in '.*x\.npy' must hold uint8"):
        load_images(tmp_path / "x.npy")


@pytest.mark.parametrize("ending", [".npy", ".npz"])
@pytest.mark.parametrize("content", [b"", b"not an array", b"PK\x03\x04 not an archive"])
def test_broken_array_files_are_refused(tmp_path: Path, ending: str, content: bytes) -> None:
    path = tmp_path / f"x{ending}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"'.*x\{ending}' is not a {ending} file"):
        load_images(path)


@pytest.mark.parametrize("ending", [".npy", ".npz"])
def test_truncated_array_files_are_refused(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"x{ending}"
    if ending == ".npy":
        np.save(path, noise(4, 20, 20))
    else:
        np.savez(path, noise(4, 20, 20))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match=f"is not a {ending} file"):
        load_images(path)


@pytest.mark.parametrize("ending", [".npy", ".npz"])
def test_nothing_is_unpickled(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"x{ending}"
    objects = np.array([{"a": 1}], dtype=object)
    if ending == ".npy":
        np.save(path, objects, allow_pickle=True)
    else:
        np.savez(path, objects)
    with pytest.raises(InputError, match="plain numbers"):
        load_images(path)


def test_npz_files_are_read_with_labels(tmp_path: Path) -> None:
    array = noise(3, 20, 20)
    np.savez(tmp_path / "x.npz", images=array, labels=np.array([2, 0, 1], np.uint8), extra=[1])
    found = load_images(tmp_path / "x.npz")
    np.testing.assert_array_equal(found.images[:, 0], array)
    assert found.labels is not None
    assert found.labels.dtype == np.int64
    assert found.labels.tolist() == [2, 0, 1]


def test_the_only_array_of_an_npz_file_may_have_any_name(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", photos=noise(3, 20, 20))
    found = load_images(tmp_path / "x.npz", image_size=16)
    assert found.images.shape == (3, 1, 16, 16)
    assert found.labels is None


def test_npz_files_without_clear_images_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=noise(3, 20, 20), b=noise(3, 20, 20))
    with pytest.raises(InputError, match=r"named 'images'.*\['a', 'b'\]"):
        load_images(tmp_path / "x.npz")
    with zipfile.ZipFile(tmp_path / "y.npz", "w"):
        pass
    with pytest.raises(InputError, match=r"Got \[\] instead"):
        load_images(tmp_path / "y.npz")


@pytest.mark.parametrize("labels", [np.zeros(2, int), np.zeros(3), np.zeros((3, 1), int)])
def test_unfit_labels_are_refused(tmp_path: Path, labels: Any) -> None:
    np.savez(tmp_path / "x.npz", images=noise(3, 20, 20), labels=labels)
    with pytest.raises(InputError, match="one integer for each of the 3 images"):
        load_images(tmp_path / "x.npz")


def test_image_sets_that_fit_are_returned_as_they_are() -> None:
    found = load_images(noise(3, 20, 20), image_size=20)
    assert load_images(found) is found
    assert load_images(found, image_size=20, channels=1) is found


def test_image_sets_are_resized_with_everything_they_carry() -> None:
    given = ImageSet(noise(2, 1, 20, 20), ["a", "b"], np.array([0, 2]), labels=np.array([1, 0]))
    found = load_images(given, image_size=32, channels=3)
    assert found.images.shape == (2, 3, 32, 32)
    assert found.resized
    assert (found.names, found.labels) == (given.names, given.labels)


def test_selecting_from_a_set_keeps_names_and_labels_together(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=noise(5, 20, 20), labels=np.arange(5))
    found = load_images(tmp_path / "x.npz")
    for index in (np.array([3, 1]), slice(2, 4), np.array([True, False, False, True, False])):
        part = found.select(index)
        assert part.names == [str(label) for label in part.labels.tolist()]  # type: ignore[union-attr]
        np.testing.assert_array_equal(part.images, found.images[index])
        assert part.n_items == len(part) == len(part.positions) == 2


def test_sets_describe_themselves_in_a_line() -> None:
    assert repr(load_images(noise(3, 20, 20))) == "ImageSet('array', 3 images 1×20×20, 0 skipped)"
