from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from adcgan.data import judging_listing, labelled_images, load_images, training_listing
from adcgan.data.hub import parquet_files
from adcgan.data.layouts import beside_categories, categories
from adcgan.data.system_files import holds_something

LEFT_BEHIND = (
    "Thumbs.db",
    "thumbs.db:encryptable",
    "ehthumbs.db",
    "Desktop.ini",
    "a.png:Zone.Identifier",
    "$RECYCLE.BIN/S-1-5/a.png",
    "System Volume Information/IndexerVolumeGuid",
    ".DS_Store",
    "._a.png",
    "__MACOSX/._a.png",
    "Icon\r",
    ".directory",
    ".Trash-1000/files/a.png",
    "lost+found/a.png",
    "@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg",
    "#recycle/a.png",
    "@Recycle/a.png",
)


def leave_behind(folder: Path) -> None:
    """Put into a folder what systems put there."""
    for name in LEFT_BEHIND:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"\x00\x05\x16\x07")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An industrial set and folders normal/ and anomalous/, with what systems leave in each."""
    for name in ("train/good", "test/good", "test/crack", "ground_truth/crack"):
        (tmp_path / "set" / name).mkdir(parents=True)
        Image.new("L", (20, 20), 200).save(tmp_path / "set" / name / "a.png")
    for name in ("normal", "anomalous"):
        (tmp_path / "two" / name).mkdir(parents=True)
        Image.new("L", (20, 20), 200).save(tmp_path / "two" / name / "a.png")
    for folder in [tmp_path, *(path for path in tmp_path.rglob("*") if path.is_dir())]:
        leave_behind(folder)
    return tmp_path


def test_a_folder_and_its_layouts_hold_images_alone(root: Path) -> None:
    for listing, names in (
        (training_listing(root / "set"), ["train/good/a.png"]),
        (judging_listing(root / "set"), ["test/crack/a.png", "test/good/a.png"]),
        (training_listing(root / "two"), ["normal/a.png"]),
    ):
        assert listing is not None
        assert [item.file.name for item in listing.images] == names
        assert not any(item.file.error for item in listing.images)
    judged = labelled_images(load_images(root / "two"))
    assert (judged.names, judged.skipped) == (["anomalous/a.png", "normal/a.png"], [])


def test_they_are_no_categories_and_nothing_beside_them(root: Path) -> None:
    assert list(categories(root)) == ["set"]
    assert beside_categories(root) == ["two"]


def test_a_folder_for_results_is_empty_with_them_in_it(tmp_path: Path) -> None:
    leave_behind(tmp_path)
    assert not holds_something(tmp_path)
    (tmp_path / "scores.csv").touch()
    assert holds_something(tmp_path)


def test_a_data_set_in_the_layout_of_the_hub_is_read_without_them(tmp_path: Path) -> None:
    (tmp_path / "data/@eaDir/train-0.parquet").mkdir(parents=True)
    (tmp_path / "data/train-0.parquet").touch()
    assert parquet_files(tmp_path, "train") == [tmp_path / "data/train-0.parquet"]


def test_a_file_that_is_named_keeps_its_place_whatever_it_is(tmp_path: Path) -> None:
    leave_behind(tmp_path)
    Image.new("L", (20, 20)).save(tmp_path / "a.png")
    found = load_images([tmp_path / "Thumbs.db", tmp_path / "a.png"])
    assert found.positions.tolist() == [1]
    assert [item.name for item in found.skipped] == [str(tmp_path / "Thumbs.db")]
