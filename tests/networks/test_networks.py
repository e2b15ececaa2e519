from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.utils.parametrize import cached, is_parametrized

from adcgan.data.image_file import MAX_SIZE, MIN_SIZE
from adcgan.networks import (
    Critic,
    Encoder,
    Generator,
    LatentCritic,
    SelfSupervisedCritic,
    default_latent_dim,
)
from adcgan.networks.residual import WideBlock


def millions(module: torch.nn.Module) -> float:
    return sum(p.numel() for p in module.parameters()) / 1e6


def build(size: int, channels: int, width: float = 1.0) -> tuple[Encoder, Generator, Critic]:
    z = default_latent_dim(size)
    return (
        Encoder(channels, size, z, width=width),
        Generator(channels, size, z, width=width),
        Critic(channels, size, width=width),
    )


@pytest.mark.parametrize(
    ("size", "channels", "encoder", "generator", "trunk"),
    [(28, 1, 1.19, 3.72, 1.55), (32, 3, 3.59, 7.95, 27.8)],
)
def test_parameter_counts_at_width_1_are_the_published_layers(
    size: int, channels: int, encoder: float, generator: float, trunk: float
) -> None:
    e, g, d = build(size, channels)
    assert millions(e) == pytest.approx(encoder, rel=0.01)
    assert millions(g) == pytest.approx(generator, rel=0.01)
    assert millions(d.trunk) + millions(d.last_block) == pytest.approx(trunk, rel=0.01)


@pytest.mark.parametrize(
    ("size", "latent", "local"), [(28, 100, (128, 6)), (32, 100, (512, 6)), (64, 200, (512, 10))]
)
def test_maps_have_the_sizes_of_the_table(size: int, latent: int, local: tuple[int, int]) -> None:
    _, _, critic = build(size, 3)
    assert default_latent_dim(size) == latent
    features = critic.eval()(torch.rand(2, 3, size, size))
    assert features.local.shape == (2, local[0], local[1], local[1])
    assert features.global_.shape == (2, critic.global_features)
    assert features.logit.shape == (2,)
    assert critic.project(features.global_).shape == (2, local[0])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "size", [MIN_SIZE, 17, 24, 27, 28, 29, 31, 32, 33, 50, 64, 100, 129, MAX_SIZE]
)
def test_every_size_goes_through_all_networks(size: int, channels: int) -> None:
    encoder, generator, critic = build(size, channels, width=0.05)
    x = torch.rand(2, channels, size, size)
    z = encoder(x)
    made = generator(z)
    features = critic(made)
    assert made.shape == x.shape
    assert 0 <= float(made.detach().min()) <= float(made.detach().max()) <= 1
    assert features.local.shape[2] >= 3


def test_width_scales_every_hidden_layer() -> None:
    full = sum(millions(m) for m in build(32, 3, 1.0))
    quarter = sum(millions(m) for m in build(32, 3, 0.25))
    assert 12 < full / quarter < 16


def test_latents_are_normalised() -> None:
    encoder, _, _ = build(28, 1, width=0.25)
    z = encoder(torch.rand(16, 1, 28, 28))
    torch.testing.assert_close(z.mean(1), torch.zeros(16), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.var(1, unbiased=False), torch.ones(16), atol=1e-3, rtol=0)


def test_latent_critic_gives_one_logit_for_each_pair() -> None:
    assert LatentCritic(16, torch.randn(3, 8))(torch.randn(4, 16)).shape == (4,)


@pytest.mark.parametrize("size", [28, 32])
def test_convolutions_of_encoder_and_critic_are_spectrally_bounded(size: int) -> None:
    _, _, critic = build(size, 1, width=0.1)
    for _ in range(60):  # one power iteration a forward pass
        critic(torch.rand(2, 1, size, size))
    critic.eval()
    convolutions = [m for m in critic.modules() if isinstance(m, torch.nn.Conv2d)]
    assert convolutions
    for layer in convolutions:
        norm = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), ord=2)
        assert float(norm) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_two_batches_compared_are_judged_as_one_after_the_other(precision: torch.dtype) -> None:
    together = Critic(1, 28, width=0.1, dropout=0.0).to(memory_format=torch.channels_last)
    apart = copy.deepcopy(together)
    real, fake = torch.rand(2, 5, 1, 28, 28)
    outcomes = []
    for critic in (together, apart):
        one = critic is together
        with torch.autocast("cpu", precision, enabled=precision != torch.float32), cached():
            both = critic.compare(real, fake) if one else (critic(real), critic(fake).logit)
            parts = [*both[0], both[1]]
            loss = sum((i + 1) * part.float().mean() for i, part in enumerate(parts))
        loss.backward()
        gradients = [weight.grad for weight in critic.parameters() if weight.grad is not None]
        outcomes.append([*parts, *gradients, *critic.buffers()])
    tolerance = 1e-4 if precision == torch.float32 else 5e-2
    for found, expected in zip(*outcomes, strict=True):
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_the_skip_of_few_channels_is_the_strided_convolution_with_its_gradients() -> None:
    torch.manual_seed(0)
    block = WideBlock(6, 13, 2, 0.0).eval()
    assert block.skip is not None
    x = torch.randn(2, 6, 16, 16).to(memory_format=torch.channels_last).requires_grad_()
    block(x).sum().backward()
    again = x.detach().double().contiguous().requires_grad_()
    block.double()
    activated = block.first(again)
    strided = torch.nn.functional.conv2d(activated, block.skip.weight, stride=2)
    (block.body(activated) + strided).sum().backward()
    torch.testing.assert_close(x.grad, again.grad.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "sides"), [(32, [8, 16, 16]), (64, [8, 16, 32]), (128, [8, 16, 32]), (16, [4, 8, 8])]
)
def test_a_trunk_has_the_map_that_its_name_says(size: int, sides: list[int]) -> None:
    # The local map has half the side of the first one.
    for trunk, side in zip(("small", "medium", "full"), sides, strict=True):
        critic = SelfSupervisedCritic(3, size, width=0.05, trunk=trunk)
        assert critic.local_features(torch.rand(2, 3, size, size)).shape[2:] == (side, side), trunk


@pytest.mark.parametrize(
    ("trunk", "normalised"),
    [("paper", True), ("small", False), ("medium", False), ("full", False)],
)
def test_residual_trunks_have_no_spectral_norm_as_the_pages_say(
    trunk: str, normalised: bool
) -> None:
    critic = SelfSupervisedCritic(3, 32, width=0.125, trunk=trunk)
    layers = [m for m in critic.trunk.modules() if isinstance(m, torch.nn.Conv2d)]
    assert {is_parametrized(layer) for layer in layers} == {normalised}
    assert is_parametrized(critic.logit)
