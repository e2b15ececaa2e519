"""Data sets of the Hugging Face hub, or local copies in its layout, through `datasets`."""

from __future__ import annotations

import errno
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adcgan.data.cache import Decoded, entry_key, file_digest, read_entry
from adcgan.data.image_file import Target, decode_file
from adcgan.data.parallel import decode_all
from adcgan.data.system_files import is_left_out
from adcgan.errors import InputError, MissingExtraError, system_failure
from adcgan.progress import Progress


def decode_hub(
    hub_id: str,
    split: str,
    image_column: str,
    label_column: str,
    target: Target,
    progress: Progress | None,
) -> Decoded:
    """Decode one split of a repository, or take it from the cache.

    Parameters
    ----------
    hub_id : str
        The repository, read from ``$ADCGAN_DATA/<hub_id>`` where that variable is set.
    split : str
        A split that the repository has.
    image_column, label_column : str
        Names of its columns.
    target : Target
        Size and channels.
    progress : Progress or None
        Where to report to; None for a bar on the terminal.

    Returns
    -------
    Decoded
        With labels.

    Raises
    ------
    InputError
        If the repository cannot be read.
    MissingExtraError
        If `datasets` is not installed.
    """
    settings = {
        "dataset": hub_id,
        "split": split,
        "size": target.size,
        "resize": target.resize,
        "channels": target.channels,
    }
    root = os.environ.get("ADCGAN_DATA")
    with ExitStack() as stack:
        if root:
            # Looked up before `datasets` is imported, which takes longer than all the rest.
            files = parquet_files(Path(root) / hub_id, split)
            key = entry_key(settings, [file_digest(file) for file in files])
            if (kept := read_entry(key)) is not None:
                return kept
            # The converted copy that `datasets` makes is of no use once the images are decoded.
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="adcgan-"))
            rows = _open_dataset(str(Path(root) / hub_id), split, hub_id, scratch)
        else:
            rows = _open_dataset(hub_id, split, hub_id, None)
            key = entry_key(settings, [rows._fingerprint])
            if (kept := read_entry(key)) is not None:
                return kept
        # The columns of the table are used as they are stored: `rows` itself would decode images.
        labels = rows.data.column(label_column).to_pylist()
        fetch = partial(_fetch, rows.data.column(image_column), target)
        names = [str(i) for i in range(len(labels))]
        return decode_all(names, fetch, target, key=key, labels=labels, progress=progress)


def _fetch(column: Any, target: Target, i: int) -> NDArray[np.uint8]:
    """Decode the image of one row."""
    content = column[i]["bytes"].as_py()
    if not content:
        raise ValueError("the row holds no image")
    return decode_file(BytesIO(content), target)


def parquet_files(folder: Path, split: str) -> list[Path]:
    """List the files of one split in a local copy, in order; `InputError` if there is none."""
    files = [
        path
        for path in sorted(folder.glob(f"**/{split}-*.parquet"))
        if not any(map(is_left_out, path.relative_to(folder).parts))
    ]
    if not files:
        raise InputError(
            f"The folder {str(folder)!r} must hold {split}-*.parquet files in the hub's layout, "
            "since $ADCGAN_DATA is set. It holds none."
        )
    return files


def _open_dataset(path: str, split: str, hub_id: str, cache_dir: str | None) -> Any:
    """Open a split through `datasets`, without its bars, log lines and warnings."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import datasets
    except ImportError as error:
        raise MissingExtraError(
            "Named data sets need the 'datasets' package: pip install 'adcgan[data]'"
        ) from error
    try:
        with _quiet(datasets):
            return datasets.load_dataset(path, split=split, cache_dir=cache_dir)
    except Exception as error:
        failure = system_failure(error)
        if failure is not None and failure.errno != errno.ENOENT:
            if failure.filename is None and cache_dir is not None:
                failure.filename = tempfile.tempdir
            raise failure from None
        # The hub's client raises a dozen unrelated types; for the caller they mean one thing.
        what = " ".join(f"{type(error).__name__}: {error}".split())
        where = "the hub" if path == hub_id else repr(path)
        hint = " Or set $ADCGAN_DATA to a folder with a copy." if path == hub_id else ""
        raise InputError(
            f"The data set {hub_id!r} cannot be read from {where}: {what}{hint}"
        ) from error


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """Silence `datasets` for a while."""
    level = datasets.logging.get_verbosity()
    bars_were_off = datasets.are_progress_bars_disabled()
    datasets.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        datasets.logging.set_verbosity(level)
        if not bars_were_off:
            datasets.enable_progress_bars()
