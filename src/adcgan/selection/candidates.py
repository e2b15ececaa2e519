"""Which detectors are compared, and with how much training."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import clone

from adcgan.detectors import DETECTORS, Detector, LocalADCGAN, SelfSupervisedADCGAN
from adcgan.errors import InputError
from adcgan.progress import silent

if TYPE_CHECKING:
    from adcgan.data import ImageSet

# From this longer side on, in pixels, what is looked for is a place in the image.
PHOTOGRAPH = 128
# So many images tell how long all of them take.
TRIED = 32
# Training that is cut down to less than this share of its length says little of a detector.
LEAST_SHARE = 0.02


def candidates(names: Sequence[str] | None = None) -> list[str]:
    """Return the names of the detectors to compare, in the order in which they are tried.

    Parameters
    ----------
    names : sequence of str or None
        Names in `adcgan.DETECTORS`. None: those that say of themselves that they are worth a try
        on any images (`Detector.candidate`), as far as the packages they need are installed.

    Raises
    ------
    InputError
        A name is unknown, or there is none.
    MissingExtraError
        One that was named needs a package that is not installed.
    """
    if names is None:
        return [
            name
            for name, kind in DETECTORS.items()
            if kind.candidate and all(find_spec(package) for package in kind.packages)
        ]
    unknown = [name for name in names if name not in DETECTORS]
    if unknown or not names:
        raise InputError(
            f"The 'detectors' parameter must be among {', '.join(DETECTORS)}. "
            f"Got {unknown[0] if unknown else 'none'!r} instead."
        )
    for name in names:
        DETECTORS[name]().check_packages()
    return list(dict.fromkeys(names))


def suited(longer_side: float) -> tuple[str, str]:
    """Return the default detector, of those that learn from normal images alone, and why.

    Parameters
    ----------
    longer_side : float
        Of the images, in pixels.
    """
    if longer_side >= PHOTOGRAPH:
        return LocalADCGAN.name, "for defects in a place of a photograph"
    return SelfSupervisedADCGAN.name, "for small images that show a thing as a whole"


class Budget:
    """The time of a comparison, shared out as it goes.

    Parameters
    ----------
    seconds : float
        For all candidates.
    n : int
        How many there are.
    """

    def __init__(self, seconds: float, n: int) -> None:
        self._ends, self._left = time.monotonic() + seconds, n

    def next_share(self) -> float:
        """Return the seconds for the next candidate: the time left over the candidates left."""
        share = max(0.0, self._ends - time.monotonic()) / max(1, self._left)
        self._left -= 1
        return share


class TooLongError(Exception):
    """A candidate would get too little of its training to be worth comparing."""


@dataclass(frozen=True)
class Effort:
    """How much of its own training a detector gets in a comparison.

    Attributes
    ----------
    settings : dict
        Settings that shorten it; empty if it needs none.
    steps : float or None
        Share of its own number of training steps, in (0, 1]; None where it trains no networks.
    n_images : int
        Images that it learns from.
    """

    settings: dict[str, Any]
    steps: float | None
    n_images: int


def shortened(detector: Detector, images: ImageSet, seconds: float) -> Effort:
    """Return the effort that fits a detector into a time.

    Parameters
    ----------
    detector : Detector
        Not fitted; not changed.
    images : ImageSet
        What it is to learn from.
    seconds : float
        For learning on this machine. For networks it is compared with `Detector.fit_cost`; for
        others, with the time that a few of the images take.

    Raises
    ------
    TooLongError
        It would do less than 2% of its training, or learn from less than 2% of the images.
    """
    cost = detector.fit_cost(images)
    if cost is None:
        return Effort({}, None, _affordable(detector, images, seconds))
    share = min(1.0, seconds / cost.seconds)
    _refuse_next_to_nothing(share, cost.seconds, seconds)
    if share == 1:
        return Effort({}, share, len(images))
    own = detector.get_params()
    shorter: dict[str, Any] = {"epochs": 1, "min_steps": max(1, int(share * cost.steps))}
    if "warmup_epochs" in own:
        shorter["warmup_epochs"] = max(1, round(share * own["warmup_epochs"]))
    settings = {key: value for key, value in shorter.items() if key in own}
    return Effort(settings, share, len(images))


def _affordable(detector: Detector, images: ImageSet, seconds: float) -> int:
    """Return how many images a detector without networks of its own can learn from in a time."""
    if len(images) <= TRIED:
        return len(images)
    some = np.linspace(0, len(images) - 1, TRIED).astype(np.intp)
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "A false-positive budget")
        clone(detector).fit(images.select(some), progress=silent)
    whole = (time.perf_counter() - start) * len(images) / TRIED
    share = min(1.0, seconds / whole)
    _refuse_next_to_nothing(share, whole, seconds)
    return max(TRIED, int(share * len(images)))


def _refuse_next_to_nothing(share: float, needed: float, seconds: float) -> None:
    if share < LEAST_SHARE:
        raise TooLongError(
            f"left out: learning would take {needed / 60:,.0f} minutes, but there was time for "
            f"{seconds / 60:.1f}"
        )
