"""Layers that compute what torch's do, faster where the networks of this package need it.

Each replaces the layer of the same name; `tests/networks/test_layers.py` holds them to it. They
keep torch's names of parameters and buffers, so weights are interchangeable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
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


class PReLU(nn.PReLU):
    """PReLU with one slope; on CPUs through LeakyReLU's kernels, which are vectorised."""

    def forward(self, x: Tensor) -> Tensor:
        """Return max(x, 0) + slope · min(x, 0)."""
        if x.device.type != "cpu" or not torch.is_grad_enabled():
            return super().forward(x)
        return _prelu(x, self.weight)


class _PReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(x, slope)
        return F.leaky_relu(x, slope.item())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        x, slope = ctx.saved_tensors
        on_x = torch.ops.aten.leaky_relu_backward(gradient, x, slope.item(), False)
        if not ctx.needs_input_grad[1]:
            return on_x, None
        on_slope = (x.clamp(max=0) * gradient).sum(dtype=torch.float32)
        return on_x, on_slope.to(slope.dtype).reshape(slope.shape)


_prelu: Callable[[Tensor, Tensor], Tensor] = _PReLU.apply


class Dropout(nn.Dropout):
    """Dropout; on CPUs with a mask made of random bits, four entries to a 64-bit number."""

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` with entries set to 0 with probability p and the rest divided by 1 − p."""
        if not self.training or self.p == 0 or x.device.type != "cpu":
            return super().forward(x)
        dropped = round(self.p * LEVELS)
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        kept = words.view(torch.int16)[: x.numel()] >= dropped - LEVELS // 2
        scale = kept.to(x.dtype).mul_(LEVELS / (LEVELS - dropped))
        like = torch.empty_like(x)
        return x * scale.as_strided(like.size(), like.stride())
