"""Stacks of convolutions that halve images down and double latents up, for 16 to 256 px.

The published networks of the baselines are given for one image size. One rule takes them to the
others. A network of d halvings at its own size keeps at least d; from there on each doubling of
the side adds a layer next to the image, with half the channels of the published layer there. The
generator starts from a map of side ⌈size / 2ʰ⌉ and what stands over the right and lower border
after h doublings is cut off.
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
    """Return how often images of side `size` are halved: down to a side of 4 to 7, or `least`."""
    return max(least, (size // 4).bit_length() - 1)


def channels_for(size: int, published: Sequence[int], width: float) -> list[int]:
    """Return the channels of each halving, from the image inwards, scaled by `width`."""
    added = halvings(size, len(published)) - len(published)
    return [scaled(c, width) for c in [published[0] // 2] * added + list(published)]


def normal(layer: Weighted, std: float) -> Weighted:
    """Return `layer` with weights drawn from N(0, std²) and no bias to start with."""
    nn.init.normal_(layer.weight, 0.0, std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def signed(x: Tensor) -> Tensor:
    """Return images in [0, 1] on the scale [−1, 1] of networks that end in tanh."""
    return 2 * x - 1


def unsigned(x: Tensor) -> Tensor:
    """Return images in [−1, 1] on the scale [0, 1]."""
    return (x + 1) / 2


class Down(nn.Sequential):
    """Convolutions of stride 2, each with LeakyReLU, ended by flattening.

    Parameters
    ----------
    in_channels, size : int
        Channels and side of the input.
    channels : sequence of int
        Of each convolution.
    kernel : int
        3, 4 or 5; the padding makes each layer halve the side (4 rounds down, 3 and 5 up).
    std : float
        Of the initial weights.
    norm : {"none", "later", "all"}
        Where there is batch normalisation; "later": in all layers but the first.
    slope : float
        Of LeakyReLU.
    spectral : bool
        Whether the convolutions are spectrally normalised.
    dropout : float
        After each layer.

    Attributes
    ----------
    side, out_channels, features : int
        Of the last map, and its entries (out_channels · side²).
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
    """Transposed convolutions of stride 2 with BatchNorm and ReLU, ended by tanh.

    The first layer makes the smallest map of the latent; it is a dense layer written as a
    transposed convolution.

    Parameters
    ----------
    channels, size : int
        Channels and side of the images made.
    latent_dim : int
        Size z of the latent.
    hidden : sequence of int
        Channels of the maps, from the latent outwards: one for each doubling.
    kernel : int
        3 or 4; each layer doubles the side.
    std : float
        Of the initial weights.
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
        """Return images (B, channels, size, size) in [−1, 1] made of latents (B, latent_dim)."""
        x: Tensor = self.layers(z[:, :, None, None])[..., : self.size, : self.size]
        return x.tanh()
