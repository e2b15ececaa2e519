"""Lists of image files, of arrays and of PIL images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import adcgan
from adcgan.data import load_images
from adcgan.errors import InputError


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, *shape: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(*shape)).save(path)
    return path


def test_a_list_of_paths_is_read_in_its_order_and_keeps_its_names(tmp_path: Path) -> None:
    paths = [save(tmp_path / name, 20, 30) for name in ("b.png", "sub/a.png", "c.png")]
    found = load_images([str(paths[0]), *paths[1:]], image_size=16)
    assert found.names == [str(path) for path in paths]
    assert found.source == "list of files"
    folder = load_images(tmp_path, image_size=16)
    np.testing.assert_array_equal(found.images[0], folder.images[0])


def test_a_path_that_cannot_be_read_keeps_its_place_with_its_error(tmp_path: Path) -> None:
    good = save(tmp_path / "good.png", 20, 20)
    (tmp_path / "bad.png").write_bytes(b"not an image")
    found = load_images([tmp_path / "missing.png", good, tmp_path / "bad.png", tmp_path])
    assert found.positions.tolist() == [1]
    assert [(item.position, Path(item.name).name) for item in found.skipped] == [
        (0, "missing.png"),
        (2, "bad.png"),
        (3, tmp_path.name),
    ]
    assert all(item.error for item in found.skipped)
    with pytest.raises(InputError, match="1 of 1 images in 'list of files' cannot be read"):
        load_images([tmp_path / "missing.png"])


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("others", [[], [noise(20, 20)]])
def test_a_pipe_and_an_impossible_path_are_errors_and_not_waited_for(
    tmp_path: Path, cache: bool, others: list[Any]
) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    items = [tmp_path / "pipe.png", "nul\0.png", save(tmp_path / "a.png", 20, 20), *others]
    found = load_images(items, cache=cache)
    assert [item.position for item in found.skipped] == [0, 1]
    assert found.skipped[0].error == "not a regular file"
    assert "null" in found.skipped[1].error


@pytest.mark.parametrize("cache", [True, False])
def test_one_pipe_is_refused_and_not_waited_for(tmp_path: Path, cache: bool) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(InputError, match="not a regular file"):
        load_images(tmp_path / "pipe.png", cache=cache)


@pytest.mark.parametrize("cache", [True, False])
def test_paths_are_kept_decoded_like_those_of_a_folder(tmp_path: Path, cache: bool) -> None:
    path = save(tmp_path / "a.png", 40, 40)
    first = load_images([path], cache=cache)
    save(path, 41, 41)
    assert not np.array_equal(load_images([path], cache=cache).images, first.images)


def test_arrays_of_any_size_and_pictures_and_paths_may_be_mixed(tmp_path: Path) -> None:
    items: list[Any] = [
        noise(20, 30),
        noise(18, 18, 1),
        noise(40, 25, 3),
        Image.fromarray(noise(33, 17, 3)),
        save(tmp_path / "a.png", 50, 50),
    ]
    found = load_images(items)
    assert found.images.shape == (5, 3, 64, 64)
    assert found.names == ["0", "1", "2", "3", "4"]
    assert found.resized
    alone = load_images([items[2]])
    np.testing.assert_array_equal(found.images[2], alone.images[0])
    same = load_images([Image.fromarray(items[2])])
    np.testing.assert_array_equal(alone.images, same.images)


@pytest.mark.parametrize(
    ("element", "words"),
    [
        (3, r"must be paths, uint8 arrays or PIL images\. Got int at index 1"),
        (np.zeros((4, 4)), r"array at index 1 must .*uint8"),
        (np.zeros((4, 4, 2), np.uint8), r"array at index 1 must have shape"),
    ],
)
def test_an_element_that_is_no_image_is_named(element: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        load_images([noise(20, 20), element])


def test_a_tilde_is_the_users_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for i in range(4):
        save(tmp_path / "photos" / f"{i}.png", 20, 20)
    np.save(tmp_path / "a.npy", noise(4, 16, 16))
    assert len(load_images("~/photos")) == 4
    assert len(load_images(["~/photos/0.png", "~/photos/1.png"])) == 2
    assert load_images("~/a.npy").shape == (1, 16, 16)
    detector = adcgan.DETECTORS["pixel-knn"](fpr=0.9, image_size=16)
    detector.fit("~/photos", run_dir="~/run").save("~/model")
    assert (tmp_path / "run" / "manifest.json").exists()
    scores = adcgan.load("~/model").decision_function("~/photos")
    np.testing.assert_array_equal(scores, detector.decision_function("~/photos"))


def test_an_array_or_series_of_paths_is_a_list_of_them(tmp_path: Path) -> None:
    paths = [str(save(tmp_path / f"{i}.png", 20, 20)) for i in range(4)]
    detector = adcgan.DETECTORS["pixel-knn"](fpr=0.9, image_size=16).fit(paths)
    scores = detector.decision_function(paths)
    for kind in (np.str_, object):
        array = np.array(paths, dtype=kind)
        assert load_images(array).names == paths
        again = adcgan.DETECTORS["pixel-knn"](fpr=0.9, image_size=16).fit(array)
        np.testing.assert_array_equal(again.decision_function(array), scores)
    pandas = pytest.importorskip("pandas")
    np.testing.assert_array_equal(detector.decision_function(pandas.Series(paths)), scores)


def test_fit_warns_of_files_of_a_list_that_it_cannot_learn_from(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{i}.png", 20, 20) for i in range(4)]
    detector = adcgan.DETECTORS["pixel-knn"](fpr=0.9, image_size=16)
    with pytest.warns(UserWarning, match=r"1 of 5 images could not be read; .*gone\.png"):
        detector.fit([*paths, tmp_path / "gone.png"])
    assert detector.n_train_ + detector.n_calibration_ == 4
