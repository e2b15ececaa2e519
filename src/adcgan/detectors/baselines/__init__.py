"""The systems with which AD-CGAN is compared, one file each."""

from __future__ import annotations

from adcgan.detectors.baselines.adgan import ADGAN
from adcgan.detectors.baselines.aegan import AEGAN
from adcgan.detectors.baselines.alad import ALAD
from adcgan.detectors.baselines.anogan import AnoGAN
from adcgan.detectors.baselines.egbad import EGBAD
from adcgan.detectors.baselines.patches import PatchPCA
from adcgan.detectors.baselines.pixels import PixelIsolationForest, PixelKNN, PixelPCA
from adcgan.detectors.baselines.rda import RobustAutoencoder

__all__ = [
    "ADGAN",
    "AEGAN",
    "ALAD",
    "EGBAD",
    "AnoGAN",
    "PatchPCA",
    "PixelIsolationForest",
    "PixelKNN",
    "PixelPCA",
    "RobustAutoencoder",
]
