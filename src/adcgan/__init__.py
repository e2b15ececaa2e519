"""Image anomaly detection from normal images alone, by AD-CGAN and its peers.

The public names are imported on first use: ``import adcgan`` alone loads neither torch nor
scikit-learn, and an exported model is loaded and scored without them.
"""

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adcgan.data import DATASETS, ImageSet, load_images, load_named
    from adcgan.detectors import ADCGAN, DETECTORS, Detector, LocalADCGAN
    from adcgan.errors import DivergedError, InputError, MissingExtraError
    from adcgan.onnx import OnnxScorer
    from adcgan.onnx.export import export_onnx
    from adcgan.scoring import Scorer
    from adcgan.selection import Comparison, compare

__version__ = "0.1.0"

_HOME = {
    "ADCGAN": "adcgan.detectors",
    "DETECTORS": "adcgan.detectors",
    "Detector": "adcgan.detectors",
    "LocalADCGAN": "adcgan.detectors",
    "DATASETS": "adcgan.data",
    "ImageSet": "adcgan.data",
    "load_images": "adcgan.data",
    "load_named": "adcgan.data",
    "DivergedError": "adcgan.errors",
    "InputError": "adcgan.errors",
    "MissingExtraError": "adcgan.errors",
    "export_onnx": "adcgan.onnx.export",
    "OnnxScorer": "adcgan.onnx",
    "Scorer": "adcgan.scoring",
    "Comparison": "adcgan.selection",
    "compare": "adcgan.selection",
}

__all__ = [
    "ADCGAN",
    "DATASETS",
    "DETECTORS",
    "Comparison",
    "Detector",
    "DivergedError",
    "ImageSet",
    "InputError",
    "LocalADCGAN",
    "MissingExtraError",
    "OnnxScorer",
    "Scorer",
    "__version__",
    "compare",
    "export_onnx",
    "load",
    "load_images",
    "load_named",
]


def load(path: str | os.PathLike[str], device: str = "auto") -> Scorer:
    """Return the detector in a model folder, or the exported one in an .onnx file.

    Parameters
    ----------
    path : str or path
        What ``Detector.save`` or ``adcgan fit`` wrote, which takes torch to load, or what
        ``export_onnx`` or ``adcgan export`` wrote, which takes ONNX Runtime and no torch.
    device : str
        "auto", "cpu", "cuda", "cuda:1", …; a folder may be loaded on torch's other devices too.

    Returns
    -------
    Scorer
        A `Detector` or an `OnnxScorer`: both answer by the same methods.

    Raises
    ------
    InputError
        There is no such model, it was changed or damaged, it is of another version, or `device`
        is wrong.
    MissingExtraError
        What it takes is not installed.
    """
    from adcgan.errors import InputError, MissingExtraError

    path = os.path.expanduser(path)
    if os.path.isfile(path):
        from adcgan.onnx import OnnxScorer

        return OnnxScorer(os.fspath(path), device=device)
    if not os.path.isdir(path):
        raise InputError(f"There is no model folder {os.fspath(path)}, and no .onnx file either.")
    if find_spec("torch") is None:
        raise MissingExtraError(
            f"{os.fspath(path)} is a model folder, which takes torch to load: pip install adcgan. "
            "Without torch, load an .onnx file that 'adcgan export' made of it."
        )
    from adcgan.detectors import load as load_folder

    return load_folder(os.fspath(path), device=device)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'adcgan' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
