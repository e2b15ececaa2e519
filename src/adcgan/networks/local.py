"""Fully convolutional networks that judge every location of an image of any size.

E and G restore an image through a narrow code. The critic sees the image and its restoration and
outputs a local map C_ψ, with one feature vector and one verdict per location.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adcgan.networks.blocks import scaled

SLOPE = 0.1
# Channels at strides 2, 4, 8 and 16 at width 1.
STAGES = (24, 48, 96, 96)
# Strides in pixels of the verdicts and of the features.
VERDICT_STRIDE, FEATURE_STRIDE = 4, 8
# Images and their tiles start at multiples of the largest stride, so that their locations coincide.
LARGEST_STRIDE = 16
# Window of the local normalisation, and what is added to the standard deviation within it.
WINDOW, FLOOR = 31, 0.03


def _block(in_channels: int, channels: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    """Build a block of convolution, BatchNorm and LeakyReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(channels),
        nn.LeakyReLU(SLOPE, inplace=True),
    )


def upsampled(maps: Tensor, factor: int, like: Tensor) -> Tensor:
    """Upsample maps (B, C, h, w) by `factor`, cropped to the height and width of `like`.

    A factor is used instead of a target size, which would shift locations depending on the size.
    """
    larger = F.interpolate(maps, scale_factor=factor, mode="bilinear", align_corners=False)
    return larger[:, :, : like.shape[2], : like.shape[3]]


class LocalEncoder(nn.Sequential):
    """E: from images (B, C, H, W) to a code (B, `code`, ⌈H/8⌉, ⌈W/8⌉).

    Parameters
    ----------
    channels : int
        Channels of the images.
    code : int
        Channels of the code.
    width : float
        Factor on the hidden widths.
    """

    def __init__(self, channels: int, code: int, *, width: float) -> None:
        first, second, third = (scaled(n, width) for n in (16, 32, 64))
        super().__init__(
            _block(channels, first, 2),
            _block(first, second, 2),
            _block(second, third, 2),
            _block(third, third),
            nn.Conv2d(third, code, 1),
        )


class LocalGenerator(nn.Sequential):
    """G: from a code (B, `code`, h, w) to unclamped images (B, C, 8h, 8w).

    The parameters are as for `LocalEncoder`.
    """

    def __init__(self, channels: int, code: int, *, width: float) -> None:
        first, second, third = (scaled(n, width) for n in (64, 32, 16))
        super().__init__(
            _block(code, first),
            nn.Upsample(scale_factor=2),
            _block(first, second),
            nn.Upsample(scale_factor=2),
            _block(second, third),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(third, channels, 3, padding=1),
        )


class RealismCritic(nn.Sequential):
    """The adversary of G: from images (B, C, H, W) to patch logits (B, 1, ⌊H/4⌋, ⌊W/4⌋)."""

    def __init__(self, channels: int, *, width: float) -> None:
        first, second, third = (scaled(n, width) for n in (16, 32, 32))
        super().__init__(
            nn.Conv2d(channels, first, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(first, second, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(second, third, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(third, 1, 1),
        )


class LocalCritic(nn.Module):
    """The critic: from an image and its restoration to a verdict and features per location.

    A U-Net from stride 2 to 16 and back to 4, with a receptive field of about 150 pixels.

    Parameters
    ----------
    channels : int
        Channels of the images.
    restored : bool
        Whether the critic sees a restoration.
    width : float
        Factor on the hidden widths.

    Attributes
    ----------
    features : int
        Length of a feature vector.
    """

    def __init__(self, channels: int, *, restored: bool, width: float) -> None:
        super().__init__()
        first, second, third, fourth = (scaled(n, width) for n in STAGES)
        self.restored, self.features = restored, second
        seen = channels * (4 if restored else 2)
        self.stage1 = nn.Sequential(_block(seen, first, 2), _block(first, first))
        self.stage2 = nn.Sequential(_block(first, second, 2), _block(second, second))
        self.stage3 = nn.Sequential(_block(second, third, 2), _block(third, third))
        self.stage4 = nn.Sequential(_block(third, fourth, 2), _block(fourth, fourth))
        self.back3 = _block(third + fourth, third, kernel=1)
        self.back2 = nn.Sequential(_block(second + third, second, kernel=1), _block(second, second))
        self.verdict = nn.Conv2d(second, 1, 1)
        # Defects are rare: an untrained critic considers a location normal with probability 0.95.
        self.verdict.bias = nn.Parameter(torch.tensor([-3.0]))

    def forward(self, x: Tensor, x_hat: Tensor | None) -> tuple[Tensor, Tensor]:
        """Judge every location.

        Parameters
        ----------
        x : Tensor of shape (B, C, H, W)
            Images in [0, 1], with sides of at least 16 pixels.
        x_hat : Tensor of shape (B, C, H, W) or None
            Restorations by E and G, if `restored`.

        Returns
        -------
        logits : Tensor of shape (B, 1, ⌈H/4⌉, ⌈W/4⌉)
            Logits of a defect.
        local : Tensor of shape (B, `features`, ⌈H/4⌉, ⌈W/4⌉)
            Local features C_ψ.
        """
        seen = [x, locally_normalised(x)]
        if x_hat is not None:
            seen += [x_hat, x - x_hat]
        assert self.restored == (x_hat is not None)
        s2 = self.stage1(torch.cat(seen, 1))
        s4 = self.stage2(s2)
        s8 = self.stage3(s4)
        s16 = self.stage4(s8)
        s8 = self.back3(torch.cat([s8, upsampled(s16, 2, s8)], 1))
        local = self.back2(torch.cat([s4, upsampled(s8, 2, s4)], 1))
        return self.verdict(local), local


def locally_normalised(x: Tensor) -> Tensor:
    """Standardise images by the local mean and standard deviation; clamped to −5 to 5."""
    reach = WINDOW // 2
    # Use float64: otherwise, small variances would be dominated by the rounding of two squares.
    # Images are reflected at the border.
    padded = F.pad(x.double(), [reach] * 4, mode="reflect")
    mean = _box_mean(padded)
    variance = _box_mean(padded.square()) - mean.square()
    normalised = (x - mean) / (variance.clamp(min=0).sqrt() + FLOOR)
    return normalised.clamp(-5, 5).float()


def _box_mean(x: Tensor) -> Tensor:
    """Return the mean of x (B, C, H, W) over each window, computed along one axis at a time."""
    for dim in (2, 3):
        sums = F.pad(x.cumsum(dim), [0, 0, 1, 0] if dim == 2 else [1, 0])
        n = sums.shape[dim]
        x = (sums.narrow(dim, WINDOW, n - WINDOW) - sums.narrow(dim, 0, n - WINDOW)) / WINDOW
    return x
