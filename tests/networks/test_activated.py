"""What is computed as one function of autograd is what torch's layers compute one by one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from adcgan.networks import layers
from adcgan.networks.activated import norm_leaky_relu, norm_prelu, normed

FORMATS = [torch.contiguous_format, torch.channels_last]
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}

Layers = list[nn.Module]
Function = Callable[..., Tensor]


def masked(x: Tensor, norm: nn.Module, leaky: nn.Module, dropout: layers.Dropout) -> Tensor:
    if not dropout.draws_masks(x):
        return norm_leaky_relu(x, norm, leaky, dropout)
    masks = layers.Masks(dropout.p, [x.numel()], x.dtype)
    return norm_leaky_relu(x, norm, leaky, dropout, masks)


def case(kind: str) -> tuple[Layers, Function]:
    """Return layers, and the function that is to compute what they do one after another."""
    norm = nn.BatchNorm2d(5)
    nn.init.uniform_(norm.weight, 0.5, 2)
    nn.init.uniform_(norm.bias, -1, 1)
    made: dict[str, tuple[Layers, Function]] = {
        "norm": ([norm], normed),
        "prelu": ([norm, layers.PReLU(init=-0.3)], norm_prelu),
        "leaky": ([norm, nn.LeakyReLU(0.2), layers.Dropout(0)], norm_leaky_relu),
        "dropout": ([norm, nn.LeakyReLU(0.2), layers.Dropout(0.4)], masked),
    }
    return made[kind]


def results(function: Callable[[Tensor], Tensor], modules: nn.Module, x: Tensor) -> list[Tensor]:
    """Return output, all gradients and the running statistics of one pass in training."""
    leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
    torch.manual_seed(1)
    out = function(leaf)
    weighing = torch.linspace(-1, 1, out.numel()).view(out.shape).to(out.dtype)
    gradients = torch.autograd.grad((out * weighing).sum(), [leaf, *modules.parameters()])
    statistics = [value for value in modules.buffers() if value.is_floating_point()]
    return [out, *gradients, *statistics]


@pytest.mark.parametrize("on_cpu", [True, False], ids=["as on CPUs", "as elsewhere"])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("kind", ["norm", "prelu", "leaky", "dropout"])
def test_a_function_is_its_layers_one_by_one(
    kind: str,
    memory_format: torch.memory_format,
    dtype: torch.dtype,
    on_cpu: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(layers, "on_cpu", lambda _: on_cpu)
    torch.manual_seed(0)
    x = torch.randn(4, 5, 6, 7).to(dtype).to(memory_format=memory_format)
    found, expected = [], []
    for target, one_by_one in ((found, False), (expected, True)):
        torch.manual_seed(2)
        modules, function = case(kind)
        chain = nn.Sequential(*modules)
        if kind == "prelu" and one_by_one:
            modules[1].to(dtype)
        together = lambda x, f=function, m=modules: f(x, *m)  # noqa: E731
        target += results(chain if one_by_one else together, chain, x)
    for mine, reference in zip(found, expected, strict=True):
        tolerance = TOLERANCE[dtype]
        torch.testing.assert_close(
            mine, reference, rtol=tolerance, atol=tolerance, check_dtype=False
        )
    assert found[0].stride() == expected[0].stride()
    assert found[0].dtype == dtype


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("training", [True, False])
def test_batches_that_pass_together_are_normalised_apart(
    training: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 5, 6, 7).to(dtype)
    x[4:] += 3
    found, expected = [], []
    for target, together in ((found, True), (expected, False)):
        torch.manual_seed(2)
        modules, _ = case("leaky")
        chain = nn.Sequential(*modules).train(training)
        if together:
            target += results(lambda x, m=modules: norm_leaky_relu(x, *m, batches=2), chain, x)
        else:
            target += results(lambda x, c=chain: torch.cat([c(x[:4]), c(x[4:])]), chain, x)
    for mine, reference in zip(found, expected, strict=True):
        tolerance = TOLERANCE[dtype]
        torch.testing.assert_close(mine, reference, rtol=tolerance, atol=tolerance)


def test_in_evaluation_the_layers_themselves_are_asked() -> None:
    modules, function = case("dropout")
    chain = nn.Sequential(*modules).eval()
    x = torch.randn(4, 5, 6, 7)
    assert torch.equal(function(x, *modules), chain(x))


def test_batches_are_counted_where_the_average_is_over_all_of_them() -> None:
    norm = nn.BatchNorm2d(5, momentum=None)
    xs = torch.randn(3, 4, 5, 6, 6)
    for x in xs:
        normed(x, norm)
    torch.testing.assert_close(norm.running_mean, xs.mean((1, 3, 4)).mean(0))
