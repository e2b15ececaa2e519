"""Matrix products by the fastest library that PyTorch brings along."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula

# PyTorch multiplies float32 matrices on CPUs with MKL, which leaves half of the vector units of
# processors that are not Intel's idle. oneDNN, which computes its convolutions, does not.
_is_available: Callable[[], bool] = torch.backends.mkldnn.is_available
_ONEDNN = _is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def product(x: Tensor, weight: Tensor) -> Tensor:
    """Return x · weightᵀ, (n, m), of matrices (n, k) and (m, k)."""
    plain = (
        not _ONEDNN
        or x.device.type != "cpu"
        or not x.dtype == weight.dtype == torch.float32
        or torch.is_autocast_enabled("cpu")
        or torch.compiler.is_compiling()
    )
    if plain:
        return F.linear(x, weight)
    if not torch.is_grad_enabled():
        return _multiply(x, weight)
    return _multiplied(x, weight)


def _multiply(x: Tensor, weight: Tensor) -> Tensor:
    """Return x · weightᵀ by oneDNN, lying in memory row by row."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(
        _dense(x), _dense(weight), None, "none", [], ""
    )
    return out


def _dense(matrix: Tensor) -> Tensor:
    """Return the matrix without gaps in memory, with which oneDNN is a hundred times slower."""
    return matrix if matrix.t().is_contiguous() else matrix.contiguous()


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _multiply(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        on_x = _multiply(gradient, weight.t()) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return on_x, None
        if weight.is_contiguous():
            return on_x, _multiply(gradient.t(), x.t())
        return on_x, _multiply(x.t(), gradient.t()).t()


if _ONEDNN:

    @register_flop_formula(torch.ops.mkldnn._linear_pointwise)
    def _count(x: torch.Size, weight: torch.Size, *_: Any, **__: Any) -> int:
        """Count the operations of `_multiply` for PyTorch's counter."""
        return 2 * x.numel() * weight[0]


_multiplied: Callable[[Tensor, Tensor], Tensor] = _Product.apply
