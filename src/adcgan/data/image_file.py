"""One image file in any common format -> uint8 pixels of a fixed size and channel count."""

from __future__ import annotations

import errno
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from adcgan.errors import InputError

RESIZES: tuple[str, ...] = ("squash", "crop", "pad", "keep")
MIN_SIZE, MAX_SIZE = 16, 256
# Of the longer side of an image that keeps its aspect.
MIN_LONGEST, MAX_LONGEST = 64, 8192

# How much larger than the target an image may be left by a cheap first reduction (a JPEG decoded
# at half size, a box filter); the good filter does the rest. Pillow's documentation calls 2 enough
# for JPEG and 3 indistinguishable from no first reduction.
_DRAFT_GAP = 2
_REDUCING_GAP = 3.0

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = {_UPRIGHT[orientation] for orientation in (5, 6, 7, 8)}


@dataclass(frozen=True)
class Target:
    """What every image of a set is turned into.

    Parameters
    ----------
    size : int or None
        Height and width in pixels, 16 to 256. For "keep" the longer side at most, 64 to 8192;
        None leaves every image its size.
    resize : {"squash", "crop", "pad", "keep"}
        How an image that is not square becomes so: stretched, its centre square, or fitted
        between black bars. "keep": it stays as it is, unless it is longer than `size`.
    channels : {1, 3} or None
        Grey, colour, or None to keep grey images grey and make all others RGB.
    """

    size: int | None
    resize: str = "squash"
    channels: int | None = None

    def __post_init__(self) -> None:
        check_resize(self.resize)
        if self.size is not None or self.resize != "keep":
            check_image_size(self.size, self.resize)
        check_channels(self.channels)

    def fits(self, width: int, height: int) -> bool:
        """Say whether an image of this size stays as it is."""
        if self.resize == "keep":
            return self.size is None or max(width, height) <= self.size
        return (width, height) == (self.size, self.size)

    def inner(self, width: int, height: int) -> tuple[int, int]:
        """Return the width and height that an image is scaled to, before bars are added."""
        if self.fits(width, height):
            return width, height
        assert self.size is not None
        if self.resize in ("squash", "crop"):
            return self.size, self.size
        scale = self.size / max(width, height)
        return max(1, round(width * scale)), max(1, round(height * scale))


def check_image_size(size: object, resize: str = "squash") -> None:
    """Raise `InputError` unless `size` is an integer in the range for this `resize`."""
    least, most = (MIN_LONGEST, MAX_LONGEST) if resize == "keep" else (MIN_SIZE, MAX_SIZE)
    integral = isinstance(size, (int, np.integer)) and not isinstance(size, bool)
    if not integral or not least <= int(size) <= most:  # type: ignore[call-overload]
        raise InputError(
            f"The 'image_size' parameter must be an integer from {least} to {most}. "
            f"Got {size!r} instead."
        )


def check_resize(resize: object) -> None:
    """Raise `InputError` unless `resize` is one of `RESIZES`."""
    if resize not in RESIZES:
        allowed = ", ".join(repr(choice) for choice in RESIZES)
        raise InputError(
            f"The 'resize' parameter must be one of {allowed}. Got {resize!r} instead."
        )


def check_channels(channels: object) -> None:
    """Raise `InputError` unless `channels` is None, 1 or 3."""
    if channels is not None and (isinstance(channels, bool) or channels not in (1, 3)):
        raise InputError(
            "The 'channels' parameter must be 1 (grey), 3 (RGB) or None (as the images are). "
            f"Got {channels!r} instead."
        )


def decode_file(file: str | IO[bytes], target: Target) -> NDArray[np.uint8]:
    """Decode one image file; its content, not its name, decides the format.

    Parameters
    ----------
    file : str or binary file object
        Path or open file. Of an animation or a multi-page file the first frame is read.
    target : Target
        Size and channels of the result.

    Returns
    -------
    ndarray of uint8, shape (C, H, W)

    Raises
    ------
    Exception
        Whatever makes it unreadable; `reason` turns it into one line.
    """
    return decode_photograph(file, target)[0]


