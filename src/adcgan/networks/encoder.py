"""The encoder E: from an image to a latent."""

from __future__ import annotations

from torch import Tensor, nn

from adcgan.networks.blocks import (
    Column,
    Conv,
    ConvBlock,
    column_for,
    convolution,
    negative_slope,
)

# The layers before the last, by image size. The last convolution covers the remaining map, with
# `latent_dim` channels: 3×3 at 28 and 32 px, 6×6 at 64 px.
COLUMNS = {
    28: (Conv(64, 3), Conv(128, 3, 2), Conv(256, 3, 2), Conv(256, 3)),
    32: (Conv(64, 5, 2), Conv(128, 5), Conv(256, 5), Conv(512, 4)),
    64: (Conv(64, 7, 2), Conv(128, 5), Conv(256, 7, 2), Conv(512, 5)),
}


def default_latent_dim(size: int) -> int:
    """Return the paper's latent dimension: 100, or 200 from 64 px up (appendix A.3)."""
    return 100 if size < 64 else 200


class Encoder(nn.Module):
    """E(x): five convolutions, "Conv 5" in Table 2, followed by LayerNorm over the latent.

    Parameters
    ----------
    channels, size : int
        Channels (1 or 3) and side in pixels (16 to 256) of the images.
    latent_dim : int
        Dimension z of the latent.
    width : float
        Factor on all hidden widths; 1 is the paper's network.
    dropout : float
        Dropout probability after every hidden layer.
    """

    def __init__(
        self, channels: int, size: int, latent_dim: int, *, width: float = 1.0, dropout: float = 0.2
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        side = size
        for layer in column_for(size, COLUMNS):
            block = ConvBlock(
                channels, layer, width=width, slope=negative_slope(size), dropout=dropout
            )
            channels, side = block.out_channels, layer.out_size(side)
            layers.append(block)
        layers.append(convolution(channels, Conv(latent_dim, side), latent_dim, bias=True))
        self.layers = Column(*layers)
        self.norm = nn.LayerNorm(latent_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return the latents (B, latent_dim) of images (B, channels, size, size) in [0, 1]."""
        z: Tensor = self.norm(self.layers(x).flatten(1))
        return z
