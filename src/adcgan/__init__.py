"""Image anomaly detection from normal images alone, by AD-CGAN and its peers.

The public names are imported on first use: ``import adcgan`` alone loads neither torch nor
scikit-learn.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adcgan.data import DATASETS, ImageSet, load_images, load_named
    from adcgan.detectors import ADCGAN, DETECTORS, Detector, load
    from adcgan.errors import DivergedError, InputError, MissingExtraError

__version__ = "0.1.0"

_HOME = {
    "ADCGAN": "adcgan.detectors",
    "DETECTORS": "adcgan.detectors",
    "Detector": "adcgan.detectors",
    "load": "adcgan.detectors",
    "DATASETS": "adcgan.data",
    "ImageSet": "adcgan.data",
    "load_images": "adcgan.data",
    "load_named": "adcgan.data",
    "DivergedError": "adcgan.errors",
    "InputError": "adcgan.errors",
    "MissingExtraError": "adcgan.errors",
}

__all__ = [
    "ADCGAN",
    "DATASETS",
    "DETECTORS",
    "Detector",
    "DivergedError",
    "ImageSet",
    "InputError",
    "MissingExtraError",
    "__version__",
    "load",
    "load_images",
    "load_named",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'adcgan' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
