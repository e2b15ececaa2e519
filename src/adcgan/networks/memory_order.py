"""Weights as matrices with entries in memory order."""

from __future__ import annotations

import torch
from torch import Tensor

# Offset of a window in both directions, and its sides.
Place = tuple[int, tuple[int, int]]


def is_channels_last(tensor: Tensor) -> bool:
    """Return whether the tensor is in channels-last layout."""
    return tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)


def rows(tensor: Tensor, like: Tensor | None = None) -> Tensor:
    """Reshape (n, …) to a matrix (n, rest), with the rest in memory order (that of `like`).

    Not for use under autograd, where the backward pass would be slower.
    """
    if not is_channels_last(tensor if like is None else like):
        return tensor.flatten(1)
    if is_channels_last(tensor):
        rest = tensor.numel() // len(tensor)
        return tensor.as_strided((len(tensor), rest), (rest, 1))
    return tensor.permute(0, 2, 3, 1).flatten(1)


def unrolled(matrix: Tensor, shape: torch.Size, like: Tensor) -> Tensor:
    """Invert `rows`: return the tensor of `shape` (n, c, h, w), in the memory order of `like`."""
    _, c, h, w = shape
    n, step = matrix.stride()
    if is_channels_last(like):
        return matrix.as_strided(shape, (n, step, step * w * c, step * c))
    return matrix.as_strided(shape, (n, step * h * w, step * w, step))


def window_rows(whole: Tensor, place: Place, like: Tensor) -> Tensor:
    """Return the `rows` of the window at `place` of (n, c, h, w); not for use under autograd."""
    start, sides = place
    if whole.shape[2:] == torch.Size(sides):
        return rows(whole, like)
    n, c, down, right = whole.stride()
    offset = whole.storage_offset() + start * (down + right)
    if sides == (1, 1):
        return whole.as_strided(whole.shape[:2], (n, c), offset)
    window = whole.as_strided((*whole.shape[:2], *sides), (n, c, down, right), offset)
    return rows(window, like)
