from __future__ import annotations

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow")

from pyarrow import fs, parquet  # noqa: E402

from adcgan.bulk import reading  # noqa: E402
from adcgan.bulk.listing import list_images  # noqa: E402
from adcgan.bulk.reading import images_at  # noqa: E402

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write_table(path, contents, *, names=None, column=None, group=None):
    """Write rows with these contents; `names` within the images, or in a `column` of their own."""
    names = names or [None] * len(contents)
    images = [{"bytes": c, "path": n} for c, n in zip(contents, names, strict=True)]
    table = {"label": pa.array(range(len(contents))), "image": pa.array(images, IMAGE)}
    if column is not None:
        table["path"] = pa.array(column, pa.string())
    parquet.write_table(pa.table(table), path, row_group_size=group)


def contents(found):
    return [image.content for image in found]


@pytest.mark.parametrize("group", [None, 7, 64])
def test_spans_of_parquet_files_join_to_all_rows_in_order(tmp_path, group):
    expected = [f"{i}".encode() for i in range(300)]
    write_table(tmp_path / "a.parquet", expected[:130], group=group)
    write_table(tmp_path / "b.parquet", [])
    write_table(tmp_path / "c.parquet", expected[130:], group=group)
    listing = list_images(str(tmp_path))
    for size in (1, 70, 128, 300):
        spans = [range(i, min(i + size, 300)) for i in range(0, 300, size)]
        found = [image for span in spans for image in images_at(listing, span)]
        assert contents(found) == expected
    names = [image.name for image in images_at(listing, range(128, 132))]
    assert names == ["a.parquet#128", "a.parquet#129", "c.parquet#0", "c.parquet#1"]


def test_a_row_is_called_by_its_path(tmp_path):
    write_table(tmp_path / "a.parquet", [b"x"] * 3, names=["p/0.png", None, ""])
    listing = list_images(str(tmp_path / "a.parquet"))
    names = [image.name for image in images_at(listing, range(3))]
    assert names == ["p/0.png", "a.parquet#1", "a.parquet#2"]
    write_table(
        tmp_path / "b.parquet", [b"x"] * 2, names=["0.png", "1.png"], column=["q/0.png", None]
    )
    listing = list_images(str(tmp_path / "b.parquet"))
    assert [image.name for image in images_at(listing, range(2))] == ["q/0.png", "1.png"]


def test_a_row_without_an_image_says_so(tmp_path):
    images = pa.array([{"bytes": None, "path": "a.png"}, None, {"bytes": b"", "path": None}], IMAGE)
    parquet.write_table(pa.table({"image": images}), tmp_path / "a.parquet")
    found = list(images_at(list_images(str(tmp_path)), range(3)))
    assert [image.error for image in found] == ["the row holds no image"] * 3
    assert [image.name for image in found] == ["a.png", "a.parquet#1", "a.parquet#2"]


def test_what_a_damaged_parquet_file_loses_are_rows_with_errors(tmp_path):
    path = tmp_path / "a.parquet"
    random = np.random.default_rng(0)
    expected = [random.bytes(1000) for _ in range(200)]
    write_table(path, expected, group=50)
    listing = list_images(str(tmp_path))
    whole = path.read_bytes()
    at = whole.index(expected[70])
    path.write_bytes(whole[: at - 3000] + b"\xff" * 6000 + whole[at + 3000 :])
    found = list(images_at(listing, range(200)))
    assert contents(found)[:50] == expected[:50]
    assert contents(found)[100:] == expected[100:]
    assert [image.name for image in found] == [f"a.parquet#{i}" for i in range(200)]
    assert found[99].error.startswith("the Parquet file: ")
    path.unlink()
    found = list(images_at(listing, range(40, 60)))
    assert [image.error for image in found] == ["the Parquet file: No such file or directory"] * 20


def test_a_parquet_file_that_has_shrunk_loses_no_row(tmp_path):
    write_table(tmp_path / "a.parquet", [b"x"] * 10)
    listing = list_images(str(tmp_path))
    write_table(tmp_path / "a.parquet", [b"x"] * 4)
    found = list(images_at(listing, range(2, 10)))
    assert contents(found) == [b"x"] * 2 + [None] * 6
    assert "fewer rows" in found[-1].error


def test_a_store_s_files_come_in_order_with_what_went_wrong(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "_LARGEST", 100)
    for i in range(60):
        (tmp_path / f"{i:02d}.png").write_bytes(b"%d" % i)
    (tmp_path / "07.png").write_bytes(b"x" * 101)
    here = list_images(str(tmp_path))
    store = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    names = pa.array([name.encode() for name in here.entries.column("name").to_pylist()])
    entries = here.entries.set_column(1, "path", names.cast(pa.large_binary()))
    (tmp_path / "31.png").unlink()
    found = list(images_at(reading.Listing(store, entries, "", False, "store"), range(5, 55)))
    assert [image.name for image in found] == [f"{i:02d}.png" for i in range(5, 55)]
    failed = {image.name: image.error for image in found if image.content is None}
    assert list(failed) == ["07.png", "31.png"]
    assert failed["07.png"].startswith("the file is larger than")
    assert failed["31.png"] == "No such file or directory"
    assert contents(found)[-1] == b"54"
