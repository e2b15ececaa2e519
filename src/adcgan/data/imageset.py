"""What every loader returns: decoded images, and why the others could not be read."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adcgan.data.ragged import Images, Ragged, typical_shape


@dataclass(frozen=True, eq=False)
class Skipped:
    """An input that could not be read.

    Parameters
    ----------
    position : int
        Its place among all inputs, counted from 0.
    name : str
        Its relative path, or its index as text.
    error : str
        Why, in one line.
    """

    position: int
    name: str
    error: str


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet:
    """Decoded images, in input order.

    Parameters
    ----------
    images : ndarray of uint8, shape (n, C, H, W), or Ragged of n, each (C, H, W)
        The readable images, 0 to 255; in memory or a memory-mapped file. Treat as read-only.
        `adcgan.data.ragged.Ragged` where they differ in size, which `resize="keep"` leaves them.
    names : list of str, length n
        Relative POSIX path in the folder (always valid Unicode: undecodable bytes are written
        as escapes), or the index as text.
    positions : ndarray of intp, shape (n,)
        The place of each image among all `n_items` inputs, ascending.
    skipped : list of Skipped
        The inputs that could not be read, by position.
    labels : ndarray of int64, shape (n,), or None
        The class of each image, where the source has classes.
    class_names : list of str or None
        The name of each class.
    source : str
        The data, as a person would name it: a path, ``"mnist (train)"``, ``"array"``.
    resized : bool
        True where images went through the resize pipeline, False where pixels are as they came.
    files : list of str, length n, or None
        Where each image was read; None where images did not come from files.
    types : list of (str or None), length n, or None
        The type of defect of each image, if the source says it; None for a normal image.
    masks : list of (str or None), length n, or None
        The file that marks each image's defective pixels (`adcgan.data.masks.read_mask`), None
        for an image without one; None where such data has no masks.
    """

    images: Images
    names: list[str]
    positions: NDArray[np.intp]
    skipped: list[Skipped] = field(default_factory=list)
    labels: NDArray[np.int64] | None = None
    class_names: list[str] | None = None
    source: str = "array"
    resized: bool = False
    files: list[str] | None = None
    types: list[str | None] | None = None
    masks: list[str | None] | None = None

    def __post_init__(self) -> None:
        n = len(self.images)
        assert self.images.dtype == np.uint8
        assert isinstance(self.images, Ragged) or self.images.ndim == 4
        assert len(self.names) == n
        assert self.positions.shape == (n,)
        assert self.labels is None or self.labels.shape == (n,)
        for known in (self.files, self.types, self.masks):
            assert known is None or len(known) == n
        # A mask is read at the size of its image's file.
        assert self.masks is None or self.files is not None

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        shape = "×".join(str(side) for side in self.shape)
        return f"ImageSet({self.source!r}, {len(self)} images {shape}, {len(self.skipped)} skipped)"

    def _repr_html_(self) -> str:
        """Return counts and a few of the images, for notebooks."""
        from adcgan.data.notebook import html_of

        return html_of(self)

    @property
    def n_items(self) -> int:
        """Number of inputs, readable or not."""
        return len(self.images) + len(self.skipped)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of one image; where sizes differ, with the median height and width."""
        return typical_shape(self.images)

    def warn_of_skipped(self, stacklevel: int) -> None:
        """Warn if anything could not be read; `stacklevel` as `warnings.warn` counts it."""
        if self.skipped:
            first = self.skipped[0]
            warnings.warn(
                f"{len(self.skipped)} of {self.n_items} images could not be read; "
                f"the first is {first.name!r}: {first.error}",
                stacklevel=stacklevel,
            )

    def select(self, index: Any) -> ImageSet:
        """Return the readable images at `index` as a set of its own, with nothing skipped.

        Parameters
        ----------
        index : slice, or array of int or bool
            Indices into `images`. A slice shares the pixels; an array copies those it selects.

        Returns
        -------
        ImageSet
            With positions 0 to its length - 1.
        """
        chosen = np.arange(len(self))[index]
        assert chosen.ndim == 1
        return ImageSet(
            images=self.images[index],
            names=[self.names[i] for i in chosen],
            positions=np.arange(len(chosen), dtype=np.intp),
            labels=None if self.labels is None else self.labels[index],
            class_names=self.class_names,
            source=self.source,
            resized=self.resized,
            files=None if self.files is None else [self.files[i] for i in chosen],
            types=None if self.types is None else [self.types[i] for i in chosen],
            masks=None if self.masks is None else [self.masks[i] for i in chosen],
        )
