"""The last scores that a service gave."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


class Window:
    """The last scores, a bounded number, added and read by any thread.

    Parameters
    ----------
    size : int
        How many are kept, at least 1.
    """

    def __init__(self, size: int) -> None:
        self._scores: deque[float] = deque(maxlen=size)
        self._lock = threading.Lock()

    def add(self, scores: Iterable[float]) -> None:
        """Add scores; the oldest make room."""
        with self._lock:
            self._scores.extend(scores)

    def scores(self) -> NDArray[np.float64]:
        """Return what is kept, oldest first."""
        with self._lock:
            return np.array(self._scores, dtype=np.float64)
