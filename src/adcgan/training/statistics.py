"""BatchNorm statistics of trained networks, recomputed for scoring."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def recompute_statistics(
    networks: nn.Module, forward: Callable[[Tensor], object], batches: Iterable[Tensor]
) -> None:
    """Replace the running statistics of all BatchNorm layers in `networks` with those of `batches`.

    During training, a network's running averages mix all of its uses: for the generator, images
    from noise and reconstructions. Scoring uses only one of them, which the mixture does not fit.
    The means and variances of whole batches are averaged with equal weight. Weights do not change,
    dropout is off, and the networks end in evaluation mode.

    Parameters
    ----------
    networks : Module
        Networks to change in place.
    forward : callable
        Passes a batch through the networks as scoring does.
    batches : iterable of Tensor (B, C, H, W)
        Normal images in [0, 1], at least 2 per batch.
    """
    norms = [module for module in networks.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    networks.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        for x in batches:
            forward(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    networks.eval()
