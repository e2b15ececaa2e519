"""AnoGAN: a GAN of normal images, and for each new image a search for the latent closest to it.

T. Schlegl, P. Seeböck, S. M. Waldstein, U. Schmidt-Erfurth and G. Langs, "Unsupervised Anomaly
Detection with Generative Adversarial Networks to Guide Marker Discovery", IPMI 2017.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adcgan.detectors.base import Components, Detector, Shape
from adcgan.detectors.baselines.schedule import step_count
from adcgan.detectors.baselines.search import Starts, search_latents, searching
from adcgan.detectors.baselines.stacks import Down, Up, halvings, normal, signed, unsigned
from adcgan.detectors.heatmaps import residual_map
from adcgan.detectors.parameters import Rule, one_of, real, whole
from adcgan.losses import logistic_critic_loss, logistic_generator_loss
from adcgan.networks.blocks import scaled
from adcgan.training import (
    COLLAPSE,
    SATURATED_CRITIC,
    Optimizers,
    Phase,
    Recipe,
    diversity_figures,
)
from adcgan.training.device import PRECISIONS

if TYPE_CHECKING:
    from accelerate import Accelerator

# DCGAN's rule (Radford et al. 2016): these channels next to the image, twice as many after each
# halving, up to the most. At 64 px that is the published 64, 128, 256, 512.
LEAST_CHANNELS, MOST_CHANNELS = 64, 512


class AnoGAN(Detector):
    """DCGAN; the score is what is left after a search over the latent.

    Parameters
    ----------
    image_size, resize, validation_fraction, fpr, contamination, device, random_state
        As for `ADCGAN`.
    latent_dim : int
        Size z of the latent.
    width : float
        Scale of every hidden width; 1 is the published network.
    batch_size, epochs, min_steps : int
        Images a step; passes over the images; the least number of steps, 0 for no least.
    lr : float
        Adam's learning rate for both networks.
    lam : float
        Weight of the critic's features in search and score; 1 − lam is that of the residual.
    search_steps : int
        Gradient steps on z for each image.
    lr_search : float
        Adam's learning rate for z.
    precision : {"auto", "float32", "bf16"}
        Of training; scores are float32 always.
    """

    rules: ClassVar[dict[str, Rule]] = {
        "latent_dim": whole(1),
        "width": real(0, 4, above=True),
        "batch_size": whole(2),
        "epochs": whole(1),
        "min_steps": whole(0),
        "lr": real(0, above=True),
        "lam": real(0, 1),
        "search_steps": whole(1),
        "lr_search": real(0, above=True),
        "precision": one_of(*PRECISIONS),
    }

    def __init__(
        self,
        *,
        image_size: int | None = None,
        resize: str = "squash",
        latent_dim: int = 100,
        width: float = 1.0,
        batch_size: int = 64,
        epochs: int = 20,
        min_steps: int = 2500,
        lr: float = 2e-4,
        lam: float = 0.1,
        search_steps: int = 500,
        lr_search: float = 0.01,
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
        self.lr = lr
        self.lam = lam
        self.search_steps = search_steps
        self.lr_search = lr_search
        self.validation_fraction = validation_fraction
        self.fpr = fpr
        self.contamination = contamination
        self.precision = precision
        self.device = device
        self.random_state = random_state

    def _make_networks(self, shape: Shape, width: float) -> nn.ModuleDict:
        channels, size, _ = shape
        doubled = [LEAST_CHANNELS * 2**level for level in range(halvings(size))]
        hidden = [scaled(min(count, MOST_CHANNELS), width) for count in doubled]
        networks = {
            "generator": Up(channels, size, self.latent_dim, hidden[::-1]),
            "critic": Critic(channels, size, hidden),
            "starts": Starts(1, self.latent_dim, self.random_state),
        }
        # The search takes 1.4 times as long on CPUs with the channels outermost.
        modules = nn.ModuleDict(networks)
        return modules.to(memory_format=torch.channels_last)  # type: ignore[no-any-return, call-overload]

    def _recipe(self, networks: nn.ModuleDict, n_train: int, accelerator: Accelerator) -> Recipe:
        parameters = {name: list(networks[name].parameters()) for name in ("generator", "critic")}
        optimizers = Optimizers(
            parameters, dict.fromkeys(parameters, self.lr), accelerator=accelerator
        )
        steps = _Steps(networks, optimizers, self.latent_dim)
        count = step_count(n_train, self.batch_size, self.epochs, self.min_steps)
        return Recipe(
            networks=networks,
            optimizers=optimizers,
            phases=(Phase("joint", count, steps.joint),),
            batch_size=self.batch_size,
            probe=steps.probe,
            checks=(COLLAPSE, SATURATED_CRITIC),
        )

    def _distances(self, x: Tensor, z: Tensor, f_x: Tensor) -> tuple[Tensor, Tensor]:
        """Return Σ|x − G(z)| and Σ|f(x) − f(G(z))|, each (B,), of images in [−1, 1]."""
        x_hat = self.networks_["generator"](z)
        features = (f_x - cast(Critic, self.networks_["critic"]).features(x_hat)).abs()
        return (x - x_hat).abs().flatten(1).sum(1), features.sum(1)

    def _search(self, x: Tensor, f_x: Tensor) -> Tensor:
        """Return the latents (B, z) that the search finds for images with features `f_x`."""
        start = cast(Starts, self.networks_["starts"]).latents.repeat(len(x), 1)

        def loss(z: Tensor) -> Tensor:
            residual, features = self._distances(x, z, f_x)
            return (1 - self.lam) * residual + self.lam * features

        with searching():
            return search_latents(loss, start, self.search_steps, self.lr_search)

    def _component_batch(self, x: Tensor) -> dict[str, Tensor]:
        x = signed(x)
        f_x = cast(Critic, self.networks_["critic"]).features(x)
        residual, features = self._distances(x, self._search(x, f_x), f_x)
        return {"residual": residual, "features": features}

    def _combine(self, components: Components) -> NDArray[np.float64]:
        return (1 - self.lam) * components["residual"] + self.lam * components["features"]

    def _reconstruct_batch(self, x: Tensor) -> Tensor:
        x = signed(x)
        z = self._search(x, cast(Critic, self.networks_["critic"]).features(x))
        return unsigned(self.networks_["generator"](z))

    def _generated(self, generator: nn.Module, n: int, rng: torch.Generator) -> Tensor:
        z = torch.randn(n, self.latent_dim, generator=rng)
        return unsigned(generator(z.to(self._device())))

    def _map_batch(self, x: Tensor) -> Tensor:
        return residual_map(x, self._reconstruct_batch(x))


class Critic(nn.Module):
    """D(x): DCGAN's halvings, whose last map is the features f, and a linear logit."""

    def __init__(self, channels: int, size: int, hidden: list[int]) -> None:
        super().__init__()
        self.features = Down(channels, size, hidden, norm="later")
        self.logit = normal(nn.Linear(self.features.features, 1), 0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, 1) of images (B, C, H, W); higher = more like a real image."""
        logit: Tensor = self.logit(self.features(x))
        return logit


class _Steps:
    """One training step: the critic, then the generator."""

    def __init__(self, networks: nn.ModuleDict, optimizers: Optimizers, latent_dim: int) -> None:
        self.generator, self.critic = networks["generator"], networks["critic"]
        self.latent_dim = latent_dim
        self.update = optimizers.update

    def _noise(self, x: Tensor, rng: torch.Generator) -> Tensor:
        return torch.randn(len(x), self.latent_dim, device=x.device, generator=rng)

    def joint(self, x: Tensor, rng: torch.Generator) -> None:
        """Train both networks once."""
        fake = self.generator(self._noise(x, rng))
        on_real, on_fake = self.critic(signed(x)), self.critic(fake.detach())
        self.update("critic", {"adversarial": logistic_critic_loss(on_real, on_fake)})
        self.update("generator", {"adversarial": logistic_generator_loss(self.critic(fake))})

    def probe(self, x: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Return the generator's diversity beside held-out images."""
        return diversity_figures(signed(x), self.generator(self._noise(x, rng)))
