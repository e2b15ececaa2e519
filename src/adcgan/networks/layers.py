"""Layers that compute what torch's do, faster where the networks of this package need it.

Each replaces the layer of the same name; `tests/networks/test_layers.py` holds them to it. They
keep torch's names of parameters and buffers, so weights are interchangeable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F
from torch.nn.utils import parametrize

from adcgan.networks.products import product

Normalised = TypeVar("Normalised", nn.Conv2d, nn.Linear)

# Power iterations before training, as many as torch takes.
SETTLING_STEPS = 15
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
        out = product(_rows(under, like=whole), _rows(weight, like=whole))
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
        out = product(x.flatten(1), _rows(self.weight).t())
        kernel = self.kernel_size
        if _channels_last(self.weight):
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


def spectral_norm(layer: Normalised) -> Normalised:
    """Return `layer` with its weight divided by its largest singular value.

    As `torch.nn.utils.parametrizations.spectral_norm`: one power iteration for each look at the
    weight in training mode. Weights are read in the order they lie in memory, and the gradient
    takes two passes over them.
    """
    parametrize.register_parametrization(layer, "weight", SpectralNorm(layer.weight.detach()))
    return layer


class SpectralNorm(nn.Module):
    """The division of a weight (out, …) by its spectral norm, by power iteration.

    Parameters
    ----------
    weight : Tensor (out, in) or (out, in, k, k)
        The weight to begin with.
    """

    _u: Tensor
    _v: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        matrix = weight.flatten(1)
        self.register_buffer("_u", F.normalize(torch.randn(matrix.shape[0]), dim=0))
        self.register_buffer("_v", F.normalize(torch.randn(matrix.shape[1]), dim=0))
        for _ in range(SETTLING_STEPS):
            self._iterate(matrix, self._v)

    @torch.no_grad()
    def _iterate(self, matrix: Tensor, v: Tensor) -> None:
        """Take a step of the power iteration from `v`, which is changed in place with `_u`."""
        F.normalize(matrix @ v, dim=0, eps=1e-12, out=self._u)
        F.normalize(self._u @ matrix, dim=0, eps=1e-12, out=v)

    def forward(self, weight: Tensor) -> Tensor:
        """Return weight / σ(weight), in the half precision of autocast where that is on."""
        matrix = _rows(weight.detach())
        shape = weight.shape[1:]
        v = _rows(self._v.view(1, *shape), like=weight)[0]
        if self.training:
            v = v.clone()
            self._iterate(matrix, v)
            self._v.copy_(_plain(v, shape, like=weight))
        u = self._u.clone()
        sigma = u @ matrix @ v
        if not torch.is_grad_enabled():
            return weight / sigma
        return _normalise(weight, u, v, sigma)


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, weight: Tensor, u: Tensor, v: Tensor, sigma: Tensor) -> Tensor:
        ctx.save_for_backward(weight, u, v, sigma)
        kind = weight.device.type
        half = torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if half else weight.dtype
        return torch.div(weight, sigma, out=torch.empty_like(weight, dtype=dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        """With σ = uᵀWv and G the gradient of W/σ: G/σ − ⟨G, W⟩/σ² · uvᵀ."""
        weight, u, v, sigma = ctx.saved_tensors
        out = torch.empty_like(weight).copy_(gradient)
        rows = _rows(out)
        share = torch.dot(rows.reshape(-1), _rows(weight).reshape(-1)) / sigma**2
        out.div_(sigma)
        rows.addr_(u * -share, v)
        return out, None, None, None


_normalise: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] = _Normalise.apply


def _channels_last(tensor: Tensor) -> bool:
    """Say whether channels lie innermost in memory."""
    return tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)


def _rows(tensor: Tensor, like: Tensor | None = None) -> Tensor:
    """Return (n, …) as a matrix (n, rest), the rest in the order of memory (of `like`)."""
    if _channels_last(tensor if like is None else like):
        return tensor.permute(0, 2, 3, 1).flatten(1)
    return tensor.flatten(1)


def _plain(v: Tensor, shape: torch.Size, like: Tensor) -> Tensor:
    """Return a row of `_rows(like)`, of weights of `shape` each, in the order (in, k, k)."""
    if _channels_last(like):
        return v.view(*shape[1:], shape[0]).permute(2, 0, 1).flatten()
    return v
