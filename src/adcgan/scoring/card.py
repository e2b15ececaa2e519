"""The facts of a model's card: what it learned from, how it decides, and what it is not for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ModelCard:
    """Facts about a model for those who did not make it; every field is a JSON value.

    Attributes
    ----------
    detector : str
        The detector's class.
    about : str
        What it is, from its documentation.
    parameters : dict
        Its constructor's parameters, but the device.
    source : str or None
        The images it learned from, as a person would name them; of a path, the last two parts.
        None if not recorded.
    n_images, n_skipped : int or None
        Images that could be read, and that could not; None if not recorded.
    n_train, n_calibration : int
        Images trained on, and held-out normal images that set the threshold.
    image_shape : list of int
        Channels, height and width of the images learned from.
    resize : str
        How photographs are resized; "keep" keeps their size.
    threshold : float
        An image is anomalous when its score is above it.
    fpr : float or None
        The false-positive budget in force; None where `contamination` set the threshold.
    limits : list of str
        What it is not for, one or two sentences each.
    version : str
        Of adcgan, which made it.
    date : str or None
        When training ended, ISO 8601 in UTC; None if not recorded.
    hardware : str or None
        What it was trained on; None if not recorded.
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
