from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from adcgan.losses import (
    logistic_critic_loss,
    logistic_generator_loss,
    relativistic_critic_loss,
    relativistic_generator_loss,
    wasserstein_gradient_penalty,
)


def logits(seed: int, n: int = 7, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(n, generator=torch.Generator().manual_seed(seed)).double()


def test_relativistic_losses_follow_equation_6_pair_by_pair() -> None:
    real, fake = logits(0), logits(1)
    critic = generator = 0.0
    for r, f in zip(real.tolist(), fake.tolist(), strict=True):
        critic -= math.log(1 / (1 + math.exp(-(r - f)))) / len(real)
        generator -= math.log(1 / (1 + math.exp(-(f - r)))) / len(real)
    assert relativistic_critic_loss(real, fake).item() == pytest.approx(critic, rel=1e-12)
    assert relativistic_generator_loss(real, fake).item() == pytest.approx(generator, rel=1e-12)


def test_relativistic_losses_are_log_2_at_equal_logits() -> None:
    same = logits(0)
    assert relativistic_critic_loss(same, same).item() == pytest.approx(math.log(2))
    assert relativistic_generator_loss(same, same).item() == pytest.approx(math.log(2))


def test_relativistic_losses_see_only_the_difference_of_a_pair() -> None:
    real, fake, shift = logits(0), logits(1), logits(2)
    moved = relativistic_critic_loss(real + shift, fake + shift)
    torch.testing.assert_close(moved, relativistic_critic_loss(real, fake))


def test_relativistic_losses_keep_the_pairing_under_one_permutation_of_both() -> None:
    real, fake = logits(0), logits(1)
    order = torch.tensor([3, 0, 6, 2, 5, 1, 4])
    loss = relativistic_critic_loss(real, fake)
    torch.testing.assert_close(relativistic_critic_loss(real[order], fake[order]), loss)
    assert relativistic_critic_loss(real[order], fake).item() != pytest.approx(loss.item())


def test_relativistic_losses_pull_the_critic_and_the_generator_apart() -> None:
    real, fake = logits(0).requires_grad_(), logits(1).requires_grad_()
    for_critic = torch.autograd.grad(relativistic_critic_loss(real, fake), (real, fake))
    for_generator = torch.autograd.grad(relativistic_generator_loss(real, fake), (real, fake))
    assert (for_critic[0] < 0).all()
    assert (for_critic[1] > 0).all()
    assert (for_generator[1] < 0).all()


def test_relativistic_gradient_agrees_with_finite_differences() -> None:
    real, fake = logits(0).requires_grad_(), logits(1).requires_grad_()
    assert torch.autograd.gradcheck(relativistic_critic_loss, (real, fake))


@pytest.mark.parametrize(("real", "fake", "loss"), [(1e4, -1e4, 0.0), (-1e4, 1e4, 2e4)])
def test_relativistic_loss_does_not_overflow(real: float, fake: float, loss: float) -> None:
    inputs = (torch.full((3,), real, requires_grad=True), torch.full((3,), fake))
    result = relativistic_critic_loss(*inputs)
    result.backward()  # type: ignore[no-untyped-call]
    assert result.item() == loss
    assert inputs[0].grad is not None
    assert inputs[0].grad.isfinite().all()


def test_half_precision_logits_are_averaged_in_float32() -> None:
    real, fake = logits(0, n=1000).bfloat16(), logits(1, n=1000).bfloat16()
    loss = relativistic_critic_loss(real, fake)
    assert loss.dtype == torch.float32
    expected = relativistic_critic_loss(real.double(), fake.double())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def images(seed: int) -> Tensor:
    return torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(seed)).double()


def test_logistic_losses_are_binary_cross_entropies() -> None:
    real, fake = torch.randn(5, 1), torch.randn(5, 1)
    ones, zeros = torch.ones(5, 1), torch.zeros(5, 1)
    entropy = torch.nn.functional.binary_cross_entropy_with_logits
    torch.testing.assert_close(
        logistic_critic_loss(real, fake), entropy(real, ones) + entropy(fake, zeros)
    )
    torch.testing.assert_close(logistic_generator_loss(fake), entropy(fake, ones))


def test_logistic_losses_where_the_critic_knows_nothing() -> None:
    assert logistic_critic_loss(torch.zeros(3), torch.zeros(3)).item() == pytest.approx(
        2 * math.log(2)
    )
    assert logistic_generator_loss(torch.zeros(3)).item() == pytest.approx(math.log(2))


def test_logistic_losses_do_not_overflow() -> None:
    large = torch.full((2,), 1e4)
    assert logistic_critic_loss(large, -large).item() == 0
    assert logistic_critic_loss(-large, large).item() == 2e4
    assert logistic_generator_loss(-large).item() == 1e4


def test_gradient_penalty_follows_its_definition_at_the_mixed_points() -> None:
    real, fake, mix = images(0), images(1), torch.tensor([0.0, 0.25, 0.5, 1.0]).double()
    expected = 0.0
    for x_r, x_f, t in zip(real, fake, mix.tolist(), strict=True):
        between = t * x_r + (1 - t) * x_f
        # The critic below is C(x) = Σx³, whose gradient is 3x².
        slope = [3 * value**2 for value in between.flatten().tolist()]
        expected += (math.sqrt(sum(s**2 for s in slope)) - 1) ** 2 / len(real)
    penalty = wasserstein_gradient_penalty(lambda x: x.pow(3).sum((1, 2, 3)), real, fake, mix)
    assert penalty.item() == pytest.approx(expected, rel=1e-12)


def test_gradient_penalty_vanishes_for_a_critic_of_slope_one() -> None:
    weight = images(2)[0]
    weight = weight / weight.norm()
    penalty = wasserstein_gradient_penalty(
        lambda x: (x * weight).sum((1, 2, 3)), images(0), images(1), torch.rand(4).double()
    )
    assert penalty.item() == pytest.approx(0.0, abs=1e-24)


def test_gradient_penalty_trains_the_critic_and_not_the_images() -> None:
    real, fake = images(0).requires_grad_(), images(1).requires_grad_()
    weight = images(2)[0].requires_grad_()
    mix = torch.full((4,), 0.5).double()

    def penalty(weight: Tensor) -> Tensor:
        return wasserstein_gradient_penalty(
            lambda x: (x.square() * weight).sum((1, 2, 3)), real, fake, mix
        )

    assert torch.autograd.gradcheck(penalty, (weight,))
    penalty(weight).backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert real.grad is None
    assert fake.grad is None


def test_gradient_penalty_of_a_flat_critic_is_one_with_a_finite_gradient() -> None:
    weight = torch.zeros(2, 3, 3, dtype=torch.float64, requires_grad=True)
    penalty = wasserstein_gradient_penalty(
        lambda x: (x * weight).sum((1, 2, 3)), images(0), images(1), torch.rand(4).double()
    )
    penalty.backward()  # type: ignore[no-untyped-call]
    assert penalty.item() == 1.0
    assert weight.grad is not None
    assert weight.grad.isfinite().all()
