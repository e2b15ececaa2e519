"""Weights averaged over training, which ALAD and EGBAD score with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim.swa_utils import AveragedModel

from adcgan.detectors.settings import real, setting

# Power iterations that settle the spectral norm of averaged weights.
SETTLING_STEPS = 20

Tensors = tuple[Tensor, ...] | list[Tensor]


def ema_decay_setting() -> Any:
    """Declare how fast the averaged weights forget."""
    doc = "Decay of the averaged weights that score; 0 scores with the last weights."
    return setting(0.999, real(0, 1, below=True), doc)


def averaged(networks: nn.Module, decay: float) -> AveragedModel:
    """Return the exponential moving average of `networks`, to be updated after each step.

    After n updates with weights w₁ … wₙ it holds Σ decayⁿ⁻ⁱ wᵢ / Σ decayⁿ⁻ⁱ: the usual average,
    without the share of the untrained weights, which is large in short runs. Running statistics
    are averaged in the same way.
    """
    return AveragedModel(networks, multi_avg_fn=_average(decay), use_buffers=True)


def _average(decay: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    """Return the update that `AveragedModel` asks for from its second call on."""

    def update(average: Tensors, current: Tensors, count: Tensor | int) -> None:
        if average[0].is_floating_point():
            weight = (1 - decay) / (1 - decay ** (int(count) + 1))
            torch._foreach_lerp_(average, current, weight)
            return
        for mean, value in zip(average, current, strict=True):
            mean.copy_(value)

    return update


def take_over(networks: nn.Module, average: AveragedModel) -> None:
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
