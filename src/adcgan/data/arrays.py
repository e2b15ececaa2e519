"""Images that come as arrays: in memory, in .npy and .npz files, and in lists."""

from __future__ import annotations

import os
import threading
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from adcgan.data.cache import Decoded
from adcgan.data.folder import decode_found, file_at
from adcgan.data.image_file import (
    MAX_SIZE,
    MIN_SIZE,
    Target,
    reason,
    to_pixels,
    upright,
)
from adcgan.data.parallel import decode_all
from adcgan.data.ragged import Images, Ragged, typical_shape
from adcgan.errors import InputError
from adcgan.progress import Progress

ARRAY_SUFFIXES = {".npy", ".npz"}
# What numpy raises on files that are no archives; the last two where they are single arrays.
_UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    TypeError,
    AttributeError,
)
_SHAPES = "(n, H, W), (n, H, W, 1) or (n, H, W, 3)"


def to_nchw(data: Any, source: str) -> NDArray[np.uint8]:
    """Check an array of images and view it as (n, C, H, W), without a copy.

    Parameters
    ----------
    data : array-like of uint8, shape (n, H, W), (n, H, W, 1) or (n, H, W, 3)
        Anything `numpy.asarray` takes, such as a torch tensor in main memory.
    source : str
        Its name in errors.

    Returns
    -------
    ndarray of uint8, shape (n, C, H, W)

    Raises
    ------
    InputError
        If the array is empty or has another type, rank or channel count.
    """
    try:
        array = np.asanyarray(data)
    except Exception as error:
        raise InputError(
            f"The {source} must be an array in main memory. Got {type(data).__name__}, which "
            f"cannot be read as one: {reason(error)}"
        ) from error
    _check_dtype(array, source)
    _check_shape(array, source)
    images: NDArray[np.uint8] = array[:, None] if array.ndim == 3 else array.transpose(0, 3, 1, 2)
    return images


def is_array(data: Any) -> bool:
    """Say whether `data` is an array, or the path of an .npy or .npz file."""
    if isinstance(data, (str, os.PathLike)):
        path = Path(data).expanduser()
        return path.suffix.lower() in ARRAY_SUFFIXES and path.is_file()
    is_image = isinstance(data, Image.Image)
    return hasattr(data, "__array__") and not is_image and not is_array_of_items(data)


def is_array_of_items(data: Any) -> TypeGuard[Iterable[Any]]:
    """Say whether `data` is an array, or a pandas Series, of paths."""
    kind = getattr(getattr(data, "dtype", None), "kind", None)
    return kind in ("U", "O") and getattr(data, "ndim", None) == 1


def check_side(images: Images, source: str) -> None:
    """Raise `InputError` unless images are square and of one size, with sides of 16 to 256."""
    if isinstance(images, Ragged):
        raise InputError(
            f"The images of {source!r} must all have one size, unless they are resized. They have "
            "several: pass image_size."
        )
    height, width = images.shape[2:]
    if height != width or not MIN_SIZE <= height <= MAX_SIZE:
        raise InputError(
            f"The images of the {source} must be square, {MIN_SIZE} to {MAX_SIZE} pixels a side, "
            f"unless they are resized. Got {height}×{width} instead: pass image_size."
        )


def fit_array(images: Images, target: Target, progress: Progress | None) -> Images:
    """Give images the target's size and channels.

    Parameters
    ----------
    images : ndarray of uint8, shape (n, C, H, W), or Ragged of n
        Returned as they are if they already fit.
    target : Target
        Size and channels; channels None keeps those of `images`.
    progress : Progress or None
        Where to report to; None for a bar on the terminal.

    Returns
    -------
    ndarray of uint8, shape (n, target's channels, H, W), or Ragged of n
    """
    n, channels = len(images), typical_shape(images)[0]
    shapes = images.shapes if isinstance(images, Ragged) else [images.shape[1:]]
    fit = all(target.fits(width, height) for _, height, width in shapes)
    if fit and target.channels in (None, channels):
        return images

    def fetch(i: int) -> NDArray[np.uint8]:
        pixels = images[i][0] if channels == 1 else images[i].transpose(1, 2, 0)
        return to_pixels(Image.fromarray(np.ascontiguousarray(pixels)), target)

    decoded = decode_all([str(i) for i in range(n)], fetch, target, progress=progress)
    assert not decoded.skipped
    return decoded.images


