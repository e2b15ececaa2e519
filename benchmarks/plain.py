"""The joint step of AD-CGAN in plain PyTorch, which the package's own step is measured against.

The same networks and the same losses, without what makes `adcgan` fast: torch's own convolutions,
spectral norm, dropout and PReLU; channels outermost in memory; gradients of all weights in every
backward pass; torch's default Adam. `speed.py` times it and `tests/training/test_parity.py` holds
the package's losses to its losses.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from adcgan.detectors.adcgan import ADCGANModel
from adcgan.losses import (
    contrastive_loss,
    latent_critic_loss,
    latent_encoder_loss,
    latent_training_inputs,
    reconstruction_loss,
    relativistic_critic_loss,
    relativistic_generator_loss,
)
from adcgan.networks import layers as fast
from adcgan.networks.blocks import ConvBlock, UpBlock

BETAS = (0.5, 0.999)


def plain_model(model: ADCGANModel) -> ADCGANModel:
    """Return a copy of `model` of torch's own layers."""
    made = ADCGANModel(model.settings, model.shape)
    _take_torch_layers(made)
    made.load_state_dict(model.state_dict())
    return made.to(memory_format=torch.contiguous_format)  # type: ignore[no-any-return, call-overload]


def _take_torch_layers(module: nn.Module) -> None:
    """Put torch's own layers in the place of the package's, all through `module`."""
    for name, child in module.named_children():
        twin = _torch_layer(child)
        if twin is None:
            if isinstance(child, (ConvBlock, UpBlock)):
                child.__class__ = nn.Sequential
            _take_torch_layers(child)
            continue
        if parametrize.is_parametrized(child):
            parametrizations.spectral_norm(twin)
        setattr(module, name, twin)


def _torch_layer(layer: nn.Module) -> nn.Module | None:
    """Return torch's layer of the same settings, or None where the package has none of its own."""
    if isinstance(layer, (fast.Conv2d, fast.ConvTranspose2d)):
        kind = nn.Conv2d if isinstance(layer, fast.Conv2d) else nn.ConvTranspose2d
        sizes = cast(Any, (layer.kernel_size, layer.stride, layer.padding))
        return kind(layer.in_channels, layer.out_channels, *sizes, bias=layer.bias is not None)
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
    if isinstance(layer, fast.Dropout):
        return nn.Dropout(layer.p)
    return nn.PReLU() if isinstance(layer, fast.PReLU) else None


class PlainStep:
    """The joint step: critic, generator, D_z, autoencoder.

    Parameters
    ----------
    model : ADCGANModel
        From `plain_model`, in training mode; `latent` must be "pair" or "single".
    shared_norm : bool, default=False
        Normalise the critic's weights once for the images judged together, as the package does,
        rather than for every forward pass. The losses are then the package's up to rounding.

    Attributes
    ----------
    losses : dict of str to Tensor ()
        Those of the last step, by the package's names.
    """

    def __init__(self, model: ADCGANModel, *, shared_norm: bool = False) -> None:
        self.settings, self.latent_dim = model.settings, model.latent_dim
        self.shared_norm = shared_norm
        assert model.latent_critic is not None
        self.encoder, self.generator = model.encoder, model.generator
        self.critic, self.latent_critic = model.critic, model.latent_critic
        autoencoder = [*self.encoder.parameters(), *self.generator.parameters()]
        self.optimizers = {
            name: torch.optim.Adam(
                model.get_submodule(name).parameters(), lr=self.settings.lr, betas=BETAS
            )
            for name in ("critic", "generator", "latent_critic")
        } | {"autoencoder": torch.optim.Adam(autoencoder, self.settings.lr_autoencoder, BETAS)}
        self.losses: dict[str, Tensor] = {}

    def __call__(self, x: Tensor, rng: torch.Generator) -> None:
        """Train every network once on images (B, C, H, W) in [0, 1]."""
        z, fake = self._critic_step(x, rng)
        self._generator_step(x, fake)
        assert self.settings.latent != "none"
        e_x = self.encoder(x)
        real, judged = latent_training_inputs(self.settings.latent, z, e_x.detach())
        loss = latent_critic_loss(self.latent_critic(real), self.latent_critic(judged))
        self._update("latent_critic", {"adversarial": loss})
        judged = latent_training_inputs(self.settings.latent, z, e_x)[1]
        losses = {
            "latent": latent_encoder_loss(self.latent_critic(judged)),
            "reconstruction": reconstruction_loss(x, self.generator(e_x)),
        }
        self._update("autoencoder", losses)

    def _critic_step(self, x: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Train the critic; return the noise and what the generator made of it."""
        settings = self.settings
        for _ in range(settings.critic_steps):
            z = torch.randn(len(x), self.latent_dim, device=x.device, generator=rng)
            fake = self.generator(z)
            with self._norm():
                on_real, on_fake = self.critic(x), self.critic(fake.detach())
                query = self.critic.project(on_real.global_)
            contrast = contrastive_loss(on_real.local, query, settings.negatives)
            losses = {
                "adversarial": relativistic_critic_loss(on_real.logit, on_fake.logit),
                "contrastive": settings.beta * contrast,
            }
            self._update("critic", losses)
        return z, fake

    def _generator_step(self, x: Tensor, fake: Tensor) -> None:
        """Train the generator against the critic."""
        with self._norm():
            with torch.no_grad():
                on_real = self.critic(x)
            on_fake = self.critic(fake)
            query = self.critic.project(on_fake.global_)
        contrast = contrastive_loss(on_fake.local, query, self.settings.negatives)
        losses = {
            "adversarial": relativistic_generator_loss(on_real.logit, on_fake.logit),
            "contrastive": self.settings.alpha * contrast,
        }
        self._update("generator", losses)

    def _norm(self) -> AbstractContextManager[None]:
        return cast(Any, parametrize.cached()) if self.shared_norm else nullcontext()

    def _update(self, name: str, losses: dict[str, Tensor]) -> None:
        """Take a step of one optimizer on the sum of `losses`."""
        self.losses |= {f"{name}/{key}": loss.detach() for key, loss in losses.items()}
        self.optimizers[name].zero_grad()
        torch.stack([loss.float() for loss in losses.values()]).sum().backward()
        self.optimizers[name].step()
