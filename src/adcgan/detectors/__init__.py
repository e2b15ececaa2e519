"""All detectors, by their names on the command line. Each file holds one system."""

from __future__ import annotations

from pathlib import Path

from adcgan.detectors import storage
from adcgan.detectors.adcgan import ADCGAN
from adcgan.detectors.base import Detector, NotFittedError
from adcgan.detectors.baselines import (
    ADGAN,
    AEGAN,
    ALAD,
    EGBAD,
    AnoGAN,
    PatchPCA,
    PixelIsolationForest,
    PixelKNN,
    PixelPCA,
    RobustAutoencoder,
)
from adcgan.detectors.local import LocalADCGAN
from adcgan.detectors.model import Model
from adcgan.detectors.pretrained import PretrainedKNN
from adcgan.detectors.pretrained_patch import PretrainedPatch
from adcgan.detectors.selfsupervised import SelfSupervisedADCGAN
from adcgan.errors import InputError
from adcgan.scoring import Assessment
from adcgan.training.cost import FitCost

DETECTORS: dict[str, type[Detector]] = {
    kind.name: kind
    for kind in (
        ADCGAN,
        SelfSupervisedADCGAN,
        LocalADCGAN,
        ALAD,
        ADGAN,
        AEGAN,
        AnoGAN,
        EGBAD,
        RobustAutoencoder,
        PixelPCA,
        PixelKNN,
        PixelIsolationForest,
        PatchPCA,
        PretrainedKNN,
        PretrainedPatch,
    )
}

__all__ = [
    "ADCGAN",
    "ADGAN",
    "AEGAN",
    "ALAD",
    "DETECTORS",
    "EGBAD",
    "AnoGAN",
    "Assessment",
    "Detector",
    "FitCost",
    "LocalADCGAN",
    "Model",
    "NotFittedError",
    "PatchPCA",
    "PixelIsolationForest",
    "PixelKNN",
    "PixelPCA",
    "PretrainedKNN",
    "PretrainedPatch",
    "RobustAutoencoder",
    "SelfSupervisedADCGAN",
    "load",
]


def load(path: str | Path, device: str = "auto") -> Detector:
    """Load the detector in the model folder `path` onto `device`.

    Raises
    ------
    InputError
        The folder does not hold a finished model, one of its files was changed, or it was written
        by an incompatible version.
    """
    folder = Path(path).expanduser()
    if folder.is_file():
        raise InputError(f"{path} is a file, not a model folder. 'adcgan fit' makes model folders.")
    stored = storage.read(folder)
    for kind in DETECTORS.values():
        if kind.__name__ == stored.config["detector"]:
            return kind.from_stored(stored, device)
    raise InputError(
        f"{path} holds a detector that this version does not have: {stored.config['detector']!r}."
    )
