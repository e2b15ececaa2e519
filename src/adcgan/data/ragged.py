"""Arrays of different shapes in one block of memory: photographs, and maps, at their own size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray


class Ragged(Sequence[NDArray[Any]]):
    """A sequence of arrays of one type whose shapes differ.

    Parameters
    ----------
    values : ndarray, shape (total,)
        The arrays' values, in memory or memory-mapped. Treat as read-only.
    shapes : sequence of tuple of int
        The shape of each array.
    starts : sequence of int or None, default None
        Where in `values` each begins. None: one after the other.
    """

    def __init__(
        self,
        values: NDArray[Any],
        shapes: Sequence[tuple[int, ...]],
        starts: Sequence[int] | None = None,
    ) -> None:
        assert values.ndim == 1
        self.values = values
        self.shapes = [tuple(int(side) for side in shape) for shape in shapes]
        self._sizes = np.array([int(np.prod(shape)) for shape in self.shapes], dtype=np.int64)
        if starts is None:
            starts = (np.cumsum(self._sizes) - self._sizes).tolist()
        self.starts = np.asarray(starts, dtype=np.int64)
        assert len(self.starts) == len(self.shapes)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        return self.values.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays together."""
        return int(self._sizes.sum()) * self.values.itemsize

    def __len__(self) -> int:
        return len(self.shapes)

    @overload
    def __getitem__(self, index: int | np.integer[Any]) -> NDArray[Any]: ...

    @overload
    def __getitem__(self, index: slice | NDArray[Any]) -> Ragged: ...

    def __getitem__(self, index: Any) -> Any:
        """Return one array, or those at a slice or an array of indices; both share the memory."""
        if isinstance(index, (int, np.integer)):
            start, size = self.starts[index], self._sizes[index]
            return self.values[start : start + size].reshape(self.shapes[index])
        chosen = np.arange(len(self))[index]
        return Ragged(self.values, [self.shapes[i] for i in chosen], self.starts[chosen].tolist())

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (self[i] for i in range(len(self)))


# Images (n, C, H, W) of one size, or each (C, H, W) of a size of its own. Maps (n, H, W), or each
# of a size of its own, are kept in the same way.
Images: TypeAlias = "NDArray[np.uint8] | Ragged"
Maps: TypeAlias = "NDArray[np.float32] | Ragged"


def shaped(values: NDArray[Any], shapes: Sequence[tuple[int, ...]]) -> NDArray[Any] | Ragged:
    """Return the arrays of these shapes in `values`, as one array if the shapes are equal."""
    if len(set(shapes)) == 1:
        return values.reshape(len(shapes), *shapes[0])
    return Ragged(values, shapes)


def gathered(batches: Iterable[NDArray[Any]]) -> NDArray[Any] | Ragged:
    """Return the arrays of batches (B, ...) as one array, or as `Ragged` where shapes differ."""
    parts = list(batches)
    if len({part.shape[1:] for part in parts}) <= 1:
        return np.concatenate(parts)
    shapes = [part.shape[1:] for part in parts for _ in range(len(part))]
    return Ragged(np.concatenate([part.ravel() for part in parts]), shapes)


def typical_shape(images: Images) -> tuple[int, int, int]:
    """Return (C, H, W) of images: their own or, where they differ, the median height and width."""
    if isinstance(images, Ragged):
        channels, heights, widths = zip(*images.shapes, strict=True)
        return channels[0], int(np.median(heights)), int(np.median(widths))
    _, channels, height, width = images.shape
    return channels, height, width
