"""Which detectors are compared, and with how much training."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from adcgan.detectors import DETECTORS, Detector, LocalADCGAN, SelfSupervisedADCGAN
from adcgan.errors import InputError

if TYPE_CHECKING:
    from adcgan.data import ImageSet

# From this longer side on, in pixels, what is looked for is a place in the image.
PHOTOGRAPH = 128
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
            f"The 'detectors' parameter must be of {', '.join(DETECTORS)}. "
            f"Got {unknown[0] if unknown else 'none'!r} instead."
        )
    for name in names:
        DETECTORS[name]().check_packages()
    return list(dict.fromkeys(names))


def suited(longer_side: float) -> tuple[str, str]:
    """Return the detector to take untold, of those that learn from normal images alone, and why.

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
        self.ends, self._left = time.monotonic() + seconds, n

    def next_share(self) -> float:
        """Return the seconds of the next candidate: what is left, by those that are left."""
        share = max(0.0, self.ends - time.monotonic()) / max(1, self._left)
        self._left -= 1
        return share


class TooLongError(Exception):
    """A candidate's training would be cut down to next to nothing."""


def shortened(
    detector: Detector, images: ImageSet, seconds: float
) -> tuple[dict[str, Any], float | None]:
    """Return the settings with which a detector's training keeps to a time.

    Parameters
    ----------
    detector : Detector
        Not fitted; not changed.
    images : ImageSet
        What it will learn from.
    seconds : float
        For its training on this machine, as `Detector.fit_cost` estimates it.

    Returns
    -------
    settings : dict
        What to set; nothing where it keeps to the time as it is.
    share : float or None
        Of its own number of steps, in (0, 1]; None where it trains no networks.

    Raises
    ------
    TooLongError
        The share would be below 2%.
    """
    cost = detector.fit_cost(images)
    if cost is None:
        return {}, None
    share = min(1.0, seconds / cost.seconds)
    if share < LEAST_SHARE:
        raise TooLongError(
            f"left out: its training would take {cost.seconds / 60:,.0f} minutes, and there was "
            f"time for {seconds / 60:.1f}"
        )
    if share == 1:
        return {}, share
    own = detector.get_params()
    shorter: dict[str, Any] = {"epochs": 1, "min_steps": max(1, int(share * cost.steps))}
    if "warmup_epochs" in own:
        shorter["warmup_epochs"] = max(1, round(share * own["warmup_epochs"]))
    return {key: value for key, value in shorter.items() if key in own}, share
