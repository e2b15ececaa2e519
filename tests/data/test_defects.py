"""Synthetic defects: where they are, what they change, and that they are seeded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from adcgan import InputError
from adcgan.data.defects import KINDS, add_defects


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def textures(n: int = 8, channels: int = 1, height: int = 64, width: int = 80) -> Tensor:
    """Return images with structure of their own, so that a piece of another one shows."""
    ramp = torch.linspace(0.2, 0.8, width).expand(n, channels, height, width)
    grain = torch.randn(n, channels, height, width, generator=rng(7)) * 0.1
    stripes = torch.sin(torch.arange(height) * torch.arange(1, n + 1)[:, None] / 3) * 0.1
    return (ramp + grain + stripes[:, None, :, None]).clamp(0, 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_defect_changes_its_mask_and_next_to_nothing_else(kind: str, channels: int) -> None:
    x = textures(16, channels)
    damaged, mask = add_defects(x, rng(), kinds=[kind])
    assert damaged.shape == x.shape
    assert mask.shape == (16, 1, 64, 80)
    assert damaged.min() >= 0
    assert damaged.max() <= 1
    assert mask.min() >= 0
    assert mask.max() <= 1
    difference = (damaged - x).abs().amax(1, keepdim=True)
    inside, outside = difference[mask > 0.9], difference[mask == 0]
    # What is outside is the soft edge of a shape, at most.
    assert (outside > 0.1).float().mean() < 0.01
    assert inside.mean() > 20 * outside.mean()
    assert (mask.amax((1, 2, 3)) > 0.5).float().mean() > 0.4


def test_the_same_generator_state_gives_the_same_defects() -> None:
    first, again, other = (add_defects(textures(), rng(seed)) for seed in (3, 3, 4))
    for one, two in zip(first, again, strict=True):
        assert torch.equal(one, two)
    assert not torch.equal(first[0], other[0])


def test_an_image_that_is_left_clean_is_the_image_itself() -> None:
    x = textures(200, height=32, width=32)
    damaged, mask = add_defects(x, rng(), clean=0.4)
    clean = (damaged == x).flatten(1).all(1)
    assert 0.3 < clean.float().mean() < 0.6
    assert mask[clean].max() == 0
    damaged, mask = add_defects(x, rng(), clean=1.0)
    assert torch.equal(damaged, x)
    assert mask.max() == 0


def test_more_defects_cover_more() -> None:
    x = textures(64)
    one, three = (add_defects(x, rng(), most=most)[1].mean() for most in (1, 3))
    assert 1.3 * one < three


def test_a_defect_does_not_grow_with_the_photograph() -> None:
    for height, width in ((300, 500), (600, 1000)):
        _, mask = add_defects(textures(4, height=height, width=width), rng(), kinds=["constant"])
        assert (mask > 0.5).flatten(1).sum(1).max() < 128 * 128


def test_nothing_is_decided_on_the_host() -> None:
    """A step that reads a value back, or whose operations differ, cannot be captured as a graph."""

    class Names(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[str] = []

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            self.seen.append(str(func))
            return func(*args, **(kwargs or {}))

    runs = []
    for seed in range(3):
        with Names() as names:
            add_defects(textures(), rng(seed), clean=0.4, most=3)
        runs.append(names.seen)
    assert runs[0] == runs[1] == runs[2]
    assert not [name for name in runs[0] if "_local_scalar_dense" in name or "nonzero" in name]


@pytest.mark.parametrize("kinds", [[], ["paste", "dragon"]])
def test_an_unknown_kind_is_refused_by_name(kinds: list[str]) -> None:
    with pytest.raises(InputError, match=r"'kinds' parameter must be among 'paste'.*Got"):
        add_defects(textures(), rng(), kinds=kinds)
