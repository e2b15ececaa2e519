from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from adcgan.networks import Encoder, layers, spectral

FORMATS = [torch.contiguous_format, torch.channels_last]


def outcome(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """Return output, gradient of the input and gradients of the weights for one pass."""
    x = x.clone().requires_grad_()
    out = layer(x)
    torch.manual_seed(1)
    weighing = torch.randn(out.shape)
    parameters = list(layer.parameters())
    return [out, *torch.autograd.grad((out * weighing).sum(), [x, *parameters])]


def assert_same(ours: nn.Module, theirs: nn.Module, x: Tensor) -> None:
    for mine, reference in zip(outcome(ours, x), outcome(theirs, x), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "side"),
    [
        pytest.param(3, 1, 1, 1, id="all but the centre over padding"),
        pytest.param(3, 2, 0, 4, id="window smaller than the map"),
        pytest.param(6, 1, 0, 6, id="window of the whole map"),
        pytest.param(5, 3, 1, 4, id="window partly over padding"),
        pytest.param(3, 2, 1, 8, id="many windows"),
    ],
)
def test_a_convolution_is_torchs(
    kernel: int,
    stride: int,
    padding: int,
    side: int,
    bias: bool,
    memory_format: torch.memory_format,
) -> None:
    torch.manual_seed(0)
    ours = layers.Conv2d(5, 7, kernel, stride, padding, bias=bias).to(memory_format=memory_format)
    theirs = nn.Conv2d(5, 7, kernel, stride, padding, bias=bias)
    theirs.load_state_dict(ours.state_dict())
    assert_same(ours, theirs, torch.randn(4, 5, side, side).to(memory_format=memory_format))


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize(
    ("ours", "theirs", "shape"),
    [
        pytest.param(layers.Conv2d(5, 7, 3), nn.Conv2d(5, 7, 3), (4, 5, 3, 3), id="whole map"),
        pytest.param(
            layers.Conv2d(5, 7, 3, padding=1),
            nn.Conv2d(5, 7, 3, padding=1),
            (4, 5, 1, 1),
            id="centre",
        ),
        pytest.param(
            layers.ConvTranspose2d(5, 7, 4), nn.ConvTranspose2d(5, 7, 4), (4, 5, 1, 1), id="spread"
        ),
        pytest.param(layers.Linear(5, 7), nn.Linear(5, 7), (4, 5), id="linear"),
    ],
)
def test_in_half_precision_products_are_torchs_too(
    ours: nn.Module, theirs: nn.Module, shape: tuple[int, ...], memory_format: torch.memory_format
) -> None:
    torch.manual_seed(0)
    theirs.load_state_dict(ours.state_dict())
    ours = copy.deepcopy(ours).to(memory_format=memory_format)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = outcome(ours, x := torch.randn(shape)), outcome(theirs, x)
    for mine, reference in zip(found, expected, strict=True):
        assert mine.dtype == reference.dtype
        torch.testing.assert_close(mine, reference, rtol=3e-2, atol=3e-2)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "side"), [(4, 2, 0, 1), (4, 2, 1, 1), (4, 2, 1, 3)]
)
def test_a_transposed_convolution_is_torchs(
    kernel: int,
    stride: int,
    padding: int,
    side: int,
    bias: bool,
    memory_format: torch.memory_format,
) -> None:
    torch.manual_seed(0)
    ours = layers.ConvTranspose2d(5, 7, kernel, stride, padding, bias=bias)
    theirs = copy.deepcopy(ours)
    theirs.__class__ = nn.ConvTranspose2d
    ours = ours.to(memory_format=memory_format)
    assert_same(ours, theirs, torch.randn(4, 5, side, side))


@pytest.mark.parametrize("slope", [0.25, 0.0, -0.5, 1.5])
def test_prelu_is_torchs(slope: float) -> None:
    torch.manual_seed(0)
    ours, theirs = layers.PReLU(init=slope), nn.PReLU(init=slope)
    assert_same(ours, theirs, torch.randn(4, 5, 6, 6).to(memory_format=torch.channels_last))


