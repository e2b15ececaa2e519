from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adcgan.data import judging_listing, load_images, training_listing
from adcgan.errors import InputError


def save(path: Path, value: int = 0, size: tuple[int, int] = (20, 16)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).save(path)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two images to learn from, one normal one to test on, and two types of defect."""
    save(tmp_path / "train/good/a.png", 1)
    save(tmp_path / "train/good/b.png", 2)
    save(tmp_path / "test/good/a.png", 3)
    save(tmp_path / "test/crack/a.png", 4)
    save(tmp_path / "test/crack/b.png", 5)
    save(tmp_path / "test/dent/a.png", 6)
    save(tmp_path / "ground_truth/crack/a_mask.png", 255)
    save(tmp_path / "ground_truth/crack/b.bmp", 255)
    return tmp_path


def test_of_the_industrial_layout_the_good_images_for_training_are_learned_from(root: Path) -> None:
    listing = training_listing(root)
    assert listing is not None
    images = load_images(listing)
    assert images.names == ["train/good/a.png", "train/good/b.png"]
    assert images.images[:, 0, 0, 0].tolist() == [1, 2]
    assert images.source == str(root / "train/good")
    assert "\n" not in listing.note
    assert "train/good/" in listing.note


def test_of_the_industrial_layout_every_test_image_has_its_label_type_and_mask(root: Path) -> None:
    listing = judging_listing(root)
    assert listing is not None
    images = load_images(listing)
    assert images.names == [
        "test/crack/a.png", "test/crack/b.png", "test/dent/a.png", "test/good/a.png",
    ]  # fmt: skip
    assert images.labels is not None
    assert images.labels.tolist() == [1, 1, 1, 0]
    assert images.types == ["crack", "crack", "dent", None]
    masks = root / "ground_truth/crack"
    assert images.masks == [str(masks / "a_mask.png"), str(masks / "b.bmp"), None, None]
    assert images.files == [str(root / name) for name in images.names]


def test_a_mask_called_mask_goes_before_one_called_as_its_image(root: Path) -> None:
    save(root / "ground_truth/crack/a.png")
    listing = judging_listing(root)
    assert listing is not None
    assert listing.images[0].mask == str(root / "ground_truth/crack/a_mask.png")


def test_what_is_known_of_images_stays_with_them_when_one_cannot_be_read(root: Path) -> None:
    (root / "test/crack/a.png").write_bytes(b"no image")
    listing = judging_listing(root)
    assert listing is not None
    images = load_images(listing)
    assert [item.name for item in images.skipped] == ["test/crack/a.png"]
    assert images.types == ["crack", "dent", None]
    assert images.masks == [str(root / "ground_truth/crack/b.bmp"), None, None]
    chosen = images.select([1, 0])
    assert chosen.types == ["dent", "crack"]
    assert chosen.masks == [None, str(root / "ground_truth/crack/b.bmp")]
    assert chosen.files == [str(root / "test/dent/a.png"), str(root / "test/crack/b.png")]


def test_a_file_beside_the_test_folders_is_listed_with_an_error(root: Path) -> None:
    save(root / "test/stray.png")
    listing = judging_listing(root)
    assert listing is not None
    images = load_images(listing)
    assert [item.name for item in images.skipped] == ["test/stray.png"]
    assert "not in a folder" in images.skipped[0].error
    assert images.labels is not None


def test_a_layout_without_ground_truth_has_no_mask_for_any_image(tmp_path: Path) -> None:
    save(tmp_path / "test/good/a.png")
    save(tmp_path / "test/crack/a.png")
    listing = judging_listing(tmp_path)
    assert listing is not None
    assert load_images(listing).masks == [None, None]


def test_of_normal_beside_anomalous_the_normal_images_are_learned_from(tmp_path: Path) -> None:
    save(tmp_path / "normal/a.png", 1)
    save(tmp_path / "anomalous/a.png", 2)
    listing = training_listing(tmp_path)
    assert listing is not None
    assert load_images(listing).names == ["normal/a.png"]
    assert judging_listing(tmp_path) is None


@pytest.mark.parametrize("names", [["a.png"], ["normal/a.png"], ["good/a.png", "bad/a.png"]])
def test_other_folders_are_in_no_layout(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        save(tmp_path / name)
    assert training_listing(tmp_path) is None
    assert judging_listing(tmp_path) is None


def test_half_a_layout_is_refused_with_what_is_missing(tmp_path: Path) -> None:
    save(tmp_path / "one/train/good/a.png")
    with pytest.raises(InputError, match="must have test/good/ beside train/good/"):
        judging_listing(tmp_path / "one")
    save(tmp_path / "two/test/good/a.png")
    with pytest.raises(InputError, match="must have train/good/ to learn from"):
        training_listing(tmp_path / "two")
    (tmp_path / "three/train/good").mkdir(parents=True)
    with pytest.raises(InputError, match="holds no file"):
        training_listing(tmp_path / "three")


def test_a_listing_divides_into_training_and_test(root: Path) -> None:
    listing = judging_listing(root)
    assert listing is not None
    assert listing.train().images == []
    assert len(listing.test().images) == 4
    with pytest.raises(InputError, match="It lists none"):
        load_images(listing.train())


def test_a_listing_is_read_in_any_size(root: Path) -> None:
    listing = judging_listing(root)
    assert listing is not None
    assert load_images(listing, image_size=32, channels=3).shape == (3, 32, 32)
    kept = load_images(listing, resize="keep")
    assert kept.shape == (1, 16, 20)
    assert np.asarray(kept.images[0]).dtype == np.uint8
