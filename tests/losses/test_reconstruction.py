from __future__ import annotations

import pytest
import torch

from adcgan.losses import reconstruction_loss


def test_loss_is_the_mean_of_squared_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    x, x_hat = torch.rand(2, 3, 2, 4, 4, generator=generator).double()
    pairs = list(zip(x.flatten().tolist(), x_hat.flatten().tolist(), strict=True))
    expected = sum((a - b) ** 2 for a, b in pairs) / len(pairs)
    assert reconstruction_loss(x, x_hat).item() == pytest.approx(expected, rel=1e-12)
    assert reconstruction_loss(x, x).item() == 0.0


def test_gradient_agrees_with_finite_differences() -> None:
    x, x_hat = torch.rand(2, 2, 1, 2, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda y: reconstruction_loss(x, y), x_hat.requires_grad_())


def test_half_precision_reconstructions_are_compared_in_float32() -> None:
    x = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    loss = reconstruction_loss(x, x.bfloat16())
    assert loss.dtype == torch.float32
    expected = (x.double() - x.bfloat16().double()).square().mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
