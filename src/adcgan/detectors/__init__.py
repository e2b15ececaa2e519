"""Every system, by its name on the command line: networks, steps and score in one file each."""

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
    """Return the detector in the model folder `path`, on `device`.

    Raises
    ------
    InputError
        The folder is not a finished model, a file in it was changed, or it is of another version.
    """
    folder = Path(path).expanduser()
    if folder.is_file():
        raise InputError(f"{path} is a file. This takes a model folder, made by 'adcgan fit'.")
    stored = storage.read(folder)
    for kind in DETECTORS.values():
        if kind.__name__ == stored.config["detector"]:
            return kind.from_stored(stored, device)
    raise InputError(f"{path} holds a detector this version lacks: {stored.config['detector']!r}.")
