"""From positions in the listing to images: each one's name and its content or path, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeAlias

import pyarrow as pa
from pyarrow import compute, fs, parquet

from adcgan.bulk.listing import Listing, image_column, said

# Files fetched at the same time from an object store, where each waits for the network.
_FETCHES = 16
# A larger image file is not fetched into memory; on a disk the decoder reads what it needs.
_LARGEST = 256 << 20
# Path, content and error of a row in a Parquet file.
_Stored: TypeAlias = "tuple[str | None, bytes | None, str]"
# Rows of a Parquet file held in memory, and bytes read, at a time.
_ROWS = 64
_BUFFER = 4 << 20


@dataclass(frozen=True)
class Found:
    """An image to decode: its file's content, or its path on this machine, or an error."""

    name: str
    content: bytes | None = None
    path: bytes | None = None
    error: str = ""


def images_at(listing: Listing, span: range) -> Iterator[Found]:
    """Yield the images at the positions in `span`, each once, whatever is wrong with it."""
    entries = listing.entries
    if listing.tables:
        end = 0
        for entry in entries.to_pylist():
            start, end = end, end + entry["rows"]
            if rows := range(max(start, span.start) - start, min(end, span.stop) - start):
                yield from _rows(listing.filesystem, entry, rows)
        return
    entries = entries.slice(span.start, len(span)).to_pylist()
    if listing.is_local:
        for entry in entries:
            yield Found(entry["name"], path=entry["path"], error=entry["error"])
    else:
        yield from _fetched(listing.filesystem, entries)


def _fetched(filesystem: fs.FileSystem, entries: list[dict[str, Any]]) -> Iterator[Found]:
    """Yield the files of an object store; threads fetch a few ahead."""

    def fetch(entry: dict[str, Any]) -> Found:
        if entry["size"] > _LARGEST:
            return Found(entry["name"], error=f"the file is larger than {_LARGEST >> 20} MiB")
        try:
            with filesystem.open_input_file(str(entry["path"], "utf-8")) as file:
                return Found(entry["name"], content=file.readall())
        except (OSError, ValueError) as error:
            return Found(entry["name"], error=said(error))

    ahead: deque[Future[Found]] = deque()
    pool = ThreadPoolExecutor(_FETCHES)
    try:
        for entry in entries:
            ahead.append(pool.submit(fetch, entry))
            if len(ahead) > _FETCHES:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _rows(filesystem: fs.FileSystem, entry: dict[str, Any], span: range) -> Iterator[Found]:
    """Yield the rows of one Parquet file at `span`; those that are lost with the reason."""
    called, done = entry["name"], span.start
    lost = "it has fewer rows than when it was listed"
    try:
        with filesystem.open_input_file(str(entry["path"], "utf-8")) as file:
            opened = parquet.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER)
            for group, rows in _groups(opened.metadata, span):
                for name, content, error in _read(opened, group, rows):
                    yield Found(name or f"{called}#{done}", content or None, error=error)
                    done += 1
    except (OSError, ValueError) as error:
        lost = said(error)
    for row in range(done, span.stop):
        yield Found(f"{called}#{row}", error=f"the Parquet file: {lost}")


def _groups(metadata: Any, span: range) -> Iterator[tuple[int, range]]:
    """Yield the row groups that hold `span`, each with its rows, counted within the group."""
    first = 0
    for group in range(metadata.num_row_groups):
        n = metadata.row_group(group).num_rows
        rows = range(max(0, span.start - first), min(n, span.stop - first))
        if rows:
            yield group, rows
        first += n


def _read(opened: Any, group: int, rows: range) -> Iterator[_Stored]:
    """Yield the `rows` of one group; those that are lost with the reason."""
    done = rows.start
    try:
        for stored in islice(_stored(opened, group, rows.start), len(rows)):
            yield stored
            done += 1
    except (OSError, ValueError) as error:
        # Later groups may be intact.
        lost = f"the Parquet file: {said(error)}"
        yield from ((None, None, lost) for _ in range(done, rows.stop))


def _stored(opened: Any, group: int, start: int) -> Iterator[_Stored]:
    """Yield the rows of one group from `start` on, with few in memory."""
    schema = opened.schema_arrow
    column = image_column(schema)
    if column is None:
        raise OSError("it has no column of images")
    has_path = "path" in schema.names and pa.types.is_string(schema.field("path").type)
    wanted = [column, "path"] if has_path else [column]
    for whole in opened.iter_batches(_ROWS, row_groups=[group], columns=wanted):
        batch = whole.slice(min(start, len(whole)))
        start -= len(whole) - len(batch)
        images = batch.column(column)
        paths = [batch.column("path")] if has_path else []
        if images.type.get_field_index("path") >= 0:
            paths.append(compute.struct_field(images, "path"))
        names = [_texts(found) for found in paths] or [[None] * len(batch)]
        contents = compute.struct_field(images, "bytes")
        for content, *several in zip(contents, *names, strict=True):
            found = content.as_py()
            name = next(filter(None, several), None)
            yield name, found, "" if found else "the row holds no image"


def _texts(column: Any) -> list[str | None]:
    """Return a column of text; bytes that are not UTF-8 become escapes."""
    values = column.cast(pa.large_binary()).to_pylist() if len(column) else []
    return [None if value is None else str(value, "utf-8", "backslashreplace") for value in values]
