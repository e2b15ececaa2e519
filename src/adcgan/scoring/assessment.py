"""A detector's results on a set of images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adcgan.data.ragged import Maps
from adcgan.scoring.verdict import Verdict


@dataclass(frozen=True)
class Assessment:
    """One row for every input, in input order, the unreadable ones included.

    Attributes
    ----------
    names : list of str
        Relative path in a folder, or the index as text.
    scores : ndarray of float64 (n,)
        Higher = more anomalous; nan where the image could not be read.
    p_values : ndarray of float64 (n,)
        Conformal p-value against held-out normal images; nan where unreadable.
    anomalous : ndarray of int (n,)
        1 anomalous, 0 normal, -1 where unreadable.
    components : dict of str to ndarray of float64 (n,)
        The parts of the score by name.
    variants : dict of str to ndarray of float64 (n,)
        Other scores made of the same parts (Table 4).
    errors : list of str
        Why an image could not be read; "" where it could.
    verdict : Verdict
        By which images are anomalous or not.
    maps : ndarray of float32 (n_readable, H, W), Ragged of as many (H, W), or None
        Anomaly maps of the readable images, in order, at least 0. None unless asked for.
    """

    names: list[str]
    scores: NDArray[np.float64]
    p_values: NDArray[np.float64]
    anomalous: NDArray[np.int64]
    components: dict[str, NDArray[np.float64]]
    variants: dict[str, NDArray[np.float64]]
    errors: list[str]
    verdict: Verdict
    maps: Maps | None = None

    def _repr_html_(self) -> str:
        """Return counts and the most anomalous images, for notebooks."""
        # Imported here as Pillow is needed by pictures alone.
        from adcgan.scoring.notebook import html_of

        return html_of(self)


def placed(
    values: NDArray[np.float64], positions: NDArray[np.intp], n_items: int
) -> NDArray[np.float64]:
    """Return `values` at their `positions` among `n_items`, nan elsewhere."""
    out = np.full(n_items, np.nan)
    out[positions] = values
    return out
