from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from adcgan.errors import InputError
from adcgan.losses import (
    LATENT_KINDS,
    latent_critic_loss,
    latent_encoder_loss,
    latent_scoring_inputs,
    latent_training_inputs,
)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def test_critic_loss_is_the_cross_entropy_of_equation_3() -> None:
    real, fake = normal(0, 6), normal(1, 9)
    expected = -sum(math.log(sigmoid(v)) for v in real.tolist()) / 6
    expected -= sum(math.log(1 - sigmoid(v)) for v in fake.tolist()) / 9
    assert latent_critic_loss(real, fake).item() == pytest.approx(expected, rel=1e-12)


def test_losses_at_chance_are_log_2_for_each_term() -> None:
    chance = torch.zeros(5)
    assert latent_critic_loss(chance, chance).item() == pytest.approx(2 * math.log(2))
    assert latent_encoder_loss(chance).item() == pytest.approx(math.log(2))


def test_encoder_wants_what_the_critic_rejects_and_its_gradient_does_not_vanish() -> None:
    fake = torch.full((4,), -30.0, requires_grad=True)
    (for_encoder,) = torch.autograd.grad(latent_encoder_loss(fake), fake)
    (for_critic,) = torch.autograd.grad(latent_critic_loss(torch.zeros(4), fake), fake)
    torch.testing.assert_close(for_encoder, torch.full((4,), -0.25))
    assert (for_critic >= 0).all()


def test_encoder_loss_follows_its_definition() -> None:
    fake = normal(2, 6)
    expected = -sum(math.log(sigmoid(v)) for v in fake.tolist()) / 6
    assert latent_encoder_loss(fake).item() == pytest.approx(expected, rel=1e-12)


def test_gradients_agree_with_finite_differences() -> None:
    real, fake = normal(3, 4).requires_grad_(), normal(4, 4).requires_grad_()
    assert torch.autograd.gradcheck(latent_critic_loss, (real, fake))
    assert torch.autograd.gradcheck(latent_encoder_loss, (fake,))


def test_huge_logits_give_finite_losses() -> None:
    high, low = torch.full((3,), 1e4), torch.full((3,), -1e4)
    assert latent_critic_loss(high, low).item() == 0.0
    assert latent_critic_loss(low, high).item() == 2e4
    assert latent_encoder_loss(low).item() == 1e4


def test_pairs_in_training_put_the_noise_first() -> None:
    z, e_x = normal(5, 4, 3), normal(6, 4, 3)
    real, fake = latent_training_inputs("pair", z, e_x)
    for i in range(4):
        assert real[i].tolist() == [*z[i].tolist(), *z[i].tolist()]
        assert fake[i].tolist() == [*z[i].tolist(), *e_x[i].tolist()]


def test_single_in_training_judges_the_noise_against_the_encoded_image() -> None:
    z, e_x = normal(5, 4, 3), normal(6, 4, 3)
    real, fake = latent_training_inputs("single", z, e_x)
    assert torch.equal(real, z)
    assert torch.equal(fake, e_x)


def test_gradient_reaches_the_encoder_through_the_training_inputs() -> None:
    for kind in LATENT_KINDS:
        e_x = normal(6, 4, 3).requires_grad_()
        _, fake = latent_training_inputs(kind, normal(5, 4, 3), e_x)
        (gradient,) = torch.autograd.grad(fake.sum(), e_x)
        assert torch.equal(gradient, torch.ones_like(e_x))


def test_pairs_in_scoring_meet_every_image_with_every_draw() -> None:
    z, e_g_z, e_x = normal(7, 5, 3), normal(8, 5, 3), normal(9, 2, 3)
    generated, image = latent_scoring_inputs("pair", z, e_g_z, e_x)
    assert generated.shape == (5, 6)
    grid = image.reshape(2, 5, 6)
    for k in range(5):
        assert generated[k].tolist() == [*e_g_z[k].tolist(), *z[k].tolist()]
        for b in range(2):
            assert grid[b, k].tolist() == [*e_x[b].tolist(), *e_g_z[k].tolist()]


def test_single_in_scoring_judges_the_encodings_so_the_image_counts() -> None:
    z, e_g_z, e_x = normal(7, 5, 3), normal(8, 5, 3), normal(9, 2, 3)
    generated, image = latent_scoring_inputs("single", z, e_g_z, e_x)
    assert torch.equal(generated, e_g_z)
    grid = image.reshape(2, 5, 3)
    assert all(torch.equal(grid[b, k], e_x[b]) for b in range(2) for k in range(5))


def test_unknown_kinds_are_refused() -> None:
    z = normal(5, 4, 3)
    with pytest.raises(InputError, match=r"'kind' .* 'pair', 'single'. Got 'none'"):
        latent_training_inputs("none", z, z)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"'kind' .* 'pair', 'single'. Got 'none'"):
        latent_scoring_inputs("none", z, z, z)  # type: ignore[arg-type]
