"""Every system, by its name on the command line: networks, steps and score in one file each."""

from __future__ import annotations

from pathlib import Path

from adcgan.detectors import storage
from adcgan.detectors.adcgan import ADCGAN
from adcgan.detectors.base import Detector
from adcgan.detectors.baselines import (
    ADGAN,
    AEGAN,
    ALAD,
    EGBAD,
    AnoGAN,
    PixelIsolationForest,
    PixelKNN,
    PixelPCA,
    RobustAutoencoder,
)
from adcgan.detectors.pretrained import PretrainedKNN
from adcgan.detectors.selfsupervised import SelfSupervisedADCGAN
from adcgan.errors import InputError
from adcgan.scoring import Assessment
from adcgan.training.cost import FitCost

DETECTORS: dict[str, type[Detector]] = {
    "adcgan": ADCGAN,
    "adcgan-ss": SelfSupervisedADCGAN,
    "alad": ALAD,
    "adgan": ADGAN,
    "aegan": AEGAN,
    "anogan": AnoGAN,
    "egbad": EGBAD,
    "rda": RobustAutoencoder,
    "pixel-pca": PixelPCA,
    "pixel-knn": PixelKNN,
    "pixel-iforest": PixelIsolationForest,
    "pretrained-knn": PretrainedKNN,
}

# These know more than the normal images: their figures never stand in one table with the others'.
PRETRAINED = frozenset({"pretrained-knn"})

__all__ = [
    "ADCGAN",
    "ADGAN",
    "AEGAN",
    "ALAD",
    "DETECTORS",
    "EGBAD",
    "PRETRAINED",
    "AnoGAN",
    "Assessment",
    "Detector",
    "FitCost",
    "PixelIsolationForest",
    "PixelKNN",
    "PixelPCA",
    "PretrainedKNN",
    "RobustAutoencoder",
    "SelfSupervisedADCGAN",
    "load",
]


def load(path: str | Path, device: str = "auto") -> Detector:
    """Return the detector in the model folder `path`, on `device`.

    Raises
    ------
    InputError
        The folder is not a finished model, a file in it was changed, or it is of another version.
    """
    if Path(path).is_file():
        raise InputError(f"{path} is a file. This takes a model folder, made by 'adcgan fit'.")
    stored = storage.read(Path(path))
    for detector in DETECTORS.values():
        if detector.__name__ == stored.config["detector"]:
            loaded = detector(**{**stored.config["parameters"], "device": device})
            loaded._restore(stored)
            return loaded
    raise InputError(f"{path} holds a detector this version lacks: {stored.config['detector']!r}.")
