"""No two linear layers meet: between them every reference has something that is not linear."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from torch import nn

from adcgan import DETECTORS
from adcgan.detectors.baselines.egbad import SLOPE, Encoder

LINEAR = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
# They leave a composition of linear maps linear, at least in scoring.
NEUTRAL = (nn.BatchNorm1d, nn.BatchNorm2d, nn.Dropout, nn.Flatten, nn.Unflatten, nn.Identity)
NOT_LINEAR = (nn.LeakyReLU, nn.ReLU, nn.PReLU, nn.LayerNorm, nn.Tanh, nn.AdaptiveAvgPool2d)


def leaves(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers of a chain in the order in which they are applied."""
    for child_name, child in module.named_children():
        if "parametrizations" in child_name:
            continue
        inside = f"{name}.{child_name}" if name else child_name
        if isinstance(child, nn.Sequential):
            yield from leaves(inside, child)
        else:
            yield inside, child


def meetings(model: nn.Module) -> list[tuple[str, str]]:
    """Return the linear layers of chains that follow on one another with nothing in between."""
    found = []
    chains = {name: m for name, m in model.named_modules() if isinstance(m, nn.Sequential)}
    for name, chain in chains.items():
        last = None
        for place, layer in leaves(name, chain):
            if isinstance(layer, LINEAR):
                if last is not None:
                    found.append((last, place))
                last = place
            elif not isinstance(layer, NEUTRAL) and "Dropout" not in type(layer).__name__:
                last = None
    return found


@pytest.mark.parametrize(
    "name", [name for name, kind in DETECTORS.items() if "width" in kind.rules()]
)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 64, 64)])
def test_no_two_linear_layers_meet(name: str, shape: tuple[int, int, int]) -> None:
    model = DETECTORS[name](width=0.05).make_model(shape)
    assert any(isinstance(module, nn.Sequential) for module in model.modules())
    assert meetings(model) == []


def test_a_missing_activation_is_found() -> None:
    broken = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 3)))
    assert meetings(nn.ModuleDict({"net": broken})) == [("net.0", "net.1.1")]
    whole = Encoder(1, 28, 10, 0.1)
    missing = nn.Sequential(*[layer for i, layer in enumerate(whole) if i != 1])
    assert isinstance(whole[1], nn.LeakyReLU)
    assert whole[1].negative_slope == SLOPE
    assert meetings(nn.ModuleDict({"net": whole})) == []
    assert meetings(nn.ModuleDict({"net": missing})) == [("net.0", "net.1.0")]
