"""BatchNorm statistics of trained networks, measured on the images they will score."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def recompute_statistics(
    networks: nn.Module, forward: Callable[[Tensor], object], batches: Iterable[Tensor]
) -> None:
    """Replace the running statistics of every BatchNorm in `networks` by those of `batches`.

    During training a network's running averages mix every use it is put to: the generator's those
    of images made of noise and of reconstructions. In scoring it has one use, and there the
    mixture fits neither. The means and variances of whole batches are averaged with equal weight;
    weights stay as they are, dropout is off, and the networks end in evaluation mode.

    Parameters
    ----------
    networks : Module
        Changed in place.
    forward : callable
        Puts a batch through the networks as scoring does.
    batches : iterable of Tensor (B, C, H, W)
        Normal images in [0, 1], at least 2 in a batch.
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
