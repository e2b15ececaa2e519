"""Stacks of strided convolutions that downsample images and upsample latents, 16 to 256 px.

The baselines' networks are published for one image size. One rule extends them to other sizes. A
network with d halvings at its published size keeps at least d. For larger images, each doubling of
the side adds a layer next to the image, with half the channels of the published layer there. The
generator starts from a map of side ⌈size / 2ʰ⌉; after h doublings, the excess at the right and
lower borders is cropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

from torch import Tensor, nn

from adcgan.networks.blocks import scaled
from adcgan.networks.layers import Dropout
from adcgan.networks.spectral import spectral_norm

Norm = Literal["none", "later", "all"]
Weighted = TypeVar("Weighted", nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def halvings(size: int, least: int = 3) -> int:
    """Return how often to halve images of side `size`: down to 4 to 7 px, but at least `least`."""
    return max(least, (size // 4).bit_length() - 1)


def channels_for(size: int, published: Sequence[int], width: float) -> list[int]:
    """Return the channels of each halving, from the image inwards, multiplied by `width`."""
    added = halvings(size, len(published)) - len(published)
    return [scaled(c, width) for c in [published[0] // 2] * added + list(published)]


def normal(layer: Weighted, std: float) -> Weighted:
    """Initialise `layer` with weights from N(0, std²) and zero bias."""
    nn.init.normal_(layer.weight, 0.0, std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def signed(x: Tensor) -> Tensor:
    """Convert images from [0, 1] to [−1, 1], the range of networks that end in tanh."""
    return 2 * x - 1


def unsigned(x: Tensor) -> Tensor:
    """Convert images from [−1, 1] to [0, 1]."""
    return (x + 1) / 2


class Down(nn.Sequential):
    """Convolutions of stride 2, each with LeakyReLU, followed by flattening.

    Parameters
    ----------
    in_channels, size : int
        Channels and side of the input.
    channels : sequence of int
        Channels of each convolution.
    kernel : int
        Kernel size 3, 4 or 5; padded so that each layer halves the side (4 rounds down, 3 and 5
        round up).
    std : float
        Standard deviation of the initial weights.
    norm : {"none", "later", "all"}
        Which layers have batch normalisation; "later" means all but the first.
    slope : float
        Negative slope of LeakyReLU.
    spectral : bool
        Whether to apply spectral normalisation to the convolutions.
    dropout : float
        Dropout after each layer.

    Attributes
    ----------
    side, out_channels, features : int
        Side and channels of the last map, and its number of entries (out_channels · side²).
    """

    def __init__(
        self,
        in_channels: int,
        size: int,
        channels: Sequence[int],
        *,
        kernel: int = 4,
        std: float = 0.02,
        norm: Norm = "all",
        slope: float = 0.2,
        spectral: bool = False,
        dropout: float = 0.0,
    ) -> None:
        layers: list[nn.Module] = []
        padding = (kernel - 1) // 2
        for number, out in enumerate(channels):
            layer = normal(nn.Conv2d(in_channels, out, kernel, 2, padding), std)
            layers.append(spectral_norm(layer) if spectral else layer)
            if norm == "all" or (norm == "later" and number > 0):
                layers.append(nn.BatchNorm2d(out))
            layers.append(nn.LeakyReLU(slope, inplace=True))
            if dropout:
                layers.append(Dropout(dropout))
            in_channels, size = out, (size + 2 * padding - kernel) // 2 + 1
        super().__init__(*layers, nn.Flatten())
        self.side, self.out_channels, self.features = size, in_channels, in_channels * size**2


class Up(nn.Module):
    """Transposed convolutions of stride 2 with BatchNorm and ReLU, followed by tanh.

    The first layer turns the latent into the smallest map. It is a dense layer written as a
    transposed convolution.

    Parameters
    ----------
    channels, size : int
        Channels and side of the generated images.
    latent_dim : int
        Dimension z of the latent.
    hidden : sequence of int
        Channels of the maps, from the latent outwards, one per doubling.
    kernel : int
        Kernel size 3 or 4; each layer doubles the side.
    std : float
        Standard deviation of the initial weights.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        latent_dim: int,
        hidden: Sequence[int],
        *,
        kernel: int = 4,
        std: float = 0.02,
    ) -> None:
        super().__init__()
        self.size = size
        base = -(-size // 2 ** len(hidden))
        layers: list[nn.Module] = [normal(nn.ConvTranspose2d(latent_dim, hidden[0], base), std)]
        previous = hidden[0]
        for out in [*hidden[1:], channels]:
            layers += [nn.BatchNorm2d(previous), nn.ReLU(inplace=True)]
            doubling = nn.ConvTranspose2d(previous, out, kernel, 2, 1, output_padding=4 - kernel)
            layers.append(normal(doubling, std))
            previous = out
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """Return images (B, channels, size, size) in [−1, 1] for latents (B, latent_dim)."""
        x: Tensor = self.layers(z[:, :, None, None])[..., : self.size, : self.size]
        return x.tanh()
