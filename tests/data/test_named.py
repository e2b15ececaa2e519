from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from adcgan.data import DATASETS, load_named
from adcgan.data.named import split_per_class
from adcgan.errors import InputError, MissingExtraError


def png(value: int | tuple[int, int, int], side: int = 20) -> bytes:
    file = BytesIO()
    Image.new("L" if isinstance(value, int) else "RGB", (side, side), value).save(file, "PNG")
    return file.getvalue()


def write_parquet(folder: Path, split: str, column: str, label: str, contents: list[bytes]) -> None:
    """Write a set in the hub's layout, half of it of class 0, half of class 1."""
    datasets = pytest.importorskip("datasets")
    folder.mkdir(parents=True, exist_ok=True)
    rows = datasets.Dataset.from_dict(
        {
            column: [{"bytes": content, "path": None} for content in contents],
            label: [int(2 * i >= len(contents)) for i in range(len(contents))],
        },
        features=datasets.Features({column: datasets.Image(), label: datasets.Value("int64")}),
    )
    rows.to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ADCGAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_cache: Path) -> Path:
    """A folder of our own in the place of $ADCGAN_DATA."""
    assert empty_cache
    monkeypatch.setenv("ADCGAN_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def test_digits_need_no_download() -> None:
    train, test = load_named("digits", "train"), load_named("digits", "test")
    assert len(train) + len(test) == 1797
    assert train.shape == test.shape == (1, 16, 16)
    assert train.class_names == [str(i) for i in range(10)]
    assert train.source == "digits (train)"
    assert train.labels is not None
    assert test.labels is not None
    shares = np.bincount(train.labels) / (np.bincount(train.labels) + np.bincount(test.labels))
    np.testing.assert_allclose(shares, 0.8, atol=0.01)
    assert set(train.names).isdisjoint(test.names)
    assert train.images.max() == 255
    assert train.images.min() == 0


def test_digits_are_split_in_one_way_whatever_the_seed() -> None:
    assert load_named("digits", "test").names == load_named("digits", "test", seed=7).names


def test_digits_are_resized_on_request() -> None:
    assert load_named("digits", "test", image_size=28, channels=3).shape == (3, 28, 28)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"name": "imagenet"},
            "mnist, fashion-mnist, cifar10, cats-vs-dogs, digits, magnetic-tile",
        ),
        ({"split": "validation"}, "'train' or 'test'"),
        ({"image_size": 8}, "'image_size'"),
        ({"channels": 2}, "'channels'"),
        ({"seed": -1}, "'seed'"),
        ({"seed": 0.5}, "'seed'"),
    ],
)
def test_wrong_parameters_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_named(**{"name": "digits", "split": "train", **arguments})


def test_names_and_entries_agree() -> None:
    for name, entry in DATASETS.items():
        assert entry.name == name
        assert len(set(entry.class_names)) == len(entry.class_names)


