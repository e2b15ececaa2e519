"""Health checks on training: each limits a figure and logs a warning once when it is exceeded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Check:
    """Warns if `figure` is outside (`least`, `most`) in `patience` consecutive observations.

    Parameters
    ----------
    name : str
        Name of the warning.
    figure : str
        Name of the logged figure to check; rows without it are ignored.
    message : str
        What the warning means for the user, in one sentence.
    least, most : float
        Limits of the healthy range.
    patience : int
        Consecutive observations outside the range before the warning.
    """

    name: str
    figure: str
    message: str
    least: float = -math.inf
    most: float = math.inf
    patience: int = 3


class HealthWatch:
    """Applies checks to logged figures. A check warns again only after it was healthy."""

    def __init__(self, checks: Sequence[Check]) -> None:
        self.checks = checks
        self._outside = dict.fromkeys((check.name for check in checks), 0)

    def observe(self, step: int, figures: Mapping[str, float]) -> list[dict[str, Any]]:
        """Return a warning row for each check that fails with the `figures` logged at `step`."""
        warnings: list[dict[str, Any]] = []
        for check in self.checks:
            if check.figure not in figures:
                continue
            value = figures[check.figure]
            healthy = check.least <= value <= check.most
            self._outside[check.name] = 0 if healthy else self._outside[check.name] + 1
            if self._outside[check.name] == check.patience:
                warnings.append(
                    {
                        "step": step,
                        "warning": check.name,
                        "message": f"{check.message} ({check.figure} {value:.4g})",
                        check.figure: value,
                    }
                )
        return warnings


COLLAPSE = Check(
    "collapse",
    "diversity",
    "The generator produces nearly the same image from every latent.",
    least=0.1,
)
SATURATED_CRITIC = Check(
    "saturated critic",
    "critic/adversarial",
    "The critic separates all real images from all generated ones, so the generator learns little.",
    least=0.01,
)
STALLED_AUTOENCODER = Check(
    "stalled autoencoder",
    "reconstruction_ratio",
    "The reconstruction error on held-out normal images exceeds their variance.",
    most=1.5,
)


def diversity_figures(x: Tensor, made: Tensor) -> dict[str, Tensor]:
    """Return "diversity", the standard deviation of generated pixels relative to real ones.

    Near 0, the generator always produces the same image. `x` and `made` (B, C, H, W) are on the
    same scale.
    """
    return {"diversity": (made.var(0, unbiased=False).mean() / _spread(x)).sqrt()}


def reconstruction_figures(x: Tensor, x_hat: Tensor) -> dict[str, Tensor]:
    """Return figures on reconstructions `x_hat` of images `x` (B, C, H, W), on the same scale.

    "held_out_reconstruction" is the mean squared error; "reconstruction_ratio" is this error
    divided by the variance around the mean image.
    """
    error = (x - x_hat).float().square().mean()
    return {"held_out_reconstruction": error, "reconstruction_ratio": error / _spread(x)}


def _spread(x: Tensor) -> Tensor:
    """Return the variance of each pixel over the images, averaged over pixels."""
    return x.var(0, unbiased=False).mean().clamp(min=1e-8)
