"""Weights as matrices whose entries are in the order in which they lie in memory."""

from __future__ import annotations

import torch
from torch import Tensor


def is_channels_last(tensor: Tensor) -> bool:
    """Say whether channels lie innermost in memory."""
    return tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)


def rows(tensor: Tensor, like: Tensor | None = None) -> Tensor:
    """Return (n, …) as a matrix (n, rest), the rest in the order of memory (of `like`)."""
    if is_channels_last(tensor if like is None else like):
        return tensor.permute(0, 2, 3, 1).flatten(1)
    return tensor.flatten(1)
