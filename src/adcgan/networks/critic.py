"""The critic D_cgan: from an image to a logit, local features and global features."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from adcgan.data.transformations import (
    TURNS_AND_SHIFTS,
    WITH_MIRRORING,
    asked_together,
)
from adcgan.networks.blocks import Column, Conv, ConvBlock, column_for, draw_masks, negative_slope
from adcgan.networks.layers import Linear
from adcgan.networks.residual import Trunk, residual_trunk, wide_trunk
from adcgan.networks.spectral import spectral_norm

# The last two layers of a column are the last block; the local map is the input of this block.
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
# Self-supervised critics are residual from this image side up.
RESIDUAL_FROM = 32
# Length of the features by which views are compared.
VIEW_FEATURES = 64


class CriticFeatures(NamedTuple):
    """The critic's outputs for a batch of images.

    Attributes
    ----------
    logit : Tensor (B,)
        C(x), the raw critic value; higher means more real.
    local : Tensor (B, K, M, M)
        C_ψ(x), the local features: "the penultimate representation" (section 2.1).
    global_ : Tensor (B, F)
        E_ψ(x), the global features: "the ultimate representation".
    """

    logit: Tensor
    local: Tensor
    global_: Tensor


def paper_trunk(channels: int, size: int, *, width: float, dropout: float) -> Trunk:
    """Return Table 2's trunk and last block, and the channels of the local and last maps."""
    blocks: list[ConvBlock] = []
    side = size
    for layer in column_for(size, COLUMNS):
        blocks.append(
            ConvBlock(channels, layer, width=width, slope=negative_slope(size), dropout=dropout)
        )
        channels, side = blocks[-1].out_channels, layer.out_size(side)
    # Sizes outside the table can end in a map larger than 1×1, which is averaged.
    mean = nn.AdaptiveAvgPool2d(1) if side > 1 else nn.Identity()
    return (
        Column(*blocks[:-LAST_BLOCK]),
        Column(*blocks[-LAST_BLOCK:], mean),
        blocks[-LAST_BLOCK - 1].out_channels,
        channels,
    )


# Functions that build the trunks of self-supervised critics, by name.
TRUNKS: dict[str, Callable[..., Trunk]] = {
    "paper": paper_trunk,
    "small": residual_trunk,
    "medium": partial(wide_trunk, most=32),
    "full": partial(wide_trunk, most=64),
}


class Critic(nn.Module):
    """D_cgan with its two linear heads: the logit and the projection φ_θ ("Linear 2" in Table 2).

    Parameters
    ----------
    channels, size, width, dropout
        As for `Encoder`.
    make_trunk : callable
        Returns trunk and last block for these parameters; by default, those of Table 2.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        *,
        width: float = 1.0,
        dropout: float = 0.2,
        make_trunk: Callable[..., Trunk] = paper_trunk,
    ) -> None:
        super().__init__()
        self.trunk, self.last_block, self.local_channels, self.global_features = make_trunk(
            channels, size, width=width, dropout=dropout
        )
        self.logit = spectral_norm(Linear(self.global_features, 1))
        self.projection = spectral_norm(Linear(self.global_features, self.local_channels))

    def forward(self, x: Tensor) -> CriticFeatures:
        """Judge images (B, channels, size, size) in [0, 1]."""
        return self._judge(x, 1)

    def compare(self, real: Tensor, fake: Tensor) -> tuple[CriticFeatures, Tensor]:
        """Judge two batches (B, channels, size, size) like two calls of `forward`.

        They share one pass, except for the statistics of BatchNorm. Returns the features of `real`
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
        """Return only C_ψ (B, K, M, M) of images, without computing the rest."""
        local: Tensor = self.trunk(x)
        return local

    def project(self, global_: Tensor) -> Tensor:
        """Map global features (B, F) with φ_θ to queries (B, K) for the local features."""
        query: Tensor = self.projection(global_)
        return query


class SelfSupervisedCritic(Critic):
    """D_cgan that also predicts which transformation was applied to an image.

    From 32 px up, it also predicts whether the image was flipped.

    Parameters
    ----------
    channels, size, width, dropout
        As for `Encoder`.
    trunk : {"paper", "small", "medium", "full"} or None
        "paper" is the trunk of Table 2, "small" a residual trunk with a first map of at most 16 px,
        "medium" and "full" the same at the image's own resolution, up to 32 and 64 px. None means
        "paper" below 32 px, where its kernels are small, and "small" from 32 px up, where "paper"
        takes several times the computation for the same recognition.
    blocks : int
        Residual blocks per stage.
    together : bool
        Whether all transformations form a single question.

    Attributes
    ----------
    task : Task
        The questions that the critic answers.
    is_residual : bool
        Whether the trunk is residual.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        *,
        width: float = 1.0,
        dropout: float = 0.2,
        trunk: str | None = None,
        blocks: int = 1,
        together: bool = False,
    ) -> None:
        is_large = size >= RESIDUAL_FROM
        kind = trunk or ("small" if is_large else "paper")
        make = TRUNKS[kind] if kind == "paper" else partial(TRUNKS[kind], blocks=blocks)
        super().__init__(channels, size, width=width, dropout=dropout, make_trunk=make)
        self.is_residual = kind != "paper"
        task = WITH_MIRRORING if is_large else TURNS_AND_SHIFTS
        self.task = asked_together(task) if together else task
        self.answer = nn.Linear(self.global_features, sum(self.task.answers))
        n = self.global_features
        self.view = nn.Sequential(nn.Linear(n, n), nn.ReLU(), nn.Linear(n, VIEW_FEATURES))

    def answers(self, global_: Tensor) -> Tensor:
        """Return the logits (B, ΣA) of the answers to `task`, from global features (B, F)."""
        logits: Tensor = self.answer(global_)
        return logits

    def view_features(self, global_: Tensor) -> Tensor:
        """Return the features (B, K) for comparing views, from global features (B, F)."""
        shared: Tensor = self.view(global_)
        return shared

    def global_features_of(self, x: Tensor) -> Tensor:
        """Return E_ψ (B, F) of images (B, channels, size, size) in [0, 1]."""
        global_: Tensor = self.last_block(self.local_features(x)).flatten(1)
        return global_
