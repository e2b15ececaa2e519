"""Spectral normalisation of the weights of a layer or of all layers of a network.

Layers keep torch's names for parameters and buffers, so weights are interchangeable with those of
`torch.nn.utils.parametrizations.spectral_norm`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.utils import parametrize

from adcgan.networks.memory_order import is_channels_last, rows

Normalised = TypeVar("Normalised", nn.Conv2d, nn.Linear)

# Power iterations before training, as in torch.
SETTLING_STEPS = 15
# Lower bound of a norm, as in torch.
EPS = 1e-12


def spectral_norm(layer: Normalised) -> Normalised:
    """Parametrise `layer` so that its weight is divided by its largest singular value.

    Like `torch.nn.utils.parametrizations.spectral_norm`, with one power iteration for each access
    to the weight in training mode. Weights are read in memory order, and the gradient takes two
    passes over them.
    """
    parametrize.register_parametrization(layer, "weight", SpectralNorm(layer.weight.detach()))
    return layer


class SpectralNorm(nn.Module):
    """Divides a weight (out, …) by its spectral norm, which is found by power iteration.

    Parameters
    ----------
    weight : Tensor (out, in) or (out, in, k, k)
        Initial weight.

    Attributes
    ----------
    given : Tensor or None
        The normalised weight while `SpectralNorms` provides it, otherwise None.
    """

    _u: Tensor
    _v: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        matrix = weight.flatten(1)
        self.register_buffer("_u", F.normalize(torch.randn(matrix.shape[0]), dim=0))
        self.register_buffer("_v", F.normalize(torch.randn(matrix.shape[1]), dim=0))
        self.given: Tensor | None = None
        for _ in range(SETTLING_STEPS):
            self._iterate(matrix, self._v)

    @torch.no_grad()
    def _iterate(self, matrix: Tensor, v: Tensor) -> None:
        """Take a step of the power iteration from `v`, updating it and `_u` in place."""
        F.normalize(matrix @ v, dim=0, eps=EPS, out=self._u)
        F.normalize(self._u @ matrix, dim=0, eps=EPS, out=v)

    def forward(self, weight: Tensor) -> Tensor:
        """Return weight / σ(weight), in half precision under autocast."""
        if self.given is not None:
            return self.given
        matrix = rows(weight.detach())
        shape = weight.shape[1:]
        v = rows(self._v.view(1, *shape), like=weight)[0]
        if self.training:
            v = v.clone()
            self._iterate(matrix, v)
            self._v.copy_(_plain(v, shape, like=weight))
        sigma = self._u @ matrix @ v
        if not torch.is_grad_enabled():
            return weight / sigma
        u = self._u.view(-1, *[1] * len(shape))
        (normalised,) = _normalise([u, _shaped(v, like=weight)[None]], [sigma], weight)
        return normalised

    def vectors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return views of u (out,) and v (in, …), where v has the shape of a row of `weight`."""
        return self._u, self._v.view(weight.shape[1:])


