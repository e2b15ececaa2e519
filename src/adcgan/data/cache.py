"""Decoded pixels on disk, found again by a hash of what they were decoded from.

An entry is two files: ``<key>.pixels`` (raw uint8, one image after the other, each C × H × W) and
``<key>.json`` (shapes, checksum, what was skipped, labels). Both are written under temporary names
and renamed, the JSON last, so that a process that dies leaves no entry, and two that write the same
entry agree.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any

import numpy as np
import PIL
from numpy.typing import NDArray

from adcgan.data.imageset import Skipped
from adcgan.data.ragged import Images, shaped

_FORMAT = 2
_BLOCK = 1 << 20
_STALE_SECONDS = 24 * 3600


class CacheWarning(UserWarning):
    """Decoded images are not kept, and the message says why."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """Pixels of the readable inputs, and why the others could not be read.

    Parameters
    ----------
    images : ndarray of uint8, shape (n, C, H, W), or Ragged of n
    skipped : list of Skipped
    labels : list of int or None
        The class of every input, readable or not, where there are classes.
    """

    images: Images
    skipped: list[Skipped] = field(default_factory=list)
    labels: list[int] | None = None

    @property
    def n_items(self) -> int:
        """Number of inputs, readable or not."""
        return len(self.images) + len(self.skipped)

    @property
    def positions(self) -> NDArray[np.intp]:
        """Place of each image among all inputs, shape (n,)."""
        readable = np.ones(self.n_items, dtype=bool)
        readable[[item.position for item in self.skipped]] = False
        return np.flatnonzero(readable)


def cache_folder() -> Path | None:
    """Return ``$ADCGAN_CACHE``, or ``adcgan`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.

    None if the user has no home folder.
    """
    chosen = os.environ.get("ADCGAN_CACHE")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    if base:
        return Path(base) / "adcgan"
    home = os.path.expanduser("~")
    return None if home == "~" else Path(home) / ".cache" / "adcgan"


def entry_key(settings: dict[str, Any], digests: list[str]) -> str:
    """Return the name of the entry for inputs with these digests, decoded with these settings."""
    what = {"format": _FORMAT, "pillow": PIL.__version__, **settings, "inputs": digests}
    # ASCII JSON, so that names with undecodable bytes can be hashed too.
    return blake2b(json.dumps(what, sort_keys=True).encode("ascii"), digest_size=20).hexdigest()


def file_digest(path: str | Path) -> str:
    """Return the hash of a file's bytes, read a block at a time."""
    digest = blake2b(digest_size=20)
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def read_entry(key: str) -> Decoded | None:
    """Return the entry, its pixels memory-mapped, or None if it is missing or damaged."""
    folder = cache_folder()
    if folder is None:
        return None
    try:
        record = json.loads((folder / f"{key}.json").read_text("utf-8"))
        channels = int(record["channels"])
        shapes = [(channels, int(height), int(width)) for height, width in record["sides"]]
        pixels = folder / f"{key}.pixels"
        total = sum(math.prod(shape) for shape in shapes)
        if pixels.stat().st_size != total or _checksum(pixels) != record["crc32"]:
            return None
        images = shaped(np.memmap(pixels, np.uint8, "r"), shapes)
        decoded = Decoded(images, [Skipped(*row) for row in record["skipped"]], record["labels"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    sound = decoded.labels is None or len(decoded.labels) == decoded.n_items
    return decoded if sound else None


def publish(key: str, pixels: Path, decoded: Decoded) -> None:
    """Make the finished file `pixels`, in the cache folder, the entry `key`."""
    folder = pixels.parent
    shapes = [image.shape for image in decoded.images]
    record = {
        "channels": shapes[0][0],
        "sides": [shape[1:] for shape in shapes],
        "crc32": _checksum(pixels),
        "skipped": [[item.position, item.name, item.error] for item in decoded.skipped],
        "labels": decoded.labels,
    }
    os.replace(pixels, folder / f"{key}.pixels")
    with new_file(folder) as (file, path):
        file.write(json.dumps(record).encode("ascii"))
        file.close()
        os.replace(path, folder / f"{key}.json")


def discard(key: str) -> None:
    """Remove the entry, if it is there."""
    folder = cache_folder()
    if folder is not None:
        for ending in ("json", "pixels"):
            (folder / f"{key}.{ending}").unlink(missing_ok=True)


@contextmanager
def new_file(folder: Path) -> Iterator[tuple[IO[bytes], Path]]:
    """Open a file under a temporary name in `folder`; removed at the end unless renamed."""
    descriptor, name = tempfile.mkstemp(dir=folder, suffix=".tmp")
    path = Path(name)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield file, path
    finally:
        path.unlink(missing_ok=True)


def usable_cache() -> Path | None:
    """Return the cache folder, created if missing, or None with a warning if it is not writable."""
    folder = cache_folder()
    if folder is None:
        warnings.warn(
            "There is no home folder for the cache, so decoded images are not kept. Set "
            "$ADCGAN_CACHE to a folder.",
            CacheWarning,
            stacklevel=2,
        )
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with new_file(folder):
            pass
    except OSError as error:
        warn_of_cache(folder, error)
        return None
    _sweep(folder)
    return folder


def warn_of_cache(folder: Path, error: OSError) -> None:
    """Warn that the cache folder cannot be written."""
    warnings.warn(
        f"The cache folder {str(folder)!r} cannot be written ({error.strerror}): decoded images "
        "are not kept. Set $ADCGAN_CACHE to a writable folder.",
        CacheWarning,
        stacklevel=3,
    )


def _sweep(folder: Path) -> None:
    """Remove what killed processes left behind a day ago or earlier."""
    for path in folder.glob("*.tmp"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                path.unlink()


def _checksum(path: Path) -> int:
    """Return the CRC-32 of a file's bytes: it finds damage, not forgery."""
    checksum = 0
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            checksum = zlib.crc32(block, checksum)
    return checksum
