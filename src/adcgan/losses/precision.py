"""The precision that losses are computed in."""

from __future__ import annotations

from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """Widen half precision to float32 and leave float32 and float64 as they are.

    Under mixed precision a network may hand over bfloat16, which has 8 bits of mantissa: enough
    for its own layers, too few for sums over a batch and for differences of large logits.
    """
    return tensor.float() if tensor.dtype.itemsize < 4 else tensor