def test_prelu_without_a_trained_slope_gives_it_no_gradient() -> None:
    ours = layers.PReLU()
    x = torch.randn(3, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(ours(x).sum(), [x])
    assert torch.equal(gradient, torch.where(x > 0, 1.0, 0.25))


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("p", [0.2, 0.5, 0.9])
def test_dropout_drops_at_its_rate_and_keeps_the_mean(
    p: float, memory_format: torch.memory_format
) -> None:
    torch.manual_seed(0)
    x = torch.ones(32, 16, 31, 31).to(memory_format=memory_format)
    out = layers.Dropout(p)(x)
    n = x.numel()
    dropped = float((out == 0).float().mean())
    assert abs(dropped - p) < 5 * (p * (1 - p) / n) ** 0.5 + 2**-16
    kept = out[out != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - p)), rtol=2e-4, atol=0)
    assert out.stride() == x.stride()


def test_dropout_treats_every_place_alike_and_each_entry_alone() -> None:
    torch.manual_seed(0)
    kept = layers.Dropout(0.5)(torch.ones(20_000, 12)) > 0
    rates = kept.float().mean(0)
    assert (rates - 0.5).abs().max() < 5 * 0.5 / 20_000**0.5
    correlations = torch.corrcoef(kept.float().T) - torch.eye(12)
    assert correlations.abs().max() < 5 / 20_000**0.5


def test_dropout_is_repeated_by_its_seed_and_absent_in_evaluation() -> None:
    x, dropout = torch.randn(4, 3, 8, 8), layers.Dropout(0.3)
    torch.manual_seed(3)
    first = dropout(x)
    torch.manual_seed(3)
    assert torch.equal(dropout(x), first)
    assert torch.equal(dropout.eval()(x), x)


def test_masks_drawn_at_once_are_those_of_the_layers_one_by_one() -> None:
    network = Encoder(1, 28, 10, width=0.1).train()
    network = network.to(memory_format=torch.channels_last)
    twin, x = copy.deepcopy(network), torch.rand(3, 1, 28, 28)
    torch.manual_seed(0)
    at_once = network(x)
    torch.manual_seed(0)
    one_by_one = x
    for block in twin.layers:
        one_by_one = block(one_by_one)
    torch.testing.assert_close(at_once, network.norm(one_by_one.flatten(1)))


def convolution() -> nn.Conv2d:
    return nn.Conv2d(5, 7, 3, padding=1)


def dense() -> nn.Linear:
    return nn.Linear(5, 7)


@pytest.mark.parametrize(
    ("make", "shape", "memory_format"),
    [
        (convolution, (4, 5, 6, 6), torch.contiguous_format),
        (convolution, (4, 5, 6, 6), torch.channels_last),
        (dense, (4, 5), torch.contiguous_format),
        (lambda: layers.Linear(5, 7), (4, 5), torch.contiguous_format),
    ],
)
def test_spectral_norm_is_torchs_over_several_steps(
    make: Callable[[], nn.Conv2d | nn.Linear],
    shape: tuple[int, ...],
    memory_format: torch.memory_format,
) -> None:
    torch.manual_seed(0)
    theirs = parametrizations.spectral_norm(make())
    torch.manual_seed(9)
    ours = spectral.spectral_norm(make())
    ours.load_state_dict(theirs.state_dict())  # the same names
    ours = ours.to(memory_format=memory_format)
    x = torch.randn(shape)
    for _ in range(3):
        assert_same(ours, theirs, x)
    ours.eval(), theirs.eval()
    assert_same(ours, theirs, x)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_spectral_norm_gives_a_largest_singular_value_of_one() -> None:
    torch.manual_seed(0)
    layer = spectral.spectral_norm(nn.Linear(30, 20))
    for _ in range(200):
        weight = layer.weight.detach()
    assert float(torch.linalg.matrix_norm(weight, 2)) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("memory_format", FORMATS)
def test_spectral_norms_of_a_network_together_are_those_of_its_layers(
    memory_format: torch.memory_format,
) -> None:
    def network() -> nn.Module:
        torch.manual_seed(0)
        conv, last = (spectral.spectral_norm(make()) for make in (convolution, dense))
        made = nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(7, 5), last)
        return made.to(memory_format=memory_format)

    alone, together = network(), network()
    norms = spectral.SpectralNorms(together)
    x = torch.randn(4, 5, 6, 6)
    for _ in range(3):
        expected = outcome(alone, x)
        with norms.shared():
            found = outcome(together, x)
        for mine, reference in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-5)
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(together.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_looks_at_a_weight_in_a_block_share_one_power_iteration() -> None:
    torch.manual_seed(0)
    layer = spectral.spectral_norm(nn.Linear(30, 20))
    with spectral.SpectralNorms(layer).shared():
        first, second = layer.weight, layer.weight
    assert torch.equal(first, second)
    assert not torch.equal(first, layer.weight)
