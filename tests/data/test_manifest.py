from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from adcgan.data import judging_listing, load_images, read_manifest, training_listing
from adcgan.errors import InputError, MissingExtraError

FULL = """\
path,label,type,mask,split,remark
images/a.png,normal,,,train,first
images/b.png,0,good,,test,
images/c.png,anomalous,crack,masks/c.png,test,"a, long one"
images/d.png,1,dent,,test,
images/e.png,,,,train,
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for value, name in enumerate("abcde"):
        Image.new("L", (20, 16), value).save(tmp_path / f"images/{name}.png")
    return tmp_path


def written(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "manifest.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_every_row_is_an_image_with_what_is_known_of_it(folder: Path) -> None:
    listing = read_manifest(written(folder, FULL))
    assert [item.file.name for item in listing.images] == [f"images/{n}.png" for n in "abcde"]
    assert [item.label for item in listing.images] == [0, 0, 1, 1, None]
    assert [item.type for item in listing.images] == [None, None, "crack", "dent", None]
    assert [item.split for item in listing.images] == ["train", "test", "test", "test", "train"]
    assert listing.images[2].mask == str(folder / "masks/c.png")
    assert listing.images[3].mask is None
    assert listing.with_masks
    images = load_images(folder / "manifest.csv")
    assert images.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert images.labels is None


def test_rows_divide_into_what_is_learned_from_and_what_is_judged(folder: Path) -> None:
    path = written(folder, FULL)
    train, test = training_listing(path), judging_listing(path)
    assert train is not None
    assert test is not None
    assert load_images(train).names == ["images/a.png", "images/e.png"]
    judged = load_images(test)
    assert judged.names == ["images/b.png", "images/c.png", "images/d.png"]
    assert judged.labels is not None
    assert judged.labels.tolist() == [0, 1, 1]
    assert judged.types == [None, "crack", "dent"]
    assert judged.masks == [None, str(folder / "masks/c.png"), None]
    assert "2 of 5 rows" in train.note
    assert "3 of 5 rows" in test.note


def test_without_splits_what_is_called_anomalous_is_not_learned_from(folder: Path) -> None:
    path = written(folder, "path,label\nimages/a.png,0\nimages/b.png,1\nimages/c.png,\n")
    train = training_listing(path)
    assert train is not None
    assert [item.file.name for item in train.images] == ["images/a.png", "images/c.png"]


def test_a_path_alone_is_enough(folder: Path) -> None:
    images = load_images(written(folder, "path\nimages/a.png\nimages/b.png\n"))
    assert (images.labels, images.types, images.masks) == (None, None, None)
    assert len(images) == 2


def test_paths_may_be_absolute_and_their_order_and_repetition_are_kept(folder: Path) -> None:
    text = f"path\n{folder / 'images/b.png'}\nimages/a.png\nimages/a.png\n"
    assert load_images(written(folder, text)).images[:, 0, 0, 0].tolist() == [1, 0, 0]


def test_a_row_whose_file_is_missing_is_skipped_with_its_error(folder: Path) -> None:
    (folder / "images/c.png").unlink()
    images = load_images(written(folder, FULL))
    assert [(item.position, item.name) for item in images.skipped] == [(2, "images/c.png")]
    assert images.skipped[0].error == "No such file or directory"
    assert images.types == [None, None, "dent", None]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_tables_as_programs_export_them_are_read(folder: Path, encoding: str) -> None:
    text = "Path , Label\r\nimages/a.png, Normal \r\n\r\nimages/b.png,ANOMALOUS\r\n"
    listing = read_manifest(written(folder, text, encoding))
    assert [item.label for item in listing.images] == [0, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "one column 'path'.*Got no column"),
        ("file,label\na.png,0\n", "one column 'path'.*Got 'file', 'label' instead"),
        ("path;label\na.png;0\n", "Got 'path;label' instead"),
        ("path,path\na.png,b.png\n", "one column 'path'"),
        ("path\n", "has no row"),
        ("path,label\na.png,bad\n", "'label' of row 1.*normal, anomalous, 0, 1 or empty.*'bad'"),
        ("path,split\na.png,train\nb.png,val\n", "'split' of row 2.*train or test.*Got 'val'"),
        ("path,split\na.png,\n", "'split' of row 1"),
        ("path,label\n,0\n", "Row 1 .*must have a 'path'"),
        ("path,label\na.png\n", "must have 2 values.*Row 1 has 1"),
        ('path\n"a.png\n', "cannot be read as CSV"),
    ],
)
def test_a_wrong_manifest_is_refused_with_what_is_wrong(
    folder: Path, text: str, message: str
) -> None:
    with pytest.raises(InputError, match=message) as raised:
        read_manifest(written(folder, text))
    assert "\n" not in str(raised.value)
    assert "manifest.csv" in str(raised.value)


def test_what_is_no_text_is_refused(folder: Path) -> None:
    path = folder / "manifest.csv"
    path.write_bytes(b"path\n\xff\xfe\n")
    with pytest.raises(InputError, match="cannot be read as CSV in UTF-8"):
        read_manifest(path)


def test_a_manifest_without_rows_for_the_purpose_is_refused(folder: Path) -> None:
    path = written(folder, "path,label\nimages/a.png,1\n")
    with pytest.raises(InputError, match="must have rows to use"):
        training_listing(path)
    path = written(folder, "path,split\nimages/a.png,train\n")
    with pytest.raises(InputError, match="must have rows to use"):
        judging_listing(path)


def test_images_are_judged_by_labels_alone(folder: Path) -> None:
    path = written(folder, "path,label\nimages/a.png,0\nimages/b.png,\n")
    with pytest.raises(
        InputError, match=r"'label' in every row. The row of 'images/b.png' has none"
    ):
        judging_listing(path)


def test_parquet_says_the_same_as_csv(folder: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = folder / "manifest.parquet"
    table = pyarrow.table(
        {
            "path": ["images/a.png", "images/b.png", "images/c.png"],
            "label": pyarrow.array([0, 1, None], pyarrow.int64()),
            "type": [None, "crack", None],
            "number": [1.5, 2.5, 3.5],
        }
    )
    parquet.write_table(table, path)
    listing = read_manifest(path)
    assert [item.label for item in listing.images] == [0, 1, None]
    assert [item.type for item in listing.images] == [None, "crack", None]
    assert load_images(path).images[:, 0, 0, 0].tolist() == [0, 1, 2]
    for labels in ([0.0, 1.0, float("nan")], [False, True, None]):
        parquet.write_table(table.set_column(1, "label", pyarrow.array(labels)), path)
        assert [item.label for item in read_manifest(path).images] == [0, 1, None]
    path.write_bytes(b"no table")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        read_manifest(path)


def test_parquet_without_pyarrow_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "manifest.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match="pip install pyarrow"):
        read_manifest(folder / "manifest.parquet")
