"""Manifests: a CSV or Parquet file with a row for each image."""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path
from typing import Any

from adcgan.data.folder import file_at, valid_name
from adcgan.data.image_file import reason
from adcgan.data.listing import ListedImage, Listing
from adcgan.errors import InputError, MissingExtraError

SUFFIXES = {".csv", ".parquet"}
COLUMNS = ("path", "label", "type", "mask", "split")
_LABELS = {"normal": 0, "0": 0, "anomalous": 1, "1": 1}
_SPLITS = ("train", "test")


def is_manifest(path: str | os.PathLike[str]) -> bool:
    """Say whether a path is a file with a manifest's ending."""
    there = Path(path).expanduser()
    return there.suffix.lower() in SUFFIXES and os.path.isfile(there)


def read_manifest(path: str | os.PathLike[str]) -> Listing:
    """Read a manifest.

    Parameters
    ----------
    path : path
        A CSV file (UTF-8, commas, the names of the columns in its first line), or a Parquet file
        where pyarrow is installed. Columns, in any order, others being left out of account:
        ``path`` of an image, relative to the manifest; and optionally ``label`` (normal or 0,
        anomalous or 1; empty where unknown), ``type`` of defect, ``mask`` (a path as well) and
        ``split`` (train or test).

    Returns
    -------
    Listing
        Every row, in order, named by its ``path``. A row whose file is missing has an error.

    Raises
    ------
    InputError
        If the file cannot be read, lacks ``path``, has no row, or a value is not one of those.
    MissingExtraError
        If it is a Parquet file and pyarrow is not installed.
    """
    there = Path(path).expanduser()
    rows = _parquet(there) if there.suffix.lower() == ".parquet" else _csv(there)
    if not rows:
        raise InputError(f"The manifest {str(there)!r} must list images. It has no rows.")
    images = [_listed(row, i + 1, there) for i, row in enumerate(rows)]
    return Listing(str(there), images, with_masks="mask" in rows[0])


def _csv(path: Path) -> list[dict[str, str]]:
    try:
        # Programs that people export tables from begin them with a byte-order mark.
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            names = [name.strip().lower() for name in next(reader, [])]
            _check_columns(names, path)
            rows: list[dict[str, str]] = []
            for values in reader:
                if not values:
                    continue
                if len(values) != len(names):
                    raise InputError(
                        f"Every row of the manifest {str(path)!r} must have {len(names)} values, "
                        f"as its first line has. Row {len(rows) + 1} has {len(values)}."
                    )
                rows.append(dict(zip(names, map(str.strip, values), strict=True)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"The manifest {str(path)!r} cannot be read as CSV in UTF-8: {reason(error)}."
        ) from error
    return rows


def _parquet(path: Path) -> list[dict[str, str]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise MissingExtraError(
            "A manifest in Parquet needs pyarrow: pip install pyarrow"
        ) from None
    try:
        names = pyarrow.parquet.read_schema(path).names
        _check_columns(names, path)
        table = pyarrow.parquet.read_table(path, columns=[n for n in names if n in COLUMNS])
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(
            f"The manifest {str(path)!r} cannot be read as Parquet: {reason(error)}."
        ) from error
    return [{name: _text(value) for name, value in row.items()} for row in table.to_pylist()]


def _check_columns(names: list[str], path: Path) -> None:
    """Refuse a table without paths, or with two columns of one name that matter."""
    twice = sorted({name for name in names if name in COLUMNS and names.count(name) > 1})
    if "path" not in names or twice:
        got = f"{', '.join(map(repr, names))}" if names else "no column"
        raise InputError(
            f"The manifest {str(path)!r} must have one column 'path', and at most one each of "
            f"{', '.join(map(repr, COLUMNS[1:]))}. Got {got} instead."
        )


def _text(value: Any) -> str:
    """Return a value of a Parquet file as a CSV file has it: nothing for null, 1 for true."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        value = int(value)
    return str(value).strip()


def _listed(row: dict[str, str], number: int, manifest: Path) -> ListedImage:
    """Return what a row says; `number` counts from 1."""
    if not row["path"]:
        raise InputError(f"Row {number} of the manifest {str(manifest)!r} must have a 'path'.")
    label = None
    if row.get("label"):
        label = _LABELS.get(row["label"].lower())
        if label is None:
            raise _refused(row, "label", "normal, anomalous, 0, 1 or empty", number, manifest)
    split = row.get("split", "").lower() or None
    if "split" in row and split not in _SPLITS:
        raise _refused(row, "split", "train or test", number, manifest)
    mask = row.get("mask")
    return ListedImage(
        file_at(_inside(manifest, row["path"]), valid_name(row["path"])),
        label,
        (row.get("type") or None) if label == 1 else None,
        _inside(manifest, mask) if mask else None,
        split,
    )


def _refused(
    row: dict[str, str], column: str, allowed: str, number: int, manifest: Path
) -> InputError:
    return InputError(
        f"The {column!r} of row {number} of the manifest {str(manifest)!r} must be {allowed}. "
        f"Got {row[column]!r} instead."
    )


def _inside(manifest: Path, path: str) -> str:
    """Return where a path in a manifest leads."""
    return os.path.join(manifest.parent, os.path.expanduser(path))
