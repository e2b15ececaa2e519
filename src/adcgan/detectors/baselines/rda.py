"""Robust deep autoencoder: images are split in a part the autoencoder explains and a sparse rest.

C. Zhou and R. C. Paffenroth, "Anomaly Detection with Robust Deep Autoencoders", KDD 2017.
"""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adcgan.detectors.base import Components, Detector, Shape
from adcgan.detectors.baselines.schedule import step_count
from adcgan.detectors.baselines.stacks import Down, Up, channels_for, signed
from adcgan.detectors.heatmaps import residual_map
from adcgan.detectors.parameters import Rule, one_of, real, whole
from adcgan.losses import reconstruction_loss
from adcgan.training import (
    STALLED_AUTOENCODER,
    Optimizers,
    Phase,
    Recipe,
    reconstruction_figures,
)
from adcgan.training.device import PRECISIONS

if TYPE_CHECKING:
    from accelerate import Accelerator

CHANNELS = (32, 64, 128)


class RobustAutoencoder(Detector):
    """Autoencoder trained on L where X = L + S and whole images may move into S.

    Parameters
    ----------
    image_size, resize, validation_fraction, fpr, contamination, device, random_state
        As for `ADCGAN`.
    latent_dim : int
        Size z of the code.
    width : float
        Scale of every hidden width.
    batch_size, epochs, min_steps : int
        Images a step; passes over the images in all rounds together; the least number of steps,
        0 for no least.
    rounds : int
        How often training and shrinking alternate.
    lr : float
        Adam's learning rate.
    lam : float
        Residual that an image may keep in L, as root mean square over its pixels in [0, 1]:
        λ of the ℓ2,1 norm is lam · √pixels. What is above goes to S.
    precision : {"auto", "float32", "bf16"}
        Of training; scores are float32 always.
    """

    rules: ClassVar[dict[str, Rule]] = {
        "latent_dim": whole(1),
        "width": real(0, 4, above=True),
        "batch_size": whole(2),
        "epochs": whole(1),
        "min_steps": whole(0),
        "rounds": whole(1),
        "lr": real(0, above=True),
        "lam": real(0, above=True),
        "precision": one_of(*PRECISIONS),
    }

    def __init__(
        self,
        *,
        image_size: int | None = None,
        resize: str = "squash",
        latent_dim: int = 32,
        width: float = 1.0,
        batch_size: int = 64,
        epochs: int = 50,
        min_steps: int = 2500,
        rounds: int = 10,
        lr: float = 1e-3,
        lam: float = 0.1,
        validation_fraction: float = 0.1,
        fpr: float = 0.01,
        contamination: float | None = None,
        precision: str = "auto",
        device: str = "auto",
        random_state: int = 0,
    ) -> None:
        self.image_size = image_size
        self.resize = resize
        self.latent_dim = latent_dim
        self.width = width
        self.batch_size = batch_size
        self.epochs = epochs
        self.min_steps = min_steps
        self.rounds = rounds
        self.lr = lr
        self.lam = lam
        self.validation_fraction = validation_fraction
        self.fpr = fpr
        self.contamination = contamination
        self.precision = precision
        self.device = device
        self.random_state = random_state

    def _make_networks(self, shape: Shape, width: float) -> nn.ModuleDict:
        channels, size, _ = shape
        return nn.ModuleDict({"autoencoder": Autoencoder(channels, size, self.latent_dim, width)})

    def _recipe(self, networks: nn.ModuleDict, n_train: int, accelerator: Accelerator) -> Recipe:
        autoencoder = networks["autoencoder"]
        optimizers = Optimizers(
            {"autoencoder": autoencoder.parameters()},
            {"autoencoder": self.lr},
            betas=(0.9, 0.999),
            accelerator=accelerator,
        )
        steps = _Steps(autoencoder, optimizers, self.lam)
        count = step_count(n_train, self.batch_size, self.epochs, self.min_steps)
        starts = _round_starts(count, self.rounds)
        return Recipe(
            networks=nn.ModuleDict({**networks, "previous": steps.previous}),
            optimizers=optimizers,
            phases=[
                Phase(f"round {number + 1}", end - start, partial(steps.train, start))
                for number, (start, end) in enumerate(pairwise(starts))
            ],
            batch_size=self.batch_size,
            probe=steps.probe,
            checks=(STALLED_AUTOENCODER,),
        )

    def _component_batch(self, x: Tensor) -> dict[str, Tensor]:
        """Return ‖x − D(E(x))‖₂ (B,), images in [0, 1]."""
        return {"residual": (x - self._reconstruct_batch(x)).flatten(1).norm(dim=1)}

    def _combine(self, components: Components) -> NDArray[np.float64]:
        return components["residual"]

    def _reconstruct_batch(self, x: Tensor) -> Tensor:
        x_hat: Tensor = self.networks_["autoencoder"](x)
        return x_hat

    def _map_batch(self, x: Tensor) -> Tensor:
        return residual_map(x, self._reconstruct_batch(x))


