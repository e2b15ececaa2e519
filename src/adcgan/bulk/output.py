"""A folder of results: a manifest that says what they belong to, and one file for each shard."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import fs, parquet

from adcgan.bulk.listing import open_location, said
from adcgan.bulk.manifest import Manifest, Summary
from adcgan.data.system_files import is_left_out
from adcgan.errors import InputError, StorageError
from adcgan.files import replacing

# The underscore keeps readers of the folder (PyArrow, pandas, Spark) from taking it for a table.
MANIFEST = "_manifest.json"
FORMAT = 1
# Stores where an object appears only once it is complete; on others it is renamed, as on a disk.
_PUTS = {"s3", "gcs", "abfs"}
_SHARD = re.compile(r"shard-(\d{6,})\.parquet")
_LEFT = re.compile(r"\.shard-.*\.tmp")
_SUMMARY = b"adcgan"
_THREADS = 16


def shard_name(shard: int) -> str:
    """Return the name of a shard's file."""
    return f"shard-{shard:06d}.parquet"


def schema(components: Sequence[str]) -> pa.Schema:
    """Return the columns of every shard.

    If an image could not be read, all but the path and the error are null; else the error is null.
    """
    figures = [(name, pa.float64()) for name in components]
    return pa.schema(
        [
            ("path", pa.string()),
            ("score", pa.float64()),
            ("p_value", pa.float64()),
            ("anomalous", pa.int8()),
            *figures,
            ("error", pa.string()),
        ]
    )