def decode_photograph(
    file: str | IO[bytes], target: Target
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Return what `decode_file` does, and the upright width and height that the file holds."""
    with Image.open(file, formats=formats()) as image:
        _refuse_bomb(image)
        stored = image.size
        _draft(image, target)
        drafted = image.size != stored
        image.load()
        # Of a TIFF file the size is known once it is loaded, which turns it.
        width, height = stored if drafted else image.size
        size = (height, width) if _turn(image) in _SIDEWAYS else (width, height)
        return to_pixels(upright(image), target), size


def to_pixels(image: Image.Image, target: Target) -> NDArray[np.uint8]:
    """Turn an image of any mode and size into pixels; `image` itself is not changed.

    Alpha is composited on white and 16-bit values are scaled (value / 257, rounded), both before
    resizing. Lanczos resampling; an image that has the target's size keeps its pixels.

    Parameters
    ----------
    image : PIL.Image.Image
        A loaded image.
    target : Target
        Size and channels of the result.

    Returns
    -------
    ndarray of uint8, shape (C, H, W)

    Raises
    ------
    ValueError
        If the values have no fixed range (mode F, or 32-bit integers beyond 16 bits).
    """
    image = _flatten(image)
    if target.channels is not None:
        image = image.convert("L" if target.channels == 1 else "RGB")
    pixels = np.asarray(_fit(image, target))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation of a loaded image."""
    turn = _turn(image)
    return image if turn is None else image.transpose(turn)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Return what the EXIF orientation of a loaded image asks for."""
    # Read after loading: Pillow applies the tag of TIFF files itself then, and removes it.
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:
        # Broken metadata must not cost an image whose pixels are fine.
        return None
    return _UPRIGHT.get(orientation) if isinstance(orientation, int) else None


@contextmanager
def open_upright(path: str) -> Iterator[Image.Image]:
    """Open and load an image file as it is stored, turned by its EXIF orientation.

    Raises
    ------
    Exception
        Whatever makes it unreadable; `reason` turns it into one line.
    """
    with Image.open(path, formats=formats()) as image:
        _refuse_bomb(image)
        image.load()
        yield upright(image)


def upright_size(path: str) -> tuple[int, int]:
    """Return the width and height of an image file, turned by its EXIF orientation.

    Pixels are decoded only where the file has an orientation other than upright.
    """
    with Image.open(path, formats=formats()) as image:
        _refuse_bomb(image)
        try:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        except Exception:
            turned = False
        if not turned:
            return image.size
        image.load()
        return upright(image).size


def reason(error: Exception) -> str:
    """Say in one line, without paths or addresses, why an image could not be read.

    If the image is not at fault, for example when too many files are open, the error is raised
    again, so that the image is not left out.
    """
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        raise error
    if isinstance(error, UnidentifiedImageError):
        return "not an image in a format that can be read"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


class _Quiet:
    """Counts who is inside `quiet_pillow`, so that the last one out restores the filters."""

    lock = threading.Lock()
    inside = 0
    stack = ExitStack()


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Keep Pillow's warnings and log lines about broken files away from the user.

    The warning filters are global to the process, so they are changed once for all threads that
    are inside, by the first to enter, and restored by the last to leave.
    """
    with _Quiet.lock:
        if _Quiet.inside == 0:
            _Quiet.stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            # A handler of its own keeps logging from printing what nobody asked to see.
            handler = logging.NullHandler()
            logging.getLogger("PIL").addHandler(handler)
            _Quiet.stack.callback(logging.getLogger("PIL").removeHandler, handler)
        _Quiet.inside += 1
    try:
        yield
    finally:
        with _Quiet.lock:
            _Quiet.inside -= 1
            if _Quiet.inside == 0:
                _Quiet.stack.close()


@cache
def formats() -> list[str]:
    """Return every format that Pillow reads by itself.

    EPS would start an external program, and IPTC holds an image of any format, EPS included.
    """
    Image.init()
    return [name for name in Image.ID if name not in {"EPS", "IPTC"}]


def _refuse_bomb(image: Image.Image) -> None:
    """Raise where Pillow only warns."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise ValueError(
            f"{image.width}×{image.height} pixels exceed the limit of {limit} "
            "(could be a decompression bomb)"
        )


def _draft(image: Image.Image, target: Target) -> None:
    """Let the JPEG decoder shrink a large image while it decodes."""
    width, height = image.size
    if target.fits(width, height):
        return
    wanted = target.inner(width, height)
    if target.resize == "crop":
        shorter, size = min(width, height), wanted[0]
        wanted = (width * size // shorter, height * size // shorter)
    image.draft(None, (_DRAFT_GAP * max(wanted[0], 1), _DRAFT_GAP * max(wanted[1], 1)))


def _flatten(image: Image.Image) -> Image.Image:
    """Return the image in mode L or RGB, without alpha."""
    if image.mode == "F":
        raise ValueError("floating-point pixels (mode F) have no fixed range")
    if image.mode.startswith("I"):
        return Image.fromarray(_eight_bits(image))
    grey = image.mode in {"1", "L", "LA", "La"}
    if image.has_transparency_data:
        image = image.convert("LA" if grey else "RGBA")
        alpha = image.getchannel("A")
        opaque = image.convert("L" if grey else "RGB")
        white = Image.new(opaque.mode, opaque.size, "white")
        return Image.composite(opaque, white, alpha)
    return image.convert("L" if grey else "RGB")


def _eight_bits(image: Image.Image) -> NDArray[np.uint8]:
    """Scale a 16-bit grey image to 8 bits, its transparent value to white."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("integer pixels outside 0..65535 have no fixed range")
    scaled = ((values + 128) // 257).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        scaled[values == transparent] = 255
    return scaled


def _fit(image: Image.Image, target: Target) -> Image.Image:
    """Resize the image to the target's size."""
    width, height = image.size
    if target.fits(width, height):
        return image
    inner = target.inner(width, height)
    if target.resize == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    shrunk = image.resize(inner, Image.Resampling.LANCZOS, reducing_gap=_REDUCING_GAP)
    if target.resize != "pad" or target.size is None or inner == (target.size, target.size):
        return shrunk
    canvas = Image.new(image.mode, (target.size, target.size))
    canvas.paste(shrunk, ((target.size - inner[0]) // 2, (target.size - inner[1]) // 2))
    return canvas
