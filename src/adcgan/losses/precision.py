"""The precision in which losses are computed."""

from __future__ import annotations

from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """Widen half precision to float32; return float32 and float64 unchanged.

    Under mixed precision a network may return bfloat16, which has 8 bits of mantissa: enough for
    its own layers, but too few for sums over a batch and for differences of large logits.
    """
    return tensor.float() if tensor.dtype.itemsize < 4 else tensor
