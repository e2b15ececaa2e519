"""What computes scores: a torch model or an exported file, behind one interface."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from adcgan.data.ragged import Images, Ragged
from adcgan.progress import Progress, silent

Values = TypeVar("Values")
Other = TypeVar("Other")
Components = Mapping[str, NDArray[np.float64]]
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Scored(Generic[Values]):
    """The result of one pass over B images: tensors of a torch model, or arrays of a backend.

    Attributes
    ----------
    components : dict of str to (B,)
        The parts of the score by name.
    anomaly_map : (B, H, W) or None
        Where in an image the score comes from, at least 0; None where a system makes none.
    reconstruction : (B, C, H, W) or None
        In [0, 1]; None where a system makes none.
    """

    components: dict[str, Values]
    anomaly_map: Values | None = None
    reconstruction: Values | None = None

    def map(self, function: Callable[[Values], Other]) -> Scored[Other]:
        """Return a copy with `function` applied to everything in it."""
        pictures = (self.anomaly_map, self.reconstruction)
        return Scored(
            {name: function(values) for name, values in self.components.items()},
            *(None if values is None else function(values) for values in pictures),
        )


class Backend(Protocol):
    """The interface through which a `Scorer` computes."""

    @property
    def images_at_once(self) -> int:
        """How many images one pass takes at most."""

    def scored(self, batch: NDArray[np.uint8]) -> Scored[NDArray[Any]]:
        """Return components in float64 and pictures in float32 of images (B, C, H, W)."""

    def combine(self, components: Components) -> NDArray[np.float64]:
        """Return the scores (n,) made of `components`; a weighted sum of them and a constant."""

    def variants(self, components: Components) -> dict[str, NDArray[np.float64]]:
        """Return other scores (n,) made of the same components, by name; none unless it has any."""


def in_batches(
    images: Images,
    size: int,
    index: NDArray[np.int64] | None = None,
    progress: Progress = silent,
) -> Iterator[NDArray[np.uint8]]:
    """Yield images, those at `index` if given, in batches (B, C, H, W) of `size` at most.

    Images that differ in size come one by one.
    """
    n = len(images) if index is None else len(index)
    size = 1 if isinstance(images, Ragged) else size
    progress.start("Scoring", n)
    try:
        for start in range(0, n, size):
            stop = min(start + size, n)
            if isinstance(images, Ragged):
                yield images[start if index is None else index[start]][None]
            else:
                yield images[start:stop] if index is None else images[index[start:stop]]
            progress.advance(stop - start)
    finally:
        progress.finish()