class SpectralNorms:
    """The spectral norms of all layers of a network, computed together.

    The layers' own norms need about twenty small operations for each access to a weight, and small
    operations take as long as their launch. Here everything except the products is done for all
    layers at once.

    Parameters
    ----------
    network : Module
        Network in its final layout and on its final device. For layers not normalised by
        `spectral_norm`, the weights that they compute are kept.
    """

    def __init__(self, network: nn.Module) -> None:
        self._norms: list[SpectralNorm] = []
        self._weights: list[Tensor] = []
        for module in network.modules():
            if isinstance(module, parametrize.ParametrizationList) and isinstance(
                norm := module[0], SpectralNorm
            ):
                self._norms.append(norm)
                self._weights.append(module.original)
        if not self._norms:
            return
        stored = [weight.detach() for weight in self._weights]
        self._matrices = [rows(weight) for weight in stored]
        # All u, then all v, each in the memory order of its weight.
        sizes = [m.shape[0] for m in self._matrices] + [m.shape[1] for m in self._matrices]
        self._vectors = stored[0].new_empty(sum(sizes))
        parts = torch.split_with_sizes(self._vectors, sizes)
        self._u, self._v = parts[: len(stored)], parts[len(stored) :]
        self._u_as_row, self._v_as_row = [[x[None] for x in y] for y in (self._u, self._v)]
        # Views of the same memory next to the layers' buffers, which are in dimension order.
        self._v_shaped = [_shaped(v, like=w) for v, w in zip(self._v, stored, strict=True)]
        kept = [norm.vectors(w) for norm, w in zip(self._norms, stored, strict=True)]
        self._kept_u, self._kept_v = zip(*kept, strict=True)
        # Views whose product has the shape of the weight.
        self._factors = [
            *(u.view(-1, *[1] * (w.dim() - 1)) for u, w in zip(self._u, stored, strict=True)),
            *(v[None] for v in self._v_shaped),
        ]

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Take one power iteration and use its results for all weight accesses in the block."""
        with parametrize.cached():
            if self._norms:
                sigmas = self._iterate()
                normalised = _normalise(self._factors, sigmas, *self._weights)
                for norm, weight in zip(self._norms, normalised, strict=True):
                    norm.given = weight
            try:
                yield
            finally:
                for norm in self._norms:
                    norm.given = None

    @torch.no_grad()
    def _iterate(self) -> list[Tensor]:
        """Take a step of the power iteration and return the largest singular values, () each."""
        torch._foreach_copy_(self._v_shaped, self._kept_v)
        for matrix, u, v in zip(self._matrices, self._u, self._v, strict=True):
            torch.mv(matrix, v, out=u)
        for matrix, u, v in zip(self._matrices, self._u_as_row, self._v_as_row, strict=True):
            torch.mm(u, matrix, out=v)
        # Now u is Wv and v is WᵀWv; the ratio of their lengths is uᵀWv for the normalised u and v.
        lengths = list(torch._foreach_norm([*self._u, *self._v]))
        torch._foreach_clamp_min_(lengths, EPS)
        torch._foreach_div_([*self._u, *self._v], lengths)
        torch._foreach_copy_([*self._kept_u, *self._kept_v], [*self._u, *self._v_shaped])
        n = len(self._u)
        return list(torch._foreach_div(lengths[n:], lengths[:n]))


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, factors: list[Tensor], sigmas: list[Tensor], *weights: Tensor
    ) -> tuple[Tensor, ...]:
        """Divide weights by their σ; `factors` are all u, then all v, shaped so that uvᵀ fits."""
        if any(ctx.needs_input_grad):
            # Copy them, as the next iteration overwrites them.
            ctx.save_for_backward(*torch._foreach_mul(factors, 1.0), *sigmas, *weights)
        kind = weights[0].device.type
        normalised = torch._foreach_div(weights, sigmas)
        if torch.is_autocast_enabled(kind):
            half = [torch.empty_like(w, dtype=torch.get_autocast_dtype(kind)) for w in weights]
            torch._foreach_copy_(half, normalised)
            return tuple(half)
        return tuple(normalised)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return G/σ − ⟨G/σ, W⟩/σ · uvᵀ, where σ = uᵀWv and G is the gradient of W/σ."""
        n, saved = len(gradients), ctx.saved_tensors
        us, vs, sigmas, weights = (saved[n * i : n * (i + 1)] for i in range(4))
        outs = _divided(gradients, sigmas, weights)
        shares = [product.sum() for product in torch._foreach_mul(outs, weights)]
        torch._foreach_div_(shares, sigmas)
        torch._foreach_addcmul_(outs, torch._foreach_mul(us, shares), vs, value=-1)
        return None, None, *outs


_normalise: Callable[..., tuple[Tensor, ...]] = _Normalise.apply


def _divided(
    gradients: tuple[Tensor, ...], sigmas: list[Tensor], weights: list[Tensor]
) -> list[Tensor]:
    """Return gradient/σ of each weight, in its data type and memory layout."""
    alike = all(
        g.dtype == w.dtype and g.stride() == w.stride()
        for g, w in zip(gradients, weights, strict=True)
    )
    if alike:
        return list(torch._foreach_div(gradients, sigmas))
    outs = [torch.empty_like(weight) for weight in weights]
    torch._foreach_copy_(outs, gradients)
    torch._foreach_div_(outs, sigmas)
    return outs


def _shaped(v: Tensor, like: Tensor) -> Tensor:
    """Return a row of `rows(like)` in the shape (in, …) of the weight."""
    shape = like.shape[1:]
    if is_channels_last(like):
        return v.view(*shape[1:], shape[0]).permute(2, 0, 1)
    return v.view(shape)


def _plain(v: Tensor, shape: torch.Size, like: Tensor) -> Tensor:
    """Return a row of `rows(like)`, for weights of this `shape`, in the order (in, k, k)."""
    if is_channels_last(like):
        return v.view(*shape[1:], shape[0]).permute(2, 0, 1).flatten()
    return v
