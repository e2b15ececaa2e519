"""Equivalents of torch's layers that are faster for the networks of this package.

Each replaces the layer of the same name; `tests/networks/test_layers.py` compares the two. They
keep torch's names for parameters and buffers, so weights are interchangeable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from adcgan.networks.memory_order import Place, rows, unrolled, window_rows
from adcgan.networks.products import computed_in, gradients, multiply, product

# Dropout draws 16 bits per entry, so its probability is a multiple of 2⁻¹⁶.
LEVELS = 2**16


class Linear(nn.Linear):
    """Linear layer on vectors, computed by `product`."""

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` (B, in) · weightᵀ + bias, (B, out)."""
        return product(x, self.weight, self.bias)


class Conv2d(nn.Conv2d):
    """Convolution, computed as a matrix product if a single window makes the whole output."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution (B, out, H', W') of `x` (B, in, H, W)."""
        if not self._is_one_window(x.shape[2:]):
            return super().forward(x)
        return _one_window(x, self.weight, self.bias, int(self.padding[0]))

    def _is_one_window(self, sides: torch.Size) -> bool:
        """Return whether the output is 1×1 for inputs of these sides."""
        kernel, stride, padding = self.kernel_size[0], self.stride[0], int(self.padding[0])
        return all(kernel <= side + 2 * padding < kernel + stride for side in sides)


class _OneWindow(torch.autograd.Function):
    """Product of the input under the window with the weights that are not over padding."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
        x, weight = x.to(computed_in(x)), weight.to(computed_in(weight))
        height, width = (min(side, weight.shape[2] - padding) for side in x.shape[2:])
        ctx.places = (0, (height, width)), (padding, (height, width))
        on_x, on_weight = ctx.places
        under_x = window_rows(x, on_x, like=weight)
        under_weight = window_rows(weight, on_weight, like=weight)
        ctx.save_for_backward(x, weight, under_x, under_weight)
        out = multiply(under_x, under_weight, bias)
        return out.view(*out.shape, 1, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, under_x, under_weight = ctx.saved_tensors
        *found, on_bias = gradients(
            gradient.flatten(1), under_x, under_weight, ctx.needs_input_grad
        )
        on_whole = [
            None if on is None else _around(on, whole, place, like=weight)
            for on, whole, place in zip(found, (x, weight), ctx.places, strict=True)
        ]
        return *on_whole, on_bias, None


def _around(matrix: Tensor, whole: Tensor, place: Place, like: Tensor) -> Tensor:
    """Return zeros like `whole`, except for the window at `place`, whose rows are `matrix`."""
    start, (height, width) = place
    part = unrolled(matrix, torch.Size([*whole.shape[:2], height, width]), like)
    below, right = whole.shape[2] - start - height, whole.shape[3] - start - width
    return F.pad(part, (start, right, start, below)) if start or below or right else part


_one_window: Callable[[Tensor, Tensor, Tensor | None, int], Tensor] = _OneWindow.apply


class ConvTranspose2d(nn.ConvTranspose2d):
    """Transposed convolution, computed as a matrix product for 1×1 inputs."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return the transposed convolution (B, out, H', W') of `x` (B, in, H, W)."""
        plain = self.padding == (0, 0) and self.output_padding == (0, 0)
        if x.shape[2:] != (1, 1) or not plain or output_size is not None:
            return super().forward(x, output_size)
        out = _spread(x, self.weight)
        return out if self.bias is None else out + self.bias.to(out.dtype)[:, None, None]


class _Spread(torch.autograd.Function):
    """Product of (B, in, 1, 1) with weights (in, out, k, k)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        x, weight = x.flatten(1).to(computed_in(x)), weight.to(computed_in(weight))
        ctx.save_for_backward(x, weight)
        out = multiply(x, rows(weight).t())
        return unrolled(out, torch.Size([len(x), *weight.shape[1:]]), like=weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        by_x, by_weight = ctx.needs_input_grad
        matrix = rows(gradient, like=weight)
        on_x = multiply(matrix, rows(weight)) if by_x else None
        on_weight = multiply(x.t(), matrix.t()) if by_weight else None
        return (
            None if on_x is None else on_x.view(*x.shape, 1, 1),
            None if on_weight is None else unrolled(on_weight, weight.shape, like=weight),
        )


_spread: Callable[[Tensor, Tensor], Tensor] = _Spread.apply


def on_cpu(x: Tensor) -> bool:
    """Return whether `x` is on a CPU, where kernels differ and values can be read cheaply."""
    return x.device.type == "cpu"


class PReLU(nn.PReLU):
    """PReLU with one slope, computed on CPUs with LeakyReLU's vectorised kernels."""

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
    """Return the gradients of PReLU's input and, if `needed`, its slope.

    Parameters
    ----------
    gradient, x : Tensor of the same shape
        Gradient of the output, and the input.
    slope : Tensor (1,)
    number : float or None
        The slope, if it was read before.
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
    """Dropout, on CPUs with masks from random bits, four entries per 64-bit number."""

    def forward(self, x: Tensor) -> Tensor:
        """Set entries of `x` to 0 with probability p and divide the others by 1 − p."""
        if not self.draws_masks(x):
            return super().forward(x)
        return x * Masks(self.p, [x.numel()], x.dtype).next(torch.empty_like(x))

    def draws_masks(self, x: Tensor) -> bool:
        """Return whether `x` is masked here rather than by torch's dropout."""
        return self.training and self.p > 0 and on_cpu(x)


class Masks:
    """Dropout masks for several tensors, drawn together.

    Parameters
    ----------
    p : float
        Probability that an entry is 0; other entries are 1 / (1 − p).
    sizes : sequence of int
        Number of entries of each mask, in the order of use.
    dtype : torch.dtype
        Data type of the masks.
    """

    def __init__(self, p: float, sizes: Sequence[int], dtype: torch.dtype) -> None:
        dropped = round(p * LEVELS)
        with torch.no_grad():
            words = torch.empty(sum(map(_words, sizes)), dtype=torch.int64)
            bits = words.random_(-(2**63), None).view(torch.int16)
            self._entries = torch.empty(len(bits), dtype=dtype)
            torch.ge(bits, dropped - LEVELS // 2, out=self._entries)
            self._entries.mul_(LEVELS / (LEVELS - dropped))
        self._used = 0

    def next(self, like: Tensor) -> Tensor:
        """Return the next mask, for a contiguous tensor."""
        mask = self._entries.as_strided(like.size(), like.stride(), self._used)
        self._used += 4 * _words(like.numel())
        return mask


def _words(entries: int) -> int:
    """Return how many 64-bit words a mask with this many entries takes."""
    return -(-entries // 4)
