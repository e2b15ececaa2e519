"""Building blocks of the networks, and the rule that selects a column of Table 2."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import repeat

import torch
from torch import Tensor, nn

from adcgan.data.image_file import MAX_SIZE, MIN_SIZE
from adcgan.networks import layers
from adcgan.networks.activated import norm_leaky_relu, norm_prelu, normed
from adcgan.networks.layers import Conv2d, ConvTranspose2d, Dropout, Masks, PReLU
from adcgan.networks.products import computed_in
from adcgan.networks.spectral import spectral_norm

STEM_CHANNELS = 64


@dataclass(frozen=True)
class Conv:
    """A convolution of a column: output `channels`, square `kernel`, `stride`, zero `padding`."""

    channels: int
    kernel: int
    stride: int = 1
    padding: int = 0

    def out_size(self, size: int) -> int:
        """Return the side of the output map for an input map of side `size`."""
        return (size + 2 * self.padding - self.kernel) // self.stride + 1


def scaled(channels: int, width: float) -> int:
    """Scale a number of channels by `width`, to at least 4."""
    return max(4, round(channels * width))


def negative_slope(size: int) -> float:
    """Return LeakyReLU's slope: 0.1 in the 28 px column, 0.2 elsewhere."""
    return 0.1 if size < 32 else 0.2


def column_for(size: int, table: Mapping[int, tuple[Conv, ...]]) -> tuple[Conv, ...]:
    """Return the convolutions for images of side `size`, 16 to 256.

    At 28, 32 and 64 px this is the column of the table. Other sizes use the column of the largest
    table size not above `size`, with two changes: from 128 px up, stride-2 stem layers first halve
    the image until it is below 128 px; below 28 px, the 28 px column is padded so that its stride-1
    layers preserve the size of the map.
    """
    assert MIN_SIZE <= size <= MAX_SIZE
    if size in table:
        return table[size]
    if size < 28:
        return tuple(
            Conv(layer.channels, layer.kernel, layer.stride, layer.kernel // 2)
            for layer in table[28]
        )
    stem: tuple[Conv, ...] = ()
    while size >= 128:
        stem += (Conv(STEM_CHANNELS, kernel=4, stride=2, padding=1),)
        size //= 2
    return stem + table[max(s for s in table if s <= size)]


def convolution(in_channels: int, layer: Conv, out_channels: int, *, bias: bool) -> nn.Module:
    """Build `layer` as a spectrally normalised convolution."""
    return spectral_norm(
        Conv2d(
            in_channels,
            out_channels,
            layer.kernel,
            stride=layer.stride,
            padding=layer.padding,
            bias=bias,
        )
    )


class ConvBlock(nn.Sequential):
    """Spectrally normalised convolution, BatchNorm, LeakyReLU and dropout (E and the critic)."""

    def __init__(
        self, in_channels: int, layer: Conv, *, width: float, slope: float, dropout: float
    ) -> None:
        self.layer, self.out_channels = layer, scaled(layer.channels, width)
        super().__init__(
            convolution(in_channels, layer, self.out_channels, bias=False),
            nn.BatchNorm2d(self.out_channels),
            nn.LeakyReLU(slope, inplace=True),
            Dropout(dropout),
        )

    def forward(self, x: Tensor, masks: Masks | None = None, batches: int = 1) -> Tensor:
        """Apply the four layers to `x` (B, in, H, W); see `norm_leaky_relu` for the rest."""
        convolution, norm, leaky, dropout = self
        return norm_leaky_relu(convolution(x), norm, leaky, dropout, masks, batches)


class Column(nn.Sequential):
    """A sequence of blocks whose dropout masks are drawn together."""

    def forward(self, x: Tensor, masks: Masks | None = None, batches: int = 1) -> Tensor:
        """Apply the blocks to `x`; see `norm_leaky_relu` for the other parameters."""
        masks = draw_masks(self, x) if masks is None else masks
        for block in self:
            x = block(x, masks, batches) if isinstance(block, ConvBlock) else block(x)
        return x


def draw_masks(blocks: Iterable[nn.Module], x: Tensor) -> Masks | None:
    """Draw the dropout masks for `x` (B, C, H, W) in `blocks`, which share one probability.

    Returns None if no block uses masks.
    """
    sizes, sides, p = [], x.shape[2:], 0.0
    for block in blocks:
        if isinstance(block, ConvBlock):
            sides = torch.Size(block.layer.out_size(side) for side in sides)
            dropout = block[-1]
            if isinstance(dropout, Dropout) and dropout.draws_masks(x):
                sizes.append(len(x) * block.out_channels * sides.numel())
                p = dropout.p
    return Masks(p, sizes, computed_in(x)) if sizes else None


class UpBlock(nn.Sequential):
    """Transposed (or plain) convolution, BatchNorm and PReLU (the generator)."""

    def __init__(self, convolution: ConvTranspose2d | Conv2d) -> None:
        super().__init__(convolution, nn.BatchNorm2d(convolution.out_channels), PReLU())

    def forward(self, x: Tensor, slope: float | None = None) -> Tensor:
        """Apply the three layers to `x` (B, in, H, W), with PReLU's slope if it was read before."""
        convolution, norm, prelu = self
        return norm_prelu(convolution(x), norm, prelu, slope)


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with a skip connection; preserves the shape (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            PReLU(),
            Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor, slope: float | None = None) -> Tensor:
        """Return x + body(x), with PReLU's slope if it was read before."""
        first, norm, prelu, second, last_norm = self.body
        inside = norm_prelu(first(x), norm, prelu, slope)
        return x + normed(second(inside), last_norm)


def read_slopes(blocks: nn.Module, x: Tensor) -> Iterator[float | None]:
    """Read the slopes of all `PReLU` layers in `blocks` at once, for a pass of `x`.

    Yields None for each if slopes are not read.
    """
    prelus = (layer for layer in blocks.modules() if isinstance(layer, PReLU))
    slopes: list[Tensor] = [layer.weight for layer in prelus]
    if not slopes or not layers.on_cpu(x) or not torch.is_grad_enabled():
        return repeat(None)
    with torch.no_grad():
        return iter(torch.cat(slopes).tolist())
