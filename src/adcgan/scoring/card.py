"""The facts of a model's card: what it learned from, how it decides, and what it is not for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ModelCard:
    """What a model says of itself, for those who did not make it; every field is a JSON value.

    Attributes
    ----------
    detector : str
        The detector's class.
    about : str
        What it is, in the words of its documentation.
    parameters : dict
        Its constructor's parameters, but the device.
    source : str or None
        What a person would call the images it learned from, without the folders above the last
        two of a path; None where that was not recorded.
    n_images, n_skipped : int or None
        Images that could be read, and that could not; None where that was not recorded.
    n_train, n_calibration : int
        Images trained on, and held-out normal images that set the threshold.
    image_shape : list of int
        Channels, height and width of the images learned from.
    resize : str
        How photographs come to that size; "keep" leaves them at theirs.
    threshold : float
        An image is anomalous when its score is above it.
    fpr : float or None
        The false-positive budget in force; None where `contamination` set the threshold.
    limits : list of str
        What it is not for, a sentence or two each.
    version : str
        Of adcgan, which made it.
    date : str or None
        When training ended, ISO 8601 in UTC; None where that was not recorded.
    hardware : str or None
        What it was trained on; None where that was not recorded.
    """

    detector: str
    about: str
    parameters: dict[str, Any]
    source: str | None
    n_images: int | None
    n_skipped: int | None
    n_train: int
    n_calibration: int
    image_shape: list[int]
    resize: str
    threshold: float
    fpr: float | None
    limits: list[str]
    version: str
    date: str | None
    hardware: str | None
