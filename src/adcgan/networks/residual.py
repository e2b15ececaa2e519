"""Residual trunks for critics: wide residual networks on a reduced or full-size first map."""

from __future__ import annotations

from torch import Tensor, nn

from adcgan.networks.blocks import Column, scaled
from adcgan.networks.layers import Dropout

# Channels of the stages at width 1.
STAGES = (128, 256, 512)
SLOPE = 0.1
# Maximum side of the small trunk's map in the first stage.
FIRST_MAP = 16
# Channels of a wide residual network's stem.
STEM = 16
# Trunk, last block, channels of the local map, length of the global features.
Trunk = tuple[Column, Column, int, int]


class WideBlock(nn.Module):
    """Twice BatchNorm, LeakyReLU and 3×3 convolution, with a skip (Zagoruyko, Komodakis 2016).

    Parameters
    ----------
    in_channels, channels : int
    stride : int
        Stride of the first convolution and the skip.
    dropout : float
        Dropout between the convolutions.
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
        # For a strided 1×1 convolution of fewer than 8 channels, oneDNN's AVX2 kernels write past
        # the end of the gradient (torch 2.13). The input is therefore subsampled beforehand.
        self.left_out = stride if in_channels < 8 else 1
        stride //= self.left_out
        self.skip = nn.Conv2d(in_channels, channels, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, channels, H/stride, W/stride)."""
        activated = self.first(x)
        kept = activated[:, :, :: self.left_out, :: self.left_out]
        out: Tensor = self.body(activated) + (x if self.skip is None else self.skip(kept))
        return out


def residual_trunk(
    channels: int, size: int, *, width: float, dropout: float, blocks: int = 1
) -> Trunk:
    """Build the trunk and the last block of a critic for images of side `size`.

    A stem of stride-2 convolutions makes a map of at most 16 px. Two stages turn it into the local
    map, at half that side. A third stage and the mean over its map give the global features.

    Returns
    -------
    trunk, last_block : Column
    local_channels, global_features : int
        Channels of the local map and length of the global features.
    """
    first = scaled(STAGES[0], width)
    halvings = max(1, _halvings(size, FIRST_MAP))
    return _stages(_stem(channels, first, halvings), first, width, dropout, blocks)


def wide_trunk(
    channels: int, size: int, *, most: int, width: float, dropout: float, blocks: int = 1
) -> Trunk:
    """Build the same with a first map of the image's own side, up to `most` px.

    This is the wide residual network WRN-(6n + 4)-8k (Zagoruyko and Komodakis 2016) for width k and
    n blocks per stage. Its stem is a convolution to 16 channels, which preserves the side of the
    map; stride-2 convolutions reduce larger images. At width 0.5 with one block, it is the WRN-10-4
    of Golan and El-Yaniv (2018).
    """
    return _stages(_stem(channels, STEM, _halvings(size, most)), STEM, width, dropout, blocks)


def _halvings(size: int, most: int) -> int:
    """Return how often to halve a map of side `size` until its side is at most `most`."""
    halvings = 0
    while size > most:
        size, halvings = -(-size // 2), halvings + 1
    return halvings


def _stem(channels: int, out: int, halvings: int) -> list[nn.Module]:
    """Build convolutions to `out` channels that halve the side `halvings` times, or keep it."""
    stem: list[nn.Module] = [_convolution(channels, out, 2 if halvings else 1)]
    for _ in range(halvings - 1):
        stem += [*_activated(out), _convolution(out, out, 2)]
    return stem


def _stages(
    stem: list[nn.Module], channels: int, width: float, dropout: float, blocks: int
) -> Trunk:
    """Build what follows a stem to `channels`: two stages, the last block, and their widths."""
    first, second, third = (scaled(stage, width) for stage in STAGES)

    def stage(before: int, after: int, stride: int) -> list[nn.Module]:
        more = (WideBlock(after, after, 1, dropout) for _ in range(blocks - 1))
        return [WideBlock(before, after, stride, dropout), *more]

    trunk = Column(*stem, *stage(channels, first, 1), *stage(first, second, 2))
    last_block = Column(*stage(second, third, 2), *_activated(third), nn.AdaptiveAvgPool2d(1))
    return trunk, last_block, second, third


def _convolution(before: int, after: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, stride, 1, bias=False)


def _activated(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.LeakyReLU(SLOPE, inplace=True))
