from __future__ import annotations

import os
from pathlib import Path

import pytest

from adcgan.data.folder import list_files
from adcgan.errors import InputError

pa = pytest.importorskip("pyarrow")

from pyarrow import fs, parquet  # noqa: E402

from adcgan.bulk import listing as listing_module  # noqa: E402
from adcgan.bulk.listing import image_column, list_images, open_location  # noqa: E402


def write_table(path, n=3, column="image", **others):
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": b"x", "path": None}] * n
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    parquet.write_table(pa.table({column: pa.array(images, kind), **others}), path)


def write_files(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


@pytest.fixture
def remote(monkeypatch, tmp_path):
    """Make store:// a file system that is not this machine's, as far as anyone can tell."""
    (tmp_path / "store").mkdir()
    store = fs.SubTreeFileSystem(str(tmp_path / "store"), fs.LocalFileSystem())

    def locate(location, called):
        if location.startswith("store://"):
            return store, location.removeprefix("store://"), location
        return open_location(location, called)

    monkeypatch.setattr(listing_module, "open_location", locate)
    return tmp_path / "store"


def test_a_folder_is_listed_as_for_scoring_in_one_piece(tmp_path):
    write_files(tmp_path, "b.png", "a/c.png", "a/b/d.jpg", ".hidden/e.png", "a/.f.png", "é.png")
    (tmp_path / "link.png").symlink_to("nowhere")
    found = list_images(str(tmp_path))
    expected = list_files(tmp_path)
    assert found.entries.column("name").to_pylist() == [file.name for file in expected]
    assert found.entries.column("error").to_pylist() == [file.error for file in expected]
    paths = found.entries.column("path").to_pylist()
    assert [os.fsdecode(path) for path in paths] == [file.path for file in expected]
    assert found.n_images == 5
    assert found.is_local
    assert not found.tables


def test_a_name_that_is_no_text_keeps_its_path(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff.png"
    Path(os.fsdecode(path)).write_bytes(b"x")
    found = list_images(str(tmp_path))
    assert found.entries.column("path").to_pylist() == [path]
    assert found.entries.column("name").to_pylist() == ["\\udcff.png"]


def test_paths_do_not_depend_on_the_working_directory(tmp_path, monkeypatch):
    write_files(tmp_path, "images/a.png")
    monkeypatch.chdir(tmp_path)
    found = list_images("images")
    assert found.entries.column("path").to_pylist() == [os.fsencode(tmp_path / "images/a.png")]
    assert found.digest() == list_images(str(tmp_path / "images")).digest()
    assert found.digest() == list_images(f"file://{tmp_path}/images").digest()


def test_one_file_is_a_listing_of_one(tmp_path):
    write_files(tmp_path, "a.png")
    assert list_images(str(tmp_path / "a.png")).entries.column("name").to_pylist() == ["a.png"]


def test_one_file_may_have_a_name_that_is_no_text_or_be_a_pipe(tmp_path):
    odd, pipe = os.fsencode(tmp_path) + b"/\xff.png", tmp_path / "pipe.png"
    Path(os.fsdecode(odd)).write_bytes(b"x")
    os.mkfifo(pipe)
    found = list_images(os.fsdecode(odd)).entries
    assert found.column("name").to_pylist() == ["\\udcff.png"]
    assert found.column("path").to_pylist() == [odd]
    assert list_images(str(pipe)).entries.column("error").to_pylist() == ["not a regular file"]


def test_the_digest_tells_names_and_sizes_apart(tmp_path):
    write_files(tmp_path, "a.png", "b.png")
    digests = [list_images(str(tmp_path)).digest()]
    for change in (
        lambda: write_files(tmp_path, "c.png"),
        lambda: (tmp_path / "c.png").rename(tmp_path / "d.png"),
        lambda: (tmp_path / "d.png").write_bytes(b"longer than it was"),
    ):
        change()
        digests.append(list_images(str(tmp_path)).digest())
    assert len(set(digests)) == 4
    assert list_images(str(tmp_path)).digest() == digests[-1]


def test_a_store_is_listed_by_name_without_what_is_hidden(remote):
    write_files(remote, "in/b.png", "in/a/c.png", "in/.hidden/d.png", "in/a/.e.png", "else/f.png")
    write_files(remote, "in/Thumbs.db", "in/a/desktop.ini", "in/__MACOSX/b.png")
    write_files(remote, "in/@eaDir/b.png/SYNOPHOTO_THUMB_M.jpg", "in/a/c.png:Zone.Identifier")
    found = list_images("store://in")
    assert found.entries.column("name").to_pylist() == ["a/c.png", "b.png"]
    assert found.entries.column("path").to_pylist() == [b"in/a/c.png", b"in/b.png"]
    assert found.entries.column("size").to_pylist() == [10, 8]
    assert not found.is_local
    one = list_images("store://in/a/c.png")
    assert one.entries.column("name").to_pylist() == ["c.png"]
    with pytest.raises(InputError, match="'store://gone' does not exist"):
        list_images("store://gone")


def test_parquet_files_count_their_rows(tmp_path):
    write_table(tmp_path / "b.parquet", 3)
    write_table(tmp_path / "a/a.parquet", 4, "img", label=pa.array([1, 2, 3, 4]))
    found = list_images(str(tmp_path))
    assert found.tables
    assert found.entries.column("rows").to_pylist() == [4, 3]
    assert found.n_images == 7
    assert list_images(str(tmp_path / "b.parquet")).n_images == 3


def test_the_column_of_images_is_found():
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    assert image_column(pa.schema([("label", pa.int8()), ("img", image)])) == "img"
    assert image_column(pa.schema([("mask", image), ("image", image)])) == "image"
    assert image_column(pa.schema([("mask", image), ("other", image)])) is None
    assert image_column(pa.schema([("image", pa.binary())])) is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: None, "holds no files"),
        (lambda root: write_files(root, ".hidden"), "holds no files"),
        (lambda root: write_table(root / "a.parquet", 0), "have no rows"),
        (lambda root: write_files(root, "a.parquet"), "'a.parquet' of DATA cannot be read"),
        (lambda root: write_table(root / "a.parquet", column="x", image=[1, 2, 3]), None),
        (
            lambda root: parquet.write_table(pa.table({"a": [1]}), root / "a.parquet"),
            "must have a column 'image' of bytes and path, as on the hub. It has a",
        ),
        (
            lambda root: (write_table(root / "a.parquet"), write_files(root, "b.png", "c.png")),
            "has 1 .parquet files and 2 others, the first 'b.png'",
        ),
    ],
)
def test_what_cannot_be_listed_is_refused_in_one_line(tmp_path, make, message):
    make(tmp_path)
    if message is None:
        assert list_images(str(tmp_path)).n_images == 3
        return
    with pytest.raises(InputError, match=message) as caught:
        list_images(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_what_is_not_there_and_what_is_an_array_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        list_images(str(tmp_path / "gone"))
    (tmp_path / "a.npy").write_bytes(b"")
    with pytest.raises(InputError, match="takes no arrays"):
        list_images(str(tmp_path / "a.npy"))


def test_an_unknown_scheme_is_refused_and_credentials_are_not_shown():
    with pytest.raises(InputError, match="must be a path or a URI that PyArrow reads") as caught:
        list_images("gopher://me:secret@host/images?token=hidden")
    assert "'gopher://host/images'" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_credentials_in_a_uri_are_not_shown():
    _, path, shown = open_location("s3://key:secret@bucket/in?region=eu-west-1", "DATA")
    assert path == "bucket/in"
    assert shown == "s3://bucket/in"
