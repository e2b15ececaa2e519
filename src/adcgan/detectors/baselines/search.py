"""Gradient search at test time for the latent, and for weights, that explain an image.

Every image in a batch has its own latents, weights and optimizer moments, so batching only makes
the search faster. All searches start from latents that the model stores.
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

# Why detectors that search cannot be exported.
SEARCHES = "it scores each image by a search with gradients, not by one forward pass"
BETAS = (0.5, 0.999)
# Images searched together. On a CPU, sixteen take two to four times as long as one.
TILE = 16
# Maximum number of floats in a batch's copies of weights, gradients and moments, except on CPUs.
MOST_COPIES = 2**29


def in_tiles(
    explain: Callable[[Tensor], Scored[Tensor]], x: Tensor, size: int = TILE
) -> Scored[Tensor]:
    """Explain images in tiles of constant size; the last one is filled up with its last image.

    The rounding of a matrix product depends on its number of rows, and hundreds of gradient steps
    amplify that. With batches of varying size, a score would depend on the other images.

    Parameters
    ----------
    explain : callable
        Maps images (size, C, H, W) to their scores, each independent of the others.
    x : Tensor (B, C, H, W)
        Images.
    size : int
        Number of images in a tile.
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
    """The latents (n, z) from which every search starts, drawn with `seed` and stored.

    Parameters
    ----------
    n, latent_dim : int
        Number and dimension of the latents.
    seed : int
        Seed of a separate generator, so that the number of latents changes nothing else.
    """

    latents: Tensor

    def __init__(self, n: int, latent_dim: int, seed: int) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        self.register_buffer("latents", torch.randn(n, latent_dim, generator=rng))


@contextmanager
def searching() -> Iterator[None]:
    """Enable gradients that scoring has disabled."""
    with torch.enable_grad(), denormals_flushed():
        yield


def search_latents(
    objective: Callable[[Tensor], Tensor], start: Tensor, steps: int, lr: float
) -> Tensor:
    """Minimise `objective` over latents with Adam.

    Parameters
    ----------
    objective : callable
        Maps latents (B, z) to losses (B,), each of which depends only on its own latent.
    start : Tensor (B, z)
        Starting point of each search.
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
    """The result of a search over latents and weights.

    Attributes
    ----------
    first, last : Tensor (B, R)
        Mean squared error of each restart before the first and after the last step.
    images : Tensor (B, R, C, H, W)
        Images that the adapted generators make from the latents found.
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
    """Minimise the mean squared error of G(z) to each image with Adam, over z and a copy of G.

    Each image and restart has its own copy of the weights, initialised from the model.

    Parameters
    ----------
    generator : Module
        G, in evaluation mode; maps latents (1, z) to an image (1, C, H, W).
    x : Tensor (B, C, H, W)
        Images.
    starts : Tensor (R, z)
        Starting points of the restarts, the same for every image.
    steps : int
        Gradient steps per restart.
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
    """Return how many images to search together, with one copy of G per restart."""
    parameters = list(generator.parameters())
    # On CPUs one is fastest, as the memory of its copies is reused.
    if parameters[0].device.type == "cpu":
        return 1
    copies = MOST_COPIES // (5 * sum(p.numel() for p in parameters))
    return min(TILE, max(1, copies // restarts))