class Autoencoder(nn.Module):
    """D(E(x)): halvings to a code and back, for images (B, C, H, W) in [0, 1]."""

    def __init__(self, channels: int, size: int, latent_dim: int, width: float) -> None:
        super().__init__()
        hidden = channels_for(size, CHANNELS, width)
        down = Down(channels, size, hidden)
        self.encoder = nn.Sequential(down, nn.Linear(down.features, latent_dim))
        self.decoder = Up(channels, size, latent_dim, hidden[::-1])

    def forward(self, x: Tensor) -> Tensor:
        """Return reconstructions (B, C, H, W) in [0, 1]."""
        x_hat: Tensor = (self.decoder(self.encoder(signed(x))) + 1) / 2
        return x_hat


def shrink(rows: Tensor, threshold: float) -> Tensor:
    """Return the proximal operator of threshold · ‖·‖₂,₁, over all but the first dimension.

    Every row (…) of `rows` (B, …) becomes max(0, 1 − threshold / ‖row‖₂) · row.
    """
    length = rows.flatten(1).norm(dim=1).clamp(min=torch.finfo(rows.dtype).tiny)
    factor = (1 - threshold / length).clamp(min=0)
    shrunk: Tensor = factor.reshape(-1, *[1] * (rows.dim() - 1)) * rows
    return shrunk


def _round_starts(count: int, rounds: int) -> list[int]:
    """Return the first step of each of `rounds` rounds, and the number of steps `count`.

    The first round, which learns from whole images, takes half of the steps: an autoencoder that
    has learned little would put every image into S, and L would then follow it only slowly.
    """
    first = count if rounds == 1 else count // 2
    later = [first + (count - first) * number // (rounds - 1) for number in range(1, rounds)]
    return [0, first, *later]


class _Steps:
    """Training on L = X − S, S shrunk from the residuals that the last round's weights leave."""

    def __init__(self, autoencoder: nn.Module, optimizers: Optimizers, lam: float) -> None:
        self.autoencoder, self.optimizers, self.lam = autoencoder, optimizers, lam
        self.previous = deepcopy(autoencoder).requires_grad_(False)

    def train(self, start: int, x: Tensor, rng: torch.Generator) -> None:  # noqa: ARG002
        """Train once on L, in the round whose first step is `start`."""
        if self.optimizers.step == start:
            self.previous.load_state_dict(self.autoencoder.state_dict())
        # In the first round S is 0: residuals of untrained weights say nothing.
        low = x if start == 0 else x - self.sparse(x)
        loss = reconstruction_loss(low, self.autoencoder(low))
        self.optimizers.update("autoencoder", {"reconstruction": loss})

    def sparse(self, x: Tensor) -> Tensor:
        """Return S (B, C, H, W) of images `x`: rows of the ℓ2,1 norm are images."""
        self.previous.eval()  # the loop puts all networks in training mode
        with torch.no_grad():
            residual = x - self.previous(x).float()
            return shrink(residual, self.lam * x[0].numel() ** 0.5)

    def probe(self, x: Tensor, rng: torch.Generator) -> dict[str, Tensor]:  # noqa: ARG002
        """Return figures of the reconstruction of held-out images."""
        return reconstruction_figures(x, self.autoencoder(x))