@dataclass(frozen=True)
class Output:
    """The folder of results, on a disk or an object store.

    Attributes
    ----------
    filesystem : pyarrow.fs.FileSystem
    path : str
        The folder on it.
    shown : str
        The folder as a person would name it, without credentials.
    """

    filesystem: fs.FileSystem
    path: str
    shown: str

    @classmethod
    def at(cls, location: str) -> Output:
        """Return the folder at a path or URI; `InputError` if there can be none."""
        filesystem, path, shown = open_location(location, "--out")
        return cls(filesystem, path.rstrip("/"), shown)

    def check(self, manifest: Manifest) -> None:
        """Refuse a folder in which this run can neither start nor resume; nothing is written.

        Raises
        ------
        InputError
            The folder holds results of another run, or other files, or cannot be read.
        """
        found = self.read_manifest()
        if found is not None:
            for key, wanted in {"format": FORMAT, **asdict(manifest)}.items():
                if found.get(key) != wanted:
                    raise InputError(
                        f"--out {self.shown!r} holds results of another run: its {key} is "
                        f"{_brief(found.get(key))}, now it would be {_brief(wanted)}. To resume, "
                        "give the same MODEL, DATA and options; or choose a new folder."
                    )
            return
        try:
            taken = self._files()
        except OSError as error:
            raise InputError(f"--out must be a folder. {self.shown!r}: {said(error)}.") from None
        if not all(is_left_out(info.base_name) for info in taken):
            raise InputError(
                f"--out must be a new or empty folder, or one of an earlier run. {self.shown!r} "
                f"holds other files and no {MANIFEST}."
            )

    def begin(self, manifest: Manifest) -> None:
        """Create the folder with its manifest, or resume in it.

        Raises
        ------
        InputError
            As `check`; or a file is where the folder would be.
        StorageError
            The folder cannot be written.
        """
        self.check(manifest)
        content = {"format": FORMAT, **asdict(manifest), "n_shards": manifest.n_shards}
        text = json.dumps(content, indent=2, allow_nan=False) + "\n"
        try:
            self.filesystem.create_dir(self.path, recursive=True)
            self._write(MANIFEST, text.encode("utf-8"))
        except (FileExistsError, NotADirectoryError) as error:
            raise InputError(f"--out {self.shown!r}: {said(error)}.") from None
        except OSError as error:
            raise StorageError(f"--out {self.shown!r}: {said(error)}.") from None

    def finished(self, manifest: Manifest) -> dict[int, Summary]:
        """Return the summaries of the finished shards, by number.

        A file that cannot be read, or has the wrong number of rows, is left out: it is written
        again.
        """
        numbers = [
            int(match[1])
            for info in self._files()
            if (match := _SHARD.fullmatch(info.base_name)) and int(match[1]) < manifest.n_shards
        ]

        def read(shard: int) -> Summary | None:
            try:
                with self._open(shard_name(shard)) as file:
                    footer = parquet.read_metadata(file)
                whole = footer.num_rows == len(manifest.span(shard))
                return Summary(**json.loads(footer.metadata[_SUMMARY])) if whole else None
            except (OSError, ValueError, KeyError, TypeError):
                return None

        with ThreadPoolExecutor(_THREADS) as pool:
            summaries = zip(numbers, pool.map(read, numbers), strict=True)
            return {shard: summary for shard, summary in summaries if summary is not None}

    def some_scores(self, manifest: Manifest, most: int) -> NDArray[np.float64]:
        """Return about `most` scores (n,), from evenly spread shards, all of which are finished.

        nan where an image could not be read.

        Raises
        ------
        InputError
            A file cannot be read.
        """
        every = -(-manifest.n_images // most)

        def read(shard: int) -> NDArray[np.float64]:
            with self._open(shard_name(shard)) as file:
                column = parquet.read_table(file, columns=["score"]).column("score")
            return np.asarray(column.to_numpy(), dtype=np.float64)

        try:
            with ThreadPoolExecutor(_THREADS) as pool:
                return np.concatenate(list(pool.map(read, range(0, manifest.n_shards, every))))
        except OSError as error:
            raise InputError(f"--out {self.shown!r} cannot be read: {said(error)}.") from None

    def write_shard(
        self,
        shard: int,
        columns: Mapping[str, Any],
        components: Sequence[str],
        summary: Summary,
    ) -> None:
        """Write one shard, whole or not at all, replacing any earlier one.

        Raises
        ------
        StorageError
            It cannot be written: there is no space, or no permission.
        """
        about = {_SUMMARY: json.dumps(asdict(summary)).encode("utf-8")}
        table = pa.table(dict(columns), schema=schema(components).with_metadata(about))
        sink = pa.BufferOutputStream()
        parquet.write_table(table, sink, compression="zstd")
        try:
            self._write(shard_name(shard), sink.getvalue().to_pybytes())
        except OSError as error:
            raise StorageError(
                f"--out {self.shown!r}: {shard_name(shard)} cannot be written: {said(error)}."
            ) from None

    def tidy(self) -> None:
        """Remove what killed workers left half-written; for when every shard is finished."""
        for info in self._files():
            if _LEFT.fullmatch(info.base_name):
                # Another run in this folder may tidy too.
                with suppress(FileNotFoundError):
                    self.filesystem.delete_file(info.path)

    def read_manifest(self) -> dict[str, Any] | None:
        """Return the manifest, or None if this machine sees none."""
        try:
            with self._open(MANIFEST) as file:
                content: dict[str, Any] = json.loads(file.readall())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise InputError(
                f"--out {self.shown!r}: {MANIFEST} cannot be read: {said(error)}."
            ) from None
        return content

    def _open(self, name: str) -> Any:
        """Open a file of the folder to read it."""
        return self.filesystem.open_input_file(f"{self.path}/{name}")

    def _files(self) -> list[Any]:
        """Return what is in the folder; nothing if it does not exist."""
        selector = fs.FileSelector(self.path, allow_not_found=True)
        files: list[Any] = self.filesystem.get_file_info(selector)
        return files

    def _write(self, name: str, content: bytes) -> None:
        """Write one file, whole or not at all."""
        final = f"{self.path}/{name}"
        if isinstance(self.filesystem, fs.LocalFileSystem):
            with replacing(final) as temporary:
                temporary.write_bytes(content)
            return
        at_once = self.filesystem.type_name in _PUTS
        path = final if at_once else f"{self.path}/.{name}.{uuid4().hex}.tmp"
        with self.filesystem.open_output_stream(path) as stream:
            stream.write(content)
        if not at_once:
            self.filesystem.move(path, final)


def _brief(value: Any) -> str:
    """Show a value of the manifest, or the first digits of a hash."""
    text = ", ".join(value) if isinstance(value, list) else str(value)
    return text[:12] if re.fullmatch("[0-9a-f]{64}", text) else text
