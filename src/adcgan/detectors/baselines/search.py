"""Back-propagation search at test time: for the latent, and for weights, that explain an image.

Every image of a batch has latents, weights and optimizer moments of its own, so a batch is only a
faster way to search image by image. All searches start from latents that the model stores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from adcgan.scoring import Scored
from adcgan.training.device import denormals_flushed

# Why such a detector is not exported.
SEARCHES = "it scores each image by a search with gradients, not by one forward pass"
BETAS = (0.5, 0.999)
# Images that are searched together. On a CPU sixteen take two to four times as long as one.
TILE = 16
# Floating-point numbers in the copies of weights, gradients and moments of one batch, off the CPU.
MOST_COPIES = 2**29


def in_tiles(
    explain: Callable[[Tensor], Scored[Tensor]], x: Tensor, size: int = TILE
) -> Scored[Tensor]:
    """Explain images in tiles of always the same size, the last one filled up with its last image.

    How a matrix product is rounded depends on how many rows it has, and hundreds of gradient steps
    amplify that: in batches of any size, a score would depend on the company of its image.

    Parameters
    ----------
    explain : callable
        Maps images (size, C, H, W) to what is said of them, each by itself.
    x : Tensor (B, C, H, W)
        Images.
    size : int
        Of a tile.
    """
    n = len(x)
    padded = torch.cat([x, x[-1:].expand(-n % size, *x.shape[1:])])
    parts = [explain(tile) for tile in torch.split(padded, size)]

    def whole(pieces: list[Tensor]) -> Tensor:
        return torch.cat(pieces)[:n]

    return Scored(
        {key: whole([part.components[key] for part in parts]) for key in parts[0].components},
        whole([part.anomaly_map for part in parts if part.anomaly_map is not None]),
        whole([part.reconstruction for part in parts if part.reconstruction is not None]),
    )


class Starts(nn.Module):
    """The latents (n, z) that every search starts from: drawn by `seed` and stored.

    Parameters
    ----------
    n, latent_dim : int
        Their number and size.
    seed : int
        Of their own generator, so that their number changes nothing else.
    """

    latents: Tensor

    def __init__(self, n: int, latent_dim: int, seed: int) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        self.register_buffer("latents", torch.randn(n, latent_dim, generator=rng))


@contextmanager
def searching() -> Iterator[None]:
    """Allow gradients where scoring has turned them off."""
    with torch.enable_grad(), denormals_flushed():
        yield


def search_latents(
    objective: Callable[[Tensor], Tensor], start: Tensor, steps: int, lr: float
) -> Tensor:
    """Minimise `objective` by Adam on latents.

    Parameters
    ----------
    objective : callable
        Maps latents (B, z) to one loss each, (B,); a loss depends on its own latent alone.
    start : Tensor (B, z)
        Where each search begins.
    steps : int
        Gradient steps.
    lr : float
        Adam's learning rate.

    Returns
    -------
    Tensor (B, z)
        The latents after the last step.
    """
    z = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([z], lr=lr, betas=BETAS)
    for _ in range(steps):
        (z.grad,) = torch.autograd.grad(objective(z).sum(), z)
        optimizer.step()
    return z.detach()


class Found(NamedTuple):
    """What a search for latents and weights ended with.

    Attributes
    ----------
    first, last : Tensor (B, R)
        Mean squared error of each restart before the first and after the last step.
    images : Tensor (B, R, C, H, W)
        What the adapted generators make of the latents found.
    """

    first: Tensor
    last: Tensor
    images: Tensor


def search_latents_and_weights(
    generator: nn.Module,
    x: Tensor,
    starts: Tensor,
    steps: int,
    lr_latent: float,
    lr_weights: float,
) -> Found:
    """Minimise the mean squared error of G(z) and each image by Adam on z and on a copy of G.

    Each image and restart has its own copy of the weights, which starts as the model's.

    Parameters
    ----------
    generator : Module
        G, in evaluation mode; maps latents (1, z) to an image (1, C, H, W).
    x : Tensor (B, C, H, W)
        Images.
    starts : Tensor (R, z)
        Where the restarts begin, the same for every image.
    steps : int
        Gradient steps of each restart.
    lr_latent, lr_weights : float
        Adam's learning rates.
    """
    batch, restarts = len(x), len(starts)
    copies = batch * restarts
    target = x.repeat_interleave(restarts, 0)
    z = starts.repeat(batch, 1)
    weights = {
        name: value.detach().expand(copies, *value.shape).clone()
        for name, value in generator.named_parameters()
    }

    def made(w: dict[str, Tensor], one: Tensor) -> Tensor:
        image: Tensor = functional_call(generator, w, (one[None],))[0]
        return image

    def error(w: dict[str, Tensor], one: Tensor, aim: Tensor) -> Tensor:
        return (made(w, one) - aim).square().mean()

    slopes = vmap(grad_and_value(error, argnums=(0, 1)))
    groups: list[dict[str, Any]] = [
        {"params": [z], "lr": lr_latent},
        {"params": list(weights.values())},
    ]
    optimizer = torch.optim.Adam(groups, lr=lr_weights, betas=BETAS, fused=True)
    first = None
    for _ in range(steps):
        (weight_slopes, z.grad), losses = slopes(weights, z, target)
        first = losses if first is None else first
        for name, slope in weight_slopes.items():
            weights[name].grad = slope
        optimizer.step()
    with torch.no_grad():
        images = vmap(made)(weights, z)
        last = (images - target).square().flatten(1).mean(1)
    shape = (batch, restarts)
    assert first is not None
    return Found(first.reshape(shape), last.reshape(shape), images.reshape(*shape, *x.shape[1:]))


def images_at_once(generator: nn.Module, restarts: int) -> int:
    """Return how many images to search together, with a copy of G for each restart."""
    parameters = list(generator.parameters())
    # On CPUs one is fastest: the memory of its copies is used again, not asked for anew.
    if parameters[0].device.type == "cpu":
        return 1
    copies = MOST_COPIES // (5 * sum(p.numel() for p in parameters))
    return min(TILE, max(1, copies // restarts))
