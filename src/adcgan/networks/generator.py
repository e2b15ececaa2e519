"""The generator G, also the decoder of the autoencoder: from a latent to an image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adcgan.networks.blocks import ResidualBlock, UpBlock, read_slopes, scaled
from adcgan.networks.layers import Conv2d, ConvTranspose2d

EMBEDDING = (128, 512)


@dataclass(frozen=True)
class Up:
    """A transposed convolution of a column."""

    channels: int
    kernel: int
    stride: int = 2
    padding: int = 0

    def out_size(self, size: int) -> int:
        """Return the side of the output map for an input map of side `size`."""
        return (size - 1) * self.stride - 2 * self.padding + self.kernel


RESIDUAL = "residual"
# Transposed convolutions by image size, and the padding of the final 3×3 convolution.
COLUMNS: dict[int, tuple[tuple[Up | str, ...], int]] = {
    28: ((Up(256, 4), Up(128, 4, 2, 1), RESIDUAL, Up(64, 3, 2, 1), Up(64, 2)), 0),
    32: ((Up(512, 4), Up(256, 4, 2, 1), Up(128, 4, 2, 1), RESIDUAL, Up(64, 4, 2, 1)), 1),
    64: ((Up(512, 5), Up(256, 5), Up(128, 5), RESIDUAL, Up(64, 5), Up(64, 4, 1)), 1),
}


def column_for(size: int) -> tuple[tuple[Up | str, ...], int]:
    """Return the layers for images of side `size`, from the table or by a rule that extends it.

    The rule repeats the building block of the 32 px column: a first layer makes a map of side 4 to
    7, each following layer (4×4, stride 2, padding 1) doubles it until it covers the image, and
    `Generator` crops the excess at the right and lower borders.
    """
    if size in COLUMNS:
        return COLUMNS[size]
    doublings = 2
    while 4 * 2 ** (doublings + 1) <= size:
        doublings += 1
    base = -(-size // 2**doublings)
    widths = {2: (256, 128, 64)}.get(doublings, (512, 256, 128) + (64,) * (doublings - 2))
    layers: list[Up | str] = [Up(widths[0], base)]
    for channels in widths[1:]:
        layers.append(Up(channels, 4, 2, 1))
        if channels == 128:
            layers.append(RESIDUAL)
    return tuple(layers), 1


class Generator(nn.Module):
    """G(z): "Conv" and "Deconv" layers of Table 2, followed by tanh mapped to [0, 1].

    Parameters
    ----------
    channels, size : int
        Channels (1 or 3) and side in pixels (16 to 256) of the generated images.
    latent_dim : int
        Dimension z of the latent.
    width : float
        Factor on all hidden widths; 1 is the paper's network.
    """

    def __init__(self, channels: int, size: int, latent_dim: int, *, width: float = 1.0) -> None:
        super().__init__()
        self.size = size
        layers: list[nn.Module] = []
        previous = latent_dim
        for hidden in EMBEDDING:
            out = scaled(hidden, width)
            layers.append(UpBlock(Conv2d(previous, out, 3, padding=1, bias=False)))
            previous = out
        column, last_padding = column_for(size)
        side = 1
        for layer in column:
            if isinstance(layer, str):
                layers.append(ResidualBlock(previous))
                continue
            out = scaled(layer.channels, width)
            layers.append(
                UpBlock(
                    ConvTranspose2d(
                        previous, out, layer.kernel, layer.stride, layer.padding, bias=False
                    )
                )
            )
            previous, side = out, layer.out_size(side)
        layers.append(Conv2d(previous, channels, 3, padding=last_padding))
        side += 2 * last_padding - 2
        assert side == size if size in COLUMNS else side >= size
        self.overhangs = side > size
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """Return images (B, channels, size, size) in [0, 1] for latents (B, latent_dim)."""
        x = z.view(*z.shape, 1, 1)
        slopes = read_slopes(self.layers, x)
        for layer in self.layers:
            has_slope = isinstance(layer, (UpBlock, ResidualBlock))
            x = layer(x, next(slopes)) if has_slope else layer(x)
        if self.overhangs:
            x = x[..., : self.size, : self.size]
        # (tanh(x) + 1) / 2.
        return torch.sigmoid(2 * x)
