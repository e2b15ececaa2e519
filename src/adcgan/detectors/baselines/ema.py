"""Averages of the weights over training, with which ALAD and EGBAD score."""

from __future__ import annotations

from copy import deepcopy
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from adcgan.detectors.settings import real, setting

# Power iterations until the spectral norm of averaged weights converges.
SETTLING_STEPS = 20


def ema_decay_setting() -> Any:
    """Declare the decay of the averaged weights."""
    doc = "Decay of the weight average used for scoring; 0 scores with the last weights."
    return setting(0.999, real(0, 1, below=True), doc)


class Average(nn.Module):
    """Exponential moving average of networks, updated after each step.

    After n updates with weights w₁ … wₙ it holds Σ decayⁿ⁻ⁱ wᵢ / Σ decayⁿ⁻ⁱ: the usual average
    without the contribution of the untrained weights, which is large in short runs. Running
    statistics are averaged in the same way. Unlike torch's average, every update runs the same
    device operations and reads nothing back, so it can be part of a captured step.

    Parameters
    ----------
    networks : Module
        Networks to average.
    decay : float
        Decay, in [0, 1).

    Attributes
    ----------
    module : Module
        Copy of the networks with averaged weights.
    """

    total: Tensor  # () Σ decayⁿ⁻ⁱ

    def __init__(self, networks: nn.Module, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.module = deepcopy(networks).requires_grad_(False)
        device = next(networks.parameters()).device
        # MPS devices do not support float64.
        wide = torch.float32 if device.type == "mps" else torch.float64
        self.register_buffer("total", torch.zeros((), dtype=wide, device=device))

    @torch.no_grad()
    def update(self, networks: nn.Module) -> None:
        """Add the current weights of `networks` to the average."""
        self.total.mul_(self.decay).add_(1)
        weight = self.total.reciprocal().float()
        pairs = list(zip(_tensors(self.module), _tensors(networks), strict=True))
        averages, values = zip(*(p for p in pairs if p[0].is_floating_point()), strict=True)
        torch._foreach_lerp_(averages, values, [weight] * len(averages))
        for count, value in pairs:
            if not count.is_floating_point():
                count.copy_(value)


def _tensors(networks: nn.Module) -> chain[Tensor]:
    """Return the weights and buffers."""
    return chain(networks.parameters(), networks.buffers())


def take_over(networks: nn.Module, average: Average) -> None:
    """Copy the averaged weights to `networks`."""
    networks.load_state_dict(average.module.state_dict())
    for module in networks.modules():
        if parametrize.is_parametrized(module, "weight"):
            # The mean of singular vectors is not a singular vector. In training mode, each access
            # to the weight runs a power iteration.
            module.train()
            with torch.no_grad():
                for _ in range(SETTLING_STEPS):
                    _ = module.weight
            module.eval()