def decode_list(
    items: Sequence[Any], names: list[str], target: Target, progress: Progress | None
) -> Decoded:
    """Turn a list of images into pixels.

    Parameters
    ----------
    items : sequence of PIL.Image.Image, array or path
        PIL images of any mode and size, which are loaded and not changed otherwise; uint8 arrays
        (H, W), (H, W, 1) or (H, W, 3); image files.
    names : list of str
        Their names.
    target : Target
        Size and channels.
    progress : Progress or None
        Where to report to; None for a bar on the terminal.

    Returns
    -------
    Decoded

    Raises
    ------
    InputError
        If an element is none of these.
    """
    for i, item in enumerate(items):
        if isinstance(item, (Image.Image, str, os.PathLike)):
            continue
        if not hasattr(item, "__array__"):
            raise InputError(
                "The elements of a list must be paths, uint8 arrays or PIL images. Got "
                f"{type(item).__name__} at index {i} instead."
            )
        to_nchw(np.asarray(item)[None], f"array at index {i}")
    # Images of one list may share a file that is not read yet.
    loading = threading.Lock()

    def fetch(i: int) -> NDArray[np.uint8]:
        item = items[i]
        if isinstance(item, (str, os.PathLike)):
            return decode_found(file_at(item), target)
        if not isinstance(item, Image.Image):
            array = np.asarray(item)
            return to_pixels(
                Image.fromarray(array[..., 0] if array.shape[2:] == (1,) else array), target
            )
        with loading:
            item.load()
            image = upright(item)
        return to_pixels(image, target)

    return decode_all(names, fetch, target, progress=progress)


def open_npy(path: Path) -> NDArray[Any]:
    """Memory-map a .npy file; `InputError` if it is not one."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"The file {str(path)!r} is not a .npy file of plain numbers: {reason(error)}"
        ) from error
    return array


def open_npz(path: Path) -> tuple[NDArray[Any], NDArray[np.int64] | None]:
    """Read the array ``images`` (or the only one) and, if there, ``labels`` of a .npz file.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    images : ndarray
        Not checked yet.
    labels : ndarray of int64, shape (n,), or None

    Raises
    ------
    InputError
        If it is not a .npz file, has no such arrays, or the labels are not n integers.
    """
    try:
        # Opened here, as numpy leaves the file open where it is no archive.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            others = [key for key in archive.files if key != "labels"]
            key = "images" if "images" in others else others[0] if len(others) == 1 else None
            if key is None:
                raise InputError(
                    f"The file {str(path)!r} must hold an array named 'images', or one array "
                    f"beside 'labels'. Got {sorted(archive.files)} instead."
                )
            images = archive[key]
            labels = archive["labels"] if "labels" in archive.files else None
    except InputError:
        raise
    except _UNREADABLE as error:
        raise InputError(
            f"The file {str(path)!r} is not a .npz file of plain numbers: {reason(error)}"
        ) from error
    return images, None if labels is None else _check_labels(labels, images, path)


def _check_labels(labels: NDArray[Any], images: NDArray[Any], path: Path) -> NDArray[np.int64]:
    n = len(images) if images.ndim else 0
    if labels.dtype.kind not in "iu" or labels.shape != (n,):
        raise InputError(
            f"The array 'labels' of {str(path)!r} must hold one integer for each of the {n} "
            f"images. Got {labels.dtype} of shape {labels.shape} instead."
        )
    return labels.astype(np.int64)


def _check_dtype(array: NDArray[Any], source: str) -> None:
    """Raise `InputError`, with what to do, unless the array is of uint8."""
    if array.dtype == np.uint8:
        return
    advice = "convert it to uint8, 0 (black) to 255 (white)"
    kind = array.dtype.kind
    if kind == "f" and array.size:
        if not np.isfinite(array).all():
            raise InputError(
                f"The {source} must hold uint8 values. Got {array.dtype} with NaN or infinite "
                "values instead: replace or leave out those images."
            )
        if array.min() >= 0 and array.max() <= 1:
            advice = "multiply by 255 and round, (x * 255).round().astype('uint8')"
        elif array.min() >= 0 and array.max() <= 255:
            advice = "round, x.round().astype('uint8')"
        else:
            advice = "scale to 0..255 and round, then .astype('uint8')"
    elif kind == "b":
        advice = "multiply by 255, x.astype('uint8') * 255"
    elif kind in "iu" and array.size:
        within = array.min() >= 0 and array.max() <= 255
        advice = "x.astype('uint8')" if within else "scale to 0..255, then .astype('uint8')"
    raise InputError(
        f"The {source} must hold uint8 values, 0 to 255. Got {array.dtype} instead: {advice}."
    )


def _check_shape(array: NDArray[Any], source: str) -> None:
    """Raise `InputError`, with what to do, unless the shape is one of `_SHAPES`."""
    advice = ""
    if array.ndim == 4 and array.shape[3] not in (1, 3):
        if array.shape[1] in (1, 3):
            advice = ": move the channels last, x.transpose(0, 2, 3, 1)"
        elif array.shape[3] == 4:
            advice = ": leave out the alpha channel, x[..., :3]"
    elif array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3):
        advice = ": for one image pass x[None]"
    elif array.ndim == 3 or (array.ndim == 4 and array.shape[3] in (1, 3)):
        if array.size:
            return
        advice = ", which has no pixels"
    raise InputError(f"The {source} must have shape {_SHAPES}. Got {array.shape} instead{advice}.")
