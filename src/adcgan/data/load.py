"""`load_images`, which loads images of any kind."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from adcgan.data.arrays import (
    check_side,
    decode_list,
    fit_array,
    is_array_of_items,
    open_npy,
    open_npz,
    to_nchw,
)
from adcgan.data.cache import Decoded
from adcgan.data.folder import FoundFile, decode_files, file_at, list_files
from adcgan.data.image_file import Target, check_channels, check_image_size, check_resize
from adcgan.data.imageset import ImageSet
from adcgan.data.listing import Listing
from adcgan.data.manifest import is_manifest, read_manifest
from adcgan.data.named import DATASETS
from adcgan.errors import InputError
from adcgan.progress import Progress

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

ImagePath: TypeAlias = "str | os.PathLike[str]"
ImageSource: TypeAlias = (
    "ImagePath | ArrayLike | Sequence[ImagePath | NDArray[np.uint8] | Image.Image]"
    " | Listing | ImageSet"
)

DEFAULT_SIZE = 64


def load_images(
    data: ImageSource,
    *,
    image_size: int | None = None,
    resize: str = "squash",
    channels: int | None = None,
    strict: bool = False,
    cache: bool = False,
    progress: Progress | None = None,
) -> ImageSet:
    """Load images from a folder, a file, an array or a list.

    Parameters
    ----------
    data : path, array, list, Listing or ImageSet
        A folder (with the folders in it; hidden files and those of operating systems are left
        out), an image file, a manifest (every row of it; see `read_manifest`), a .npy file, a .npz
        file (array ``images`` or its only one, and ``labels`` if there), a uint8 array of shape
        (n, H, W), (n, H, W, 1) or (n, H, W, 3), a list (or an array, or a pandas Series) of image
        files, of uint8 arrays (H, W), (H, W, 1) or (H, W, 3) of any sizes and of PIL images, a
        `Listing`, or an image set, which is returned as it is where it fits. ``~`` in a path is
        the user's home.
    image_size : int or None, default None
        Height and width to resize to, 16 to 256. None: 64 for folders, image files and lists;
        arrays keep their size, which must be square and within those bounds. With
        ``resize="keep"`` the longer side at most, 64 to 8192; None: every image keeps its size.
    resize : {"squash", "crop", "pad", "keep"}, default "squash"
        How an image that is not square becomes so: stretched, its centre square, or fitted
        between black bars. "keep": it keeps its aspect, and its size up to `image_size`.
    channels : {1, 3} or None, default None
        Convert to grey or RGB. None: grey if every readable image is stored as grey, else RGB;
        arrays keep theirs.
    strict : bool, default False
        Raise if anything cannot be read, instead of listing it in `ImageSet.skipped`.
    cache : bool, default False
        Keep decoded folders and image files in ``$ADCGAN_CACHE`` (or the user's cache folder),
        found again by their content. Data that is in memory or in .npy files already is not kept.
    progress : Progress or None, default None
        Where to report to; None for a bar on the terminal.

    Returns
    -------
    ImageSet

    Raises
    ------
    InputError
        If a parameter or the data is wrong, or no image can be read.
    """
    check_resize(resize)
    if image_size is not None:
        check_image_size(image_size, resize)
    check_channels(channels)
    size = None if image_size is None else int(image_size)
    target = Target(size or (None if resize == "keep" else DEFAULT_SIZE), resize, channels)
    if isinstance(data, (str, os.PathLike)):
        path = Path(data).expanduser()
        if path.suffix.lower() in {".npy", ".npz"} and os.path.isfile(path):
            found = _fit(_load_array_file(path), image_size, resize, channels, progress)
        elif is_manifest(path):
            found = _load_listing(read_manifest(path), target, cache=cache, progress=progress)
        else:
            found = _load_files(path, target, cache=cache, progress=progress)
    elif isinstance(data, ImageSet):
        found = _fit(data, image_size, resize, channels, progress)
    elif isinstance(data, Listing):
        found = _load_listing(data, target, cache=cache, progress=progress)
    elif isinstance(data, (list, tuple)):
        found = _load_list(data, target, cache=cache, progress=progress)
    elif is_array_of_items(data):
        found = _load_list(list(data), target, cache=cache, progress=progress)
    else:
        found = _fit(_from_array(data, "array"), image_size, resize, channels, progress)
    return _checked(found, strict)


def _load_files(path: Path, target: Target, *, cache: bool, progress: Progress | None) -> ImageSet:
    # os.path, unlike Path, takes a path that cannot be looked at for one that is not there.
    if not os.path.lexists(path):
        hint = " To load the data set of that name use load_named." if str(path) in DATASETS else ""
        raise InputError(f"The path {str(path)!r} does not exist or cannot be reached.{hint}")
    files = list_files(path) if os.path.isdir(path) else [file_at(path, path.name)]
    if not files:
        raise InputError(f"The folder {str(path)!r} must hold images. It holds no file.")
    decoded = decode_files(files, target, cache=cache, progress=progress)
    return _from_files(decoded, files, str(path))


def _load_listing(
    listing: Listing, target: Target, *, cache: bool, progress: Progress | None
) -> ImageSet:
    if not listing.images:
        raise InputError(f"{listing.source!r} must list images. It lists none.")
    files = [item.file for item in listing.images]
    decoded = decode_files(files, target, cache=cache, progress=progress)
    found = _from_files(decoded, files, listing.source)
    known = [listing.images[i] for i in found.positions]
    labels = [item.label for item in known if item.label is not None]
    typed = any(item.type is not None for item in known)
    return replace(
        found,
        labels=np.array(labels, dtype=np.int64) if len(labels) == len(known) else None,
        types=[item.type for item in known] if typed else None,
        masks=[item.mask for item in known] if listing.with_masks else None,
    )


def _load_array_file(path: Path) -> ImageSet:
    """Load a .npy or .npz file as it is."""
    if path.suffix.lower() == ".npy":
        return _from_array(open_npy(path), f"array in {str(path)!r}", str(path))
    array, labels = open_npz(path)
    return replace(_from_array(array, f"array in {str(path)!r}", str(path)), labels=labels)


def _load_list(
    items: Sequence[Any], target: Target, *, cache: bool, progress: Progress | None
) -> ImageSet:
    if not items:
        raise InputError("The list of images must not be empty.")
    files = [file_at(item) for item in items if isinstance(item, (str, os.PathLike))]
    if len(files) == len(items):
        decoded = decode_files(files, target, cache=cache, progress=progress)
        return _from_files(decoded, files, "list of files")
    names = [str(i) for i in range(len(items))]
    return _from_decoded(decode_list(items, names, target, progress), names, "list of images")


def _from_array(data: Any, called: str, source: str = "array") -> ImageSet:
    if isinstance(data, Image.Image) or not hasattr(data, "__array__"):
        raise InputError(
            "The data must be a path, a uint8 array, a list of paths, arrays or PIL images, or an "
            "ImageSet. "
            f"Got {type(data).__name__} instead"
            + (": pass [image]." if isinstance(data, Image.Image) else ".")
        )
    images = to_nchw(data, called)
    positions = np.arange(len(images), dtype=np.intp)
    return ImageSet(images, [str(i) for i in positions], positions, source=source)


def _from_files(decoded: Decoded, files: list[FoundFile], source: str) -> ImageSet:
    found = _from_decoded(decoded, [file.name for file in files], source)
    return replace(found, files=[files[i].path for i in found.positions])


def _from_decoded(decoded: Decoded, names: list[str], source: str) -> ImageSet:
    positions = decoded.positions
    return ImageSet(
        images=decoded.images,
        names=[names[i] for i in positions],
        positions=positions,
        skipped=decoded.skipped,
        source=source,
        resized=True,
    )


def _fit(
    found: ImageSet,
    image_size: int | None,
    resize: str,
    channels: int | None,
    progress: Progress | None,
) -> ImageSet:
    """Resize only if asked to; otherwise check that the size needs none."""
    size = None if image_size is None else int(image_size)
    if size is None and resize != "keep":
        check_side(found.images, found.source)
        size = found.shape[1]
    images = fit_array(found.images, Target(size, resize, channels), progress)
    resized = found.resized or image_size is not None
    if images is found.images and resized == found.resized:
        return found
    return replace(found, images=images, resized=resized)


def _checked(found: ImageSet, strict: bool) -> ImageSet:
    """Raise if nothing can be read or, if strict, if anything cannot."""
    if found.skipped and (strict or not len(found)):
        first = found.skipped[0]
        raise InputError(
            f"{len(found.skipped)} of {found.n_items} images in {found.source!r} cannot be read; "
            f"the first is {first.name!r}: {first.error}."
        )
    return found
