"""A residual trunk for critics of larger images: a wide residual network on a small first map."""

from __future__ import annotations

from torch import Tensor, nn

from adcgan.networks.blocks import Column, scaled
from adcgan.networks.layers import Dropout

# Channels of the stages at width 1.
STAGES = (128, 256, 512)
SLOPE = 0.1
# The first stage works on a map of at most this side.
FIRST_MAP = 16


class WideBlock(nn.Module):
    """BatchNorm, LeakyReLU and a 3×3 convolution, twice, with a skip (Zagoruyko, Komodakis 2016).

    Parameters
    ----------
    in_channels, channels : int
    stride : int
        Of the first convolution and the skip.
    dropout : float
        Between the convolutions.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.first = _activated(in_channels)
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False),
            *_activated(channels),
            Dropout(dropout),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        )
        changes = in_channels != channels or stride > 1
        self.skip = nn.Conv2d(in_channels, channels, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, channels, H/stride, W/stride)."""
        activated = self.first(x)
        out: Tensor = self.body(activated) + (x if self.skip is None else self.skip(activated))
        return out


def residual_trunk(
    channels: int, size: int, *, width: float, dropout: float
) -> tuple[Column, Column, int, int]:
    """Return the trunk and the last block of a critic for images of side `size`.

    A stem of stride-2 convolutions makes a map of at most 16 px; two stages make the local map of
    it, at half that side; a third stage and the mean over its map make the global features.

    Returns
    -------
    trunk, last_block : Column
    local_channels, global_features : int
        Channels of the local map, and length of the global features.
    """
    first, second, third = (scaled(stage, width) for stage in STAGES)
    stem: list[nn.Module] = [nn.Conv2d(channels, first, 3, 2, 1, bias=False)]
    side = -(-size // 2)
    while side > FIRST_MAP:
        stem += [*_activated(first), nn.Conv2d(first, first, 3, 2, 1, bias=False)]
        side = -(-side // 2)
    trunk = Column(*stem, WideBlock(first, first, 1, dropout), WideBlock(first, second, 2, dropout))
    last_block = Column(
        WideBlock(second, third, 2, dropout), *_activated(third), nn.AdaptiveAvgPool2d(1)
    )
    return trunk, last_block, second, third


def _activated(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.LeakyReLU(SLOPE, inplace=True))