def test_local_copies_are_read_and_kept(
    copies: Path,
    empty_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    contents = [png(i, side=28) for i in range(10)]
    write_parquet(copies / "ylecun/mnist/mnist", "train", "image", "label", contents)
    capfd.readouterr()
    first = load_named("mnist", "train")
    assert first.images.shape == (10, 1, 28, 28)
    assert first.images[:, 0, 0, 0].tolist() == list(range(10))
    assert first.labels is not None
    assert first.labels.tolist() == [0] * 5 + [1] * 5
    assert len(list(empty_cache.glob("*.json"))) == 1
    monkeypatch.setitem(sys.modules, "datasets", None)
    second = load_named("mnist", "train")
    np.testing.assert_array_equal(second.images, first.images)
    assert second.labels is not None
    assert second.labels.tolist() == first.labels.tolist()
    assert capfd.readouterr() == ("", "")
    with pytest.raises(MissingExtraError, match=r"pip install 'adcgan\[data\]'"):
        load_named("mnist", "train", image_size=32)


def test_changed_copies_are_read_again(copies: Path) -> None:
    for value in (1, 2):
        contents = [png(value, side=28)] * 4
        write_parquet(copies / "ylecun/mnist/mnist", "train", "image", "label", contents)
        assert np.unique(load_named("mnist", "train").images).tolist() == [value]


def test_rows_that_cannot_be_decoded_are_skipped_in_their_split(copies: Path) -> None:
    contents = [png((i, 0, 0), side=70) for i in range(20)]
    contents[3], contents[15] = b"", png(15)[:45]
    write_parquet(copies / "microsoft/cats_vs_dogs/data", "train", "image", "labels", contents)
    parts = [load_named("cats-vs-dogs", split, seed=1) for split in ("train", "test")]
    assert [part.n_items for part in parts] == [16, 4]
    assert sorted(item.name for part in parts for item in part.skipped) == ["15", "3"]
    for part in parts:
        assert part.shape == (3, 64, 64)
        places = [*part.positions.tolist(), *(item.position for item in part.skipped)]
        assert sorted(places) == list(range(part.n_items))
        assert part.images[:, 0, 0, 0].tolist() == [int(name) for name in part.names]
        assert part.labels is not None
        assert part.labels.tolist() == [int(int(name) >= 10) for name in part.names]


def test_missing_copies_are_an_error_that_names_the_folder(copies: Path) -> None:
    with pytest.raises(InputError, match=r"uoft-cs/cifar10' must hold test-\*\.parquet"):
        load_named("cifar10", "test")
    assert not copies.exists()


def test_unreadable_copies_are_an_error(copies: Path) -> None:
    folder = copies / "ylecun/mnist/mnist"
    folder.mkdir(parents=True)
    (folder / "train-00000-of-00001.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(InputError, match="'ylecun/mnist' cannot be read from"):
        load_named("mnist", "train")


def test_without_copies_the_hub_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_cache: Path
) -> None:
    datasets = pytest.importorskip("datasets")
    assert empty_cache
    monkeypatch.delenv("ADCGAN_DATA", raising=False)
    write_parquet(tmp_path, "test", "img", "label", [png((9, 9, 9), side=32)] * 4)
    really = datasets.load_dataset
    asked: list[str] = []

    def from_hub(path: str, *, split: str, cache_dir: None) -> Any:
        asked.append(path)
        assert cache_dir is None
        return really(str(tmp_path), split=split, cache_dir=str(tmp_path / "hf"))

    monkeypatch.setattr(datasets, "load_dataset", from_hub)
    for _ in range(2):
        found = load_named("cifar10", "test")
        assert found.images.shape == (4, 3, 32, 32)
    assert asked == ["uoft-cs/cifar10"] * 2


def test_failure_of_the_hub_is_one_line(monkeypatch: pytest.MonkeyPatch, empty_cache: Path) -> None:
    datasets = pytest.importorskip("datasets")
    assert empty_cache
    monkeypatch.delenv("ADCGAN_DATA", raising=False)

    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(InputError, match=r"from the hub: ConnectionError: no route to host.*DATA"):
        load_named("mnist", "train")


def test_settings_of_datasets_are_restored(copies: Path) -> None:
    datasets = pytest.importorskip("datasets")
    level = datasets.logging.get_verbosity()
    contents = [png(i, side=28) for i in range(4)]
    write_parquet(copies / "ylecun/mnist/mnist", "train", "image", "label", contents)
    load_named("mnist", "train")
    assert datasets.logging.get_verbosity() == level
    assert not datasets.are_progress_bars_disabled()


def test_split_per_class_is_a_seeded_partition() -> None:
    labels = np.random.default_rng(0).integers(0, 3, 1000)
    first, second = split_per_class(labels, 0.8, 0)
    np.testing.assert_array_equal(np.sort(np.concatenate([first, second])), np.arange(1000))
    for label in range(3):
        size = int((labels == label).sum())
        assert int((labels[first] == label).sum()) == round(0.8 * size)
    assert (np.diff(first) > 0).all()
    assert (np.diff(second) > 0).all()
    again, _ = split_per_class(labels, 0.8, 0)
    other, _ = split_per_class(labels, 0.8, 1)
    np.testing.assert_array_equal(first, again)
    assert first.tolist() != other.tolist()


def test_split_of_one_class_does_not_depend_on_the_others() -> None:
    labels = np.repeat([0, 1], 50)
    first, _ = split_per_class(labels, 0.8, 0)
    alone, _ = split_per_class(labels[:50], 0.8, 0)
    assert first[first < 50].tolist() == alone.tolist()


def test_split_stays_the_same_between_versions() -> None:
    first, second = split_per_class(np.repeat([0, 1], 5), 0.8, 0)
    assert second.tolist() == [4, 6]
    assert len(first) == 8


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "split", "count", "shape"),
    [
        ("mnist", "train", 60_000, (1, 28, 28)),
        ("mnist", "test", 10_000, (1, 28, 28)),
        ("fashion-mnist", "test", 10_000, (1, 28, 28)),
        ("cifar10", "test", 10_000, (3, 32, 32)),
    ],
)
def test_real_sets_are_complete(
    name: str, split: str, count: int, shape: tuple[int, int, int]
) -> None:
    found = load_named(name, split)
    assert len(found) == found.n_items == count
    assert found.shape == shape
    assert found.labels is not None
    assert len(np.unique(found.labels)) == len(DATASETS[name].class_names) == 10
    assert found.names[:2] == ["0", "1"]
    assert found.images.std() > 50
    np.testing.assert_array_equal(load_named(name, split).images, found.images)


@pytest.mark.data
@pytest.mark.slow
def test_real_cats_and_dogs_are_split_by_the_seed() -> None:
    train, test = (load_named("cats-vs-dogs", split) for split in ("train", "test"))
    assert train.shape == (3, 64, 64)
    assert train.n_items + test.n_items in (24_998, 23_410)
    assert set(train.names).isdisjoint(test.names)
    assert test.labels is not None
    assert abs(test.labels.mean() - 0.5) < 0.01
    assert load_named("cats-vs-dogs", "test", seed=1).names != test.names
    assert len(train.skipped) + len(test.skipped) < 50


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), [("fashion-mnist", 60_000), ("cifar10", 50_000)])
def test_real_training_sets_are_complete(name: str, count: int) -> None:
    assert len(load_named(name, "train")) == count
