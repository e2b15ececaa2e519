"""Matrix products with the fastest library in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula

# PyTorch multiplies float32 matrices on CPUs with MKL, which leaves half of the vector units idle
# on non-Intel processors. oneDNN, which PyTorch uses for convolutions, does not.
_is_available: Callable[[], bool] = torch.backends.mkldnn.is_available
_ONEDNN = _is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x · weightᵀ + bias (n, m) for matrices (n, k) and (m, k) and a vector (m,)."""
    if torch.compiler.is_compiling():
        return F.linear(x, weight, bias)
    return _product(x, weight, bias)


def computed_in(tensor: Tensor) -> torch.dtype:
    """Return the data type in which layers process `tensor`: half precision under autocast."""
    kind = tensor.device.type
    if tensor.dtype == torch.float32 and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return tensor.dtype


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x · weightᵀ + bias like `product`, for one data type and without autograd."""
    if not _is_for_onednn(x):
        return F.linear(x, weight, bias)
    out: Tensor = torch.ops.mkldnn._linear_pointwise(
        _dense(x), _dense(weight), bias, "none", [], ""
    )
    return out


def gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, needed: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of `product`'s three inputs, with None for those not needed."""
    on_weight = None
    on_x = _multiply_plain(gradient, weight) if needed[0] else None
    if needed[1] and weight.is_contiguous():
        on_weight = _multiply_plain(gradient.t(), x)
    elif needed[1]:
        on_weight = _multiply_plain(x.t(), gradient).t()
    return on_x, on_weight, gradient.sum(0) if needed[2] else None


def _multiply_plain(a: Tensor, b: Tensor) -> Tensor:
    """Return a · b in row-major order."""
    return multiply(a, b.t()) if _is_for_onednn(a) else a.mm(b)


def _is_for_onednn(x: Tensor) -> bool:
    return (
        _ONEDNN
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
    )


def _dense(matrix: Tensor) -> Tensor:
    """Return a contiguous matrix, as oneDNN is a hundred times slower on others."""
    n, k = matrix.shape
    by_columns = (n == 1 or matrix.stride(0) == 1) and (k == 1 or matrix.stride(1) == n)
    return matrix if by_columns else matrix.contiguous()


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x, weight = x.to(computed_in(x)), weight.to(computed_in(weight))
        ctx.save_for_backward(x, weight)
        return multiply(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        # For linear layers, where launching an operation is what takes time.
        for_x, for_weight, for_bias = ctx.needs_input_grad
        return (
            gradient.mm(weight) if for_x else None,
            gradient.t().mm(x) if for_weight else None,
            gradient.sum(0) if for_bias else None,
        )


if _ONEDNN:

    @register_flop_formula(torch.ops.mkldnn._linear_pointwise)
    def _count(x: torch.Size, weight: torch.Size, *_: Any, **__: Any) -> int:
        """Count the operations of `multiply`, for PyTorch's counter."""
        return 2 * x.numel() * weight[0]


_product: Callable[[Tensor, Tensor, Tensor | None], Tensor] = _Product.apply
