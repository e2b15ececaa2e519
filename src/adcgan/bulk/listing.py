"""What there is to score, in a fixed order: files, or rows of Parquet files."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from adcgan.data.arrays import is_array
from adcgan.data.folder import FoundFile, file_at, list_files
from adcgan.data.image_file import reason
from adcgan.data.system_files import is_left_out
from adcgan.errors import InputError, MissingExtraError

try:
    import pyarrow as pa
    from pyarrow import fs, parquet
except ImportError as error:
    raise MissingExtraError("Bulk scoring needs PyArrow: pip install 'adcgan[ray]'") from error

PARQUET = ".parquet"
# Footers read at the same time: on an object store they wait for the network.
_THREADS = 16
_UNKNOWN = -1


@dataclass(frozen=True)
class Listing:
    """The images of a run, by position from 0.

    Attributes
    ----------
    filesystem : pyarrow.fs.FileSystem
    entries : pyarrow.Table
        One row for each file, ascending by name. Columns: name (relative, POSIX style), path
        (bytes: names of files need not be text), size (bytes, -1 if unknown), rows (images
        in it), error (why it cannot be opened, or "").
    root : str
        The path of the folder or file on `filesystem`.
    tables : bool
        Whether the files are Parquet files of any number of images, or single images.
    source : str
        The data as a person would name it, without credentials.
    """

    filesystem: fs.FileSystem
    entries: pa.Table
    root: str
    tables: bool
    source: str

    @property
    def n_images(self) -> int:
        """Number of images."""
        return sum(self.entries.column("rows").to_pylist()) if self.tables else len(self.entries)

    @property
    def is_local(self) -> bool:
        """Whether the files are on a disk, which every machine must see at the same path."""
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def digest(self) -> str:
        """Return a hash of all names, sizes and numbers of rows."""
        digest = hashlib.sha256(b"tables" if self.tables else b"files")
        for batch in self.entries.select(["name", "size", "rows"]).to_batches():
            for name, size, rows in zip(*batch.to_pydict().values(), strict=True):
                digest.update(f"\n{size} {rows} {name}".encode("utf-8", "backslashreplace"))
        return digest.hexdigest()


def list_images(data: str) -> Listing:
    """List the images of a folder or file, here or on an object store.

    Parameters
    ----------
    data : str
        A path, or a URI that PyArrow reads (s3://, gs://, hdfs://, abfs://, file://), of a folder
        of images (including its folders, without hidden files and those of operating systems),
        one image, one .parquet file, or a folder of nothing but those. Parquet files have a
        struct column ``image``, or one of another name, of ``bytes`` and ``path``: the layout of
        the Hugging Face hub.

    Returns
    -------
    Listing

    Raises
    ------
    InputError
        There are no images, they cannot be reached, they are mixed with Parquet files, or a
        Parquet file is damaged or has no column of images.
    """
    filesystem, path, source = open_location(data, "DATA")
    if isinstance(filesystem, fs.LocalFileSystem):
        found = _local_files(path, source)
    else:
        found = _remote_files(filesystem, path, source)
    if not found:
        raise InputError(f"DATA must hold images. {source!r} holds no files.")
    tables = _are_tables([file.name for file, _ in found], source)
    rows = _row_counts(filesystem, [file for file, _ in found]) if tables else [1] * len(found)
    entries = pa.table(
        {
            "name": pa.array((file.name for file, _ in found), pa.large_string()),
            "path": pa.array((os.fsencode(file.path) for file, _ in found), pa.large_binary()),
            "size": pa.array((size for _, size in found), pa.int64()),
            "rows": pa.array(rows, pa.int64()),
            "error": pa.array((file.error for file, _ in found), pa.large_string()),
        }
    )
    listing = Listing(filesystem, entries, path, tables, source)
    if not listing.n_images:
        raise InputError(f"DATA must hold images. The files in {source!r} have no rows.")
    return listing


def open_location(location: str, called: str) -> tuple[fs.FileSystem, str, str]:
    """Return the file system of a path or URI, the path on it, and a name without credentials.

    Parameters
    ----------
    location : str
        A path on this machine, or a URI.
    called : str
        Its name in errors.

    Raises
    ------
    InputError
        The URI's scheme is unknown, or what it needs is missing.
    """
    if "://" not in location:
        return fs.LocalFileSystem(), os.path.abspath(location), location
    # The parts before the @ and after the ? may be credentials.
    scheme, _, rest = location.partition("://")
    shown = f"{scheme}://{rest.partition('?')[0].rpartition('@')[2]}"
    try:
        filesystem, path = fs.FileSystem.from_uri(location)
    except (OSError, ValueError, NotImplementedError, ImportError) as error:
        raise InputError(
            f"{called} must be a path or a URI that PyArrow reads, such as s3://BUCKET/FOLDER. "
            f"Got {shown!r} instead: {said(error).replace(location, shown)}."
        ) from None
    return filesystem, path, shown


def image_column(schema: pa.Schema) -> str | None:
    """Return the name of the column of images, or None.

    ``image`` if it is a struct with a field ``bytes``, else the only such column.
    """
    names = [field.name for field in schema if _holds_images(field.type)]
    if "image" in names:
        return "image"
    return names[0] if len(names) == 1 else None


def said(error: Exception) -> str:
    """Return what an error of PyArrow means, in one line."""
    # PyArrow's errors lack the number that gives the reason of Python's.
    for kind, number in ((FileNotFoundError, errno.ENOENT), (PermissionError, errno.EACCES)):
        if isinstance(error, kind):
            return os.strerror(number)
    return reason(error).rstrip(".")


def _holds_images(kind: pa.DataType) -> bool:
    """Say whether a column of this type may hold images."""
    if not pa.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        return False
    content = kind.field("bytes").type
    return bool(pa.types.is_binary(content) or pa.types.is_large_binary(content))


def _local_files(path: str, source: str) -> list[tuple[FoundFile, int]]:
    """List files on this machine, as `adcgan.data.load_images` does, with their sizes."""
    if not os.path.lexists(path):
        raise InputError(
            f"DATA must be a folder, an image or a .parquet file. {source!r} does not exist."
        )
    if is_array(path):
        raise InputError(
            "DATA must be a folder, an image or a .parquet file for --ray, which takes no arrays. "
            f"Got {source!r} instead."
        )
    is_folder = os.path.isdir(path)
    files = list_files(Path(path)) if is_folder else [file_at(path, os.path.basename(path))]
    return [(file, _size(file)) for file in files]


def _size(file: FoundFile) -> int:
    """Return the size of a file in bytes, if it has one."""
    try:
        return os.stat(file.path).st_size
    except OSError:
        return _UNKNOWN


def _remote_files(filesystem: fs.FileSystem, path: str, source: str) -> list[tuple[FoundFile, int]]:
    """List files of an object store or another remote file system."""
    folder = path.rstrip("/")
    try:
        infos = [filesystem.get_file_info(folder)]
        if infos[0].type == fs.FileType.File:
            folder = folder.removesuffix(infos[0].base_name)
        else:
            infos = filesystem.get_file_info(fs.FileSelector(folder, recursive=True))
    except FileNotFoundError:
        raise InputError(f"DATA must be a folder or a file. {source!r} does not exist.") from None
    except OSError as error:
        raise InputError(f"{source!r} cannot be listed: {said(error)}.") from None
    found = []
    for info in infos:
        name = info.path[len(folder) :].lstrip("/")
        left_out = any(is_left_out(part) for part in name.split("/"))
        if info.type == fs.FileType.File and not left_out:
            size = _UNKNOWN if info.size is None else info.size
            found.append((FoundFile(name, info.path), size))
    return sorted(found, key=lambda item: item[0].name)


def _are_tables(names: Sequence[str], source: str) -> bool:
    """Say whether the files are Parquet files; refuse a mixture."""
    others = [name for name in names if not name.lower().endswith(PARQUET)]
    if others and len(others) < len(names):
        raise InputError(
            f"DATA must hold images or {PARQUET} files, not both. {source!r} has "
            f"{len(names) - len(others)} {PARQUET} files and {len(others)} others, the first "
            f"{others[0]!r}."
        )
    return not others


def _row_counts(filesystem: fs.FileSystem, files: Sequence[FoundFile]) -> list[int]:
    """Return the number of images in each Parquet file, from their footers."""

    def count(file: FoundFile) -> int:
        try:
            if file.error:
                raise OSError(file.error)
            with filesystem.open_input_file(file.path) as opened:
                footer = parquet.read_metadata(opened)
        except (OSError, ValueError) as error:
            raise InputError(
                f"The file {file.name!r} of DATA cannot be read: {said(error)}."
            ) from None
        columns = footer.schema.to_arrow_schema()
        if image_column(columns) is None:
            raise InputError(
                f"The file {file.name!r} of DATA must have a column 'image' of bytes and path, as "
                f"on the hub. It has {', '.join(columns.names)}."
            )
        return int(footer.num_rows)

    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(count, files))
