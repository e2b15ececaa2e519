"""The critic D_cgan: an image to a logit, a map of local features and a global feature vector."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from adcgan.data.transformations import TURNS_AND_SHIFTS, WITH_MIRRORING
from adcgan.networks.blocks import Column, Conv, ConvBlock, column_for, draw_masks, negative_slope
from adcgan.networks.layers import Linear
from adcgan.networks.residual import residual_trunk
from adcgan.networks.spectral import spectral_norm

# The last two layers of a column are the last block: the local map is taken before it.
COLUMNS = {
    28: (Conv(64, 3, 2), Conv(128, 3, 2), Conv(256, 3), Conv(512, 3, 2)),
    32: (
        *(Conv(64, 5, padding=1), Conv(128, 4, 2), Conv(256, 5), Conv(512, 5)),
        *(Conv(1024, 3), Conv(2048, 3, 2)),
    ),
    64: (
        *(Conv(64, 7, padding=1), Conv(128, 5, 2), Conv(256, 5), Conv(512, 5, 2)),
        *(Conv(1024, 5), Conv(2048, 5, 2)),
    ),
}
LAST_BLOCK = 2
# From this side on a self-supervised critic is residual.
RESIDUAL_FROM = 32
# What views of an image are compared by.
VIEW_FEATURES = 64
# Trunk, last block, channels of the local map, length of the global features.
Trunk = tuple[Column, Column, int, int]


class CriticFeatures(NamedTuple):
    """What the critic says of a batch of images.

    Attributes
    ----------
    logit : Tensor (B,)
        C(x), the raw critic value; higher = more like a real image.
    local : Tensor (B, K, M, M)
        C_ψ(x), the local features: "the penultimate representation" (section 2.1).
    global_ : Tensor (B, F)
        E_ψ(x), the global features: "the ultimate representation".
    """

    logit: Tensor
    local: Tensor
    global_: Tensor


def paper_trunk(channels: int, size: int, *, width: float, dropout: float) -> Trunk:
    """Return the trunk and the last block of Table 2, channels of the local map and of the last."""
    blocks: list[ConvBlock] = []
    side = size
    for layer in column_for(size, COLUMNS):
        blocks.append(
            ConvBlock(channels, layer, width=width, slope=negative_slope(size), dropout=dropout)
        )
        channels, side = blocks[-1].out_channels, layer.out_size(side)
    # Sizes outside the table can end in a map larger than 1×1; its mean is the vector.
    mean = nn.AdaptiveAvgPool2d(1) if side > 1 else nn.Identity()
    return (
        Column(*blocks[:-LAST_BLOCK]),
        Column(*blocks[-LAST_BLOCK:], mean),
        blocks[-LAST_BLOCK - 1].out_channels,
        channels,
    )


class Critic(nn.Module):
    """D_cgan with its two linear heads: the logit and the projection φ_θ ("Linear 2" in Table 2).

    Parameters
    ----------
    channels, size, width, dropout
        As for `Encoder`.
    """

    def __init__(
        self, channels: int, size: int, *, width: float = 1.0, dropout: float = 0.2
    ) -> None:
        super().__init__()
        make = self._make_trunk(size)
        self.trunk, self.last_block, self.local_channels, self.global_features = make(
            channels, size, width=width, dropout=dropout
        )
        self.logit = spectral_norm(Linear(self.global_features, 1))
        self.projection = spectral_norm(Linear(self.global_features, self.local_channels))

    def _make_trunk(self, size: int) -> Callable[..., Trunk]:
        del size
        return paper_trunk

    def forward(self, x: Tensor) -> CriticFeatures:
        """Judge images (B, channels, size, size) in [0, 1]."""
        return self._judge(x, 1)

    def compare(self, real: Tensor, fake: Tensor) -> tuple[CriticFeatures, Tensor]:
        """Judge two batches (B, channels, size, size) as `forward` does one after the other.

        They pass together, but for the statistics of BatchNorm. Returns the features of `real`
        and the logits (B,) of `fake`.
        """
        assert all(isinstance(block, ConvBlock) for block in self.trunk)
        n = len(real)
        logit, local, global_ = self._judge(torch.cat([real, fake]), 2)
        of_real, of_fake = logit.chunk(2)
        return CriticFeatures(of_real, local[:n], global_[:n]), of_fake

    def _judge(self, x: Tensor, batches: int) -> CriticFeatures:
        masks = draw_masks([*self.trunk, *self.last_block], x)
        local = self.trunk(x, masks, batches)
        global_ = self.last_block(local, masks, batches).flatten(1)
        return CriticFeatures(self.logit(global_).squeeze(1), local, global_)

    def local_features(self, x: Tensor) -> Tensor:
        """Return C_ψ (B, K, M, M) of images alone, without the work that the rest takes."""
        local: Tensor = self.trunk(x)
        return local

    def project(self, global_: Tensor) -> Tensor:
        """Return φ_θ of global features (B, F): queries (B, K) for the local features."""
        query: Tensor = self.projection(global_)
        return query


class SelfSupervisedCritic(Critic):
    """D_cgan that also says which transformation was applied to an image.

    From 32 px on its trunk is residual: Table 2's, with its 5×5 kernels, needs several times the
    work for the same recognition. There it is also asked whether the image was mirrored.

    Attributes
    ----------
    task : Task
        What it is asked.
    """

    def __init__(
        self, channels: int, size: int, *, width: float = 1.0, dropout: float = 0.2
    ) -> None:
        super().__init__(channels, size, width=width, dropout=dropout)
        self.is_residual = size >= RESIDUAL_FROM
        self.task = WITH_MIRRORING if self.is_residual else TURNS_AND_SHIFTS
        self.answer = nn.Linear(self.global_features, sum(self.task.answers))
        n = self.global_features
        self.view = nn.Sequential(nn.Linear(n, n), nn.ReLU(), nn.Linear(n, VIEW_FEATURES))

    def _make_trunk(self, size: int) -> Callable[..., Trunk]:
        return residual_trunk if size >= RESIDUAL_FROM else paper_trunk

    def answers(self, global_: Tensor) -> Tensor:
        """Return the logits (B, ΣA) of the answers to the `task`, by global features (B, F)."""
        logits: Tensor = self.answer(global_)
        return logits

    def view_features(self, global_: Tensor) -> Tensor:
        """Return what views of one image should share (B, K), by global features (B, F)."""
        shared: Tensor = self.view(global_)
        return shared

    def global_features_of(self, x: Tensor) -> Tensor:
        """Return E_ψ (B, F) of images (B, channels, size, size) in [0, 1]."""
        global_: Tensor = self.last_block(self.local_features(x)).flatten(1)
        return global_
