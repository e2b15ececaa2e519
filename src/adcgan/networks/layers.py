"""Layers that compute what torch's do, faster where the networks of this package need it.

Each replaces the layer of the same name; `tests/networks/test_layers.py` holds them to it. They
keep torch's names of parameters and buffers, so weights are interchangeable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from adcgan.networks.memory_order import is_channels_last, rows
from adcgan.networks.products import product

# Dropout draws 16 bits for an entry, so its probability is a multiple of 2⁻¹⁶.
LEVELS = 2**16


class Conv2d(nn.Conv2d):
    """Convolution; where one window makes the whole output, it is computed as a matrix product."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution (B, out, H', W') of `x` (B, in, H, W)."""
        if not self._is_one_window(x.shape[2:]):
            return super().forward(x)
        # Only what lies under the window counts, and only weights that are not over the padding.
        padding = self.padding[0]
        sides = [min(side, self.kernel_size[0] - int(padding)) for side in x.shape[2:]]
        under = x[:, :, : sides[0], : sides[1]]
        weight = whole = self.weight
        if under.shape[2:] != whole.shape[2:]:
            start = int(padding)
            weight = whole[:, :, start : start + sides[0], start : start + sides[1]]
        out = product(rows(under, like=whole), rows(weight, like=whole))
        return (out if self.bias is None else out + self.bias)[:, :, None, None]

    def _is_one_window(self, sides: torch.Size) -> bool:
        """Say whether the output for inputs of these sides is 1×1."""
        kernel, stride, padding = self.kernel_size[0], self.stride[0], int(self.padding[0])
        return all(kernel <= side + 2 * padding < kernel + stride for side in sides)


class ConvTranspose2d(nn.ConvTranspose2d):
    """Transposed convolution; of a 1×1 input it is computed as a matrix product."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return the transposed convolution (B, out, H', W') of `x` (B, in, H, W)."""
        plain = self.padding == (0, 0) and self.output_padding == (0, 0)
        if x.shape[2:] != (1, 1) or not plain or output_size is not None:
            return super().forward(x, output_size)
        out = product(x.flatten(1), rows(self.weight).t())
        kernel = self.kernel_size
        if is_channels_last(self.weight):
            out = out.view(x.shape[0], *kernel, self.out_channels).permute(0, 3, 1, 2)
        else:
            out = out.view(x.shape[0], self.out_channels, *kernel)
        return out if self.bias is None else out + self.bias[:, None, None]


def on_cpu(x: Tensor) -> bool:
    """Say whether a CPU computes with `x`, where kernels differ and numbers can be read."""
    return x.device.type == "cpu"


class PReLU(nn.PReLU):
    """PReLU with one slope; on CPUs through LeakyReLU's kernels, which are vectorised."""

    def forward(self, x: Tensor) -> Tensor:
        """Return max(x, 0) + slope · min(x, 0)."""
        if not on_cpu(x) or not torch.is_grad_enabled():
            return super().forward(x)
        return _prelu(x, self.weight)


class _PReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(x, slope)
        ctx.number = slope.item()
        return F.leaky_relu(x, ctx.number)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        x, slope = ctx.saved_tensors
        return prelu_backward(gradient, x, slope, ctx.number, needed=ctx.needs_input_grad[1])


_prelu: Callable[[Tensor, Tensor], Tensor] = _PReLU.apply


def prelu_backward(
    gradient: Tensor, x: Tensor, slope: Tensor, number: float | None, *, needed: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the gradients of PReLU's input and, if `needed`, of its slope.

    Parameters
    ----------
    gradient, x : Tensor of the same shape
        The gradient of its output, and its input.
    slope : Tensor (1,)
    number : float or None
        The slope, if it was read.
    needed : bool
        Whether the slope is trained.
    """
    if number is None:
        shaped = slope.to(x.dtype).view(-1, *[1] * (x.dim() - 2))
        on_x, on_slopes = torch.ops.aten._prelu_kernel_backward(gradient, x, shaped)
    else:
        on_x = torch.ops.aten.leaky_relu_backward(gradient, x, number, False)
        on_slopes = x.clamp(max=0) * gradient if needed else x
    if not needed:
        return on_x, None
    return on_x, on_slopes.sum(dtype=torch.float32).to(slope.dtype).view(slope.shape)


class Dropout(nn.Dropout):
    """Dropout; on CPUs with a mask made of random bits, four entries to a 64-bit number."""

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` with entries set to 0 with probability p and the rest divided by 1 − p."""
        if not self.draws_masks(x):
            return super().forward(x)
        return x * self.mask(torch.empty_like(x))

    def draws_masks(self, x: Tensor) -> bool:
        """Say whether entries of `x` are dropped by a mask, rather than by torch's dropout."""
        return self.training and self.p > 0 and on_cpu(x)

    def mask(self, like: Tensor) -> Tensor:
        """Return 0 or 1 / (1 − p) for each entry of a tensor without gaps in memory."""
        dropped = round(self.p * LEVELS)
        words = torch.empty(-(-like.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        kept = words.view(torch.int16)[: like.numel()] >= dropped - LEVELS // 2
        scale = kept.to(like.dtype).mul_(LEVELS / (LEVELS - dropped))
        return scale.as_strided(like.size(), like.stride())
