"""BatchNorm with the activation and dropout after it, as a single autograd function.

In training, torch's layers need a dozen small operations for them, forward and backward, and small
operations take as long as their launch. Here only the few that compute something remain.
`tests/networks/test_activated.py` compares them with torch's layers. The only difference is that
batches are not counted, as averages with a momentum do not use their number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from adcgan.networks import layers
from adcgan.networks.layers import Masks, PReLU


def normed(x: Tensor, norm: nn.Module) -> Tensor:
    """Return ``norm(x)`` (B, C, H, W)."""
    out: Tensor = _batch_norm(x, norm)[0] if _averages(norm) else norm(x)
    return out


def norm_prelu(x: Tensor, norm: nn.Module, prelu: nn.Module, slope: float | None = None) -> Tensor:
    """Return ``prelu(norm(x))`` (B, C, H, W), with PReLU's `slope` if it was read before."""
    if _averages(norm) and isinstance(prelu, PReLU) and torch.is_grad_enabled():
        return _norm_prelu(x, norm.weight, norm.bias, prelu.weight, norm, slope)
    out: Tensor = prelu(norm(x))
    return out


def norm_leaky_relu(
    x: Tensor,
    norm: nn.Module,
    leaky: nn.Module,
    dropout: nn.Module,
    masks: Masks | None = None,
    batches: int = 1,
) -> Tensor:
    """Return ``dropout(leaky(norm(x)))`` (B, C, H, W).

    Parameters
    ----------
    x : Tensor (B, C, H, W)
    norm, leaky, dropout : Module
    masks : Masks or None
        Source of the dropout mask, if given.
    batches : int
        Number of equal batches in `x`, each normalised with its own statistics.
    """
    if _averages(norm) and isinstance(leaky, nn.LeakyReLU):
        mask = None if masks is None else masks.next(x)
        slope = leaky.negative_slope
        out = _norm_leaky_relu(x, norm.weight, norm.bias, mask, norm, slope, batches)
    else:
        mask, out = None, leaky(torch.cat([norm(part) for part in x.chunk(batches)]))
    thin: Tensor = out if mask is not None else dropout(out)
    return thin


def _averages(norm: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
    """Return whether `norm` is in training mode and keeps moving averages of its statistics."""
    return isinstance(norm, nn.BatchNorm2d) and norm.training and norm.momentum is not None


def _batch_norm(x: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Normalise `x` with its own statistics; also return what the backward pass needs."""
    out: tuple[Tensor, Tensor, Tensor, Tensor] = torch.ops.aten._batch_norm_with_update(
        x, norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.momentum, norm.eps
    )
    return out


def _batch_norm_backward(
    gradient: Tensor, ctx: Any, x: Tensor, weight: Tensor, *statistics: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of `x`, weight and bias."""
    mean, deviation, reserve = statistics
    out: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.batch_norm_backward(
        *(gradient, x, weight, None, None, mean, deviation, True, ctx.eps),
        *(ctx.needs_input_grad[:3], reserve),
    )
    return out


class _NormLeakyReLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,  # noqa: ARG004
        mask: Tensor | None,
        norm: nn.BatchNorm2d,
        slope: float,
        batches: int,
    ) -> Tensor:
        ctx.eps, ctx.slope, ctx.masked = norm.eps, slope, mask is not None
        parts = x.chunk(batches) if batches > 1 else (x,)
        outs, *statistics = zip(*(_batch_norm(part, norm) for part in parts), strict=True)
        out = torch.cat(outs) if batches > 1 else outs[0]
        if mask is None:
            kept = result = F.leaky_relu_(out, slope)
        else:
            # LeakyReLU and dropout each multiply by a number, so together by the product.
            kept = torch.ops.aten.leaky_relu_backward(mask, out, slope, False)
            result = out * kept
        ctx.save_for_backward(weight, kept, *parts, *(s for kind in statistics for s in kind))
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weight, kept, *saved = ctx.saved_tensors
        if ctx.masked:
            gradient = gradient * kept
        else:
            # The slope is not negative, so the output has the sign of the input.
            gradient = torch.ops.aten.leaky_relu_backward(gradient, kept, ctx.slope, True)
        batches = len(saved) // 4
        parts = gradient.chunk(batches) if batches > 1 else (gradient,)
        found = [
            _batch_norm_backward(part, ctx, saved[i], weight, *saved[i + batches :: batches])
            for i, part in enumerate(parts)
        ]
        on_x, *on_affine = found[0]
        for more in found[1:]:
            on_affine = list(torch._foreach_add(on_affine, more[1:]))
        if batches > 1:
            on_x = torch.cat([part[0] for part in found])
        return on_x, *on_affine, None, None, None, None


class _NormPReLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,  # noqa: ARG004
        slope: Tensor,
        norm: nn.BatchNorm2d,
        number: float | None,
    ) -> Tensor:
        out, *statistics = _batch_norm(x, norm)
        ctx.eps = norm.eps
        ctx.save_for_backward(x, weight, slope, out, *statistics)
        ctx.number = slope.item() if number is None and layers.on_cpu(x) else number
        if ctx.number is not None:
            return F.leaky_relu(out, ctx.number)
        return torch.prelu(out, slope.to(out.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, slope, out, *statistics = ctx.saved_tensors
        on_out, on_slope = layers.prelu_backward(
            gradient, out, slope, ctx.number, needed=ctx.needs_input_grad[3]
        )
        return *_batch_norm_backward(on_out, ctx, x, weight, *statistics), on_slope, None, None


_norm_leaky_relu: Callable[..., Tensor] = _NormLeakyReLU.apply
_norm_prelu: Callable[..., Tensor] = _NormPReLU.apply
