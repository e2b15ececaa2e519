"""Signs of sick training: each is a figure with a limit, logged once when it is crossed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Check:
    """A warning for when `figure` leaves its range (`least`, `most`) on `patience` looks in a row.

    Parameters
    ----------
    name : str
        What the warning is called.
    figure : str
        The logged figure that is looked at; rows without it are passed over.
    message : str
        What it means for the user, in one sentence.
    least, most : float
        The healthy range.
    patience : int
        Looks in a row outside the range before the warning.
    """

    name: str
    figure: str
    message: str
    least: float = -math.inf
    most: float = math.inf
    patience: int = 3


class HealthWatch:
    """Applies checks to logged figures; a check warns again only after it has been healthy."""

    def __init__(self, checks: Sequence[Check]) -> None:
        self.checks = checks
        self._outside = dict.fromkeys((check.name for check in checks), 0)

    def observe(self, step: int, figures: Mapping[str, float]) -> list[dict[str, Any]]:
        """Return a row for each check that `figures`, logged at `step`, bring over its limit."""
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
    "The generator makes nearly the same image from every latent.",
    least=0.1,
)
SATURATED_CRITIC = Check(
    "saturated critic",
    "critic/adversarial",
    "The critic tells every real image from every generated one; "
    "the generator learns little from it.",
    least=0.01,
)
STALLED_AUTOENCODER = Check(
    "stalled autoencoder",
    "reconstruction_ratio",
    "The error of reconstructing held-out normal images is above their variance.",
    most=1.5,
)


def diversity_figures(x: Tensor, made: Tensor) -> dict[str, Tensor]:
    """Return "diversity": the spread of generated pixels over that of real ones.

    Near 0 the generator makes one image. `x` and `made` (B, C, H, W) share one scale.
    """
    return {"diversity": (made.var(0, unbiased=False).mean() / _spread(x)).sqrt()}


def reconstruction_figures(x: Tensor, x_hat: Tensor) -> dict[str, Tensor]:
    """Return figures of reconstructions `x_hat` of images `x` (B, C, H, W), on one scale.

    "held_out_reconstruction" is the mean squared error, "reconstruction_ratio" the same over the
    variance that the mean image leaves.
    """
    error = (x - x_hat).float().square().mean()
    return {"held_out_reconstruction": error, "reconstruction_ratio": error / _spread(x)}


def _spread(x: Tensor) -> Tensor:
    """Return the pixels' variance over images, averaged over pixels."""
    return x.var(0, unbiased=False).mean().clamp(min=1e-8)
