from __future__ import annotations

import math

import pytest
import torch

from adcgan.losses import view_loss


def test_the_loss_is_that_of_the_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 5, 3, generator=generator).double()
    rows = [*first, *second]
    expected = []
    for i, row in enumerate(rows):
        similar = [float(torch.cosine_similarity(row, other, 0)) / 0.2 for other in rows]
        others = [math.exp(s) for j, s in enumerate(similar) if j != i]
        expected.append(math.log(sum(others)) - similar[(i + 5) % 10])
    assert float(view_loss(first, second, 0.2)) == pytest.approx(sum(expected) / 10)


def test_views_may_change_places_and_length() -> None:
    first, second = torch.rand(2, 4, 6)
    loss = view_loss(first, second, 0.5)
    assert torch.allclose(view_loss(second, first, 0.5), loss)
    assert torch.allclose(view_loss(3 * first, second / 2, 0.5), loss, atol=1e-6)


def test_its_limits() -> None:
    alike = torch.ones(4, 6)
    assert float(view_loss(alike, alike, 0.2)) == pytest.approx(math.log(7))
    apart = torch.eye(4)
    assert float(view_loss(apart, apart, 0.01)) == pytest.approx(0, abs=1e-6)
    # One image alone has nothing to be mistaken for.
    assert float(view_loss(alike[:1], -alike[:1], 0.2)) == 0


def test_gradients_are_finite_and_bring_views_together() -> None:
    first, second = torch.rand(4, 6, requires_grad=True), torch.rand(4, 6)
    before = view_loss(first, second, 0.2)
    before.backward()
    assert first.grad is not None
    assert torch.isfinite(first.grad).all()
    assert view_loss(first.detach() - 0.01 * first.grad, second, 0.2) < before
