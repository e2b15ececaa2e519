"""Weights averaged over training, which ALAD and EGBAD score with."""

from __future__ import annotations

from copy import deepcopy
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from adcgan.detectors.settings import real, setting

# Power iterations that settle the spectral norm of averaged weights.
SETTLING_STEPS = 20


def ema_decay_setting() -> Any:
    """Declare how fast the averaged weights forget."""
    doc = "Decay of the averaged weights that score; 0 scores with the last weights."
    return setting(0.999, real(0, 1, below=True), doc)


class Average(nn.Module):
    """The exponential moving average of networks, to be updated after each step.

    After n updates with weights w₁ … wₙ it holds Σ decayⁿ⁻ⁱ wᵢ / Σ decayⁿ⁻ⁱ: the usual average,
    without the share of the untrained weights, which is large in short runs. Running statistics
    are averaged in the same way. Unlike torch's, an update asks the same of the device whatever n
    is, and reads nothing back, so that it can be part of a captured step.

    Parameters
    ----------
    networks : Module
        Whose weights are averaged.
    decay : float
        In [0, 1).

    Attributes
    ----------
    module : Module
        A copy of the networks with averaged weights.
    """

    total: Tensor  # () Σ decayⁿ⁻ⁱ

    def __init__(self, networks: nn.Module, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.module = deepcopy(networks).requires_grad_(False)
        device = next(networks.parameters()).device
        # MPS devices have no float64.
        wide = torch.float32 if device.type == "mps" else torch.float64
        self.register_buffer("total", torch.zeros((), dtype=wide, device=device))

    @torch.no_grad()
    def update(self, networks: nn.Module) -> None:
        """Take the weights of `networks` as they are now into the average."""
        self.total.mul_(self.decay).add_(1)
        weight = self.total.reciprocal().float()
        pairs = list(zip(_tensors(self.module), _tensors(networks), strict=True))
        averages, values = zip(*(p for p in pairs if p[0].is_floating_point()), strict=True)
        torch._foreach_lerp_(averages, values, [weight] * len(averages))
        for count, value in pairs:
            if not count.is_floating_point():
                count.copy_(value)


def _tensors(networks: nn.Module) -> chain[Tensor]:
    """Return weights and buffers."""
    return chain(networks.parameters(), networks.buffers())


def take_over(networks: nn.Module, average: Average) -> None:
    """Give `networks` the averaged weights."""
    networks.load_state_dict(average.module.state_dict())
    for module in networks.modules():
        if parametrize.is_parametrized(module, "weight"):
            # The mean of singular vectors is none; looking at the weight in training mode steps.
            module.train()
            with torch.no_grad():
                for _ in range(SETTLING_STEPS):
                    _ = module.weight
            module.eval()
