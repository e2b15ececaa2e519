"""Fully convolutional networks that judge every place of an image of any size.

E and G restore an image through a narrow code; the critic sees the image beside what they made of
it, and has a local map C_ψ with one feature vector and one verdict for each place.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adcgan.networks.blocks import scaled

SLOPE = 0.1
# Channels at strides 2, 4, 8 and 16 at width 1.
STAGES = (24, 48, 96, 96)
# Pixels from one place to the next, of the verdicts and of the features.
VERDICT_STRIDE, FEATURE_STRIDE = 4, 8
# Whole images and their tiles begin at multiples of the largest stride, so that places agree.
LARGEST_STRIDE = 16
# The window of local normalisation, and what it adds to the deviation within it.
WINDOW, FLOOR = 31, 0.03


def _block(in_channels: int, channels: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    """Return convolution, BatchNorm and LeakyReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(channels),
        nn.LeakyReLU(SLOPE, inplace=True),
    )


def upsampled(maps: Tensor, factor: int, like: Tensor) -> Tensor:
    """Return maps (B, C, h, w) `factor` times as large, cut to the height and width of `like`.

    By a factor, not to a size: else the places of an image's map would move with its size.
    """
    larger = F.interpolate(maps, scale_factor=factor, mode="bilinear", align_corners=False)
    return larger[:, :, : like.shape[2], : like.shape[3]]


class LocalEncoder(nn.Sequential):
    """E: images (B, C, H, W) to a code (B, `code`, ⌈H/8⌉, ⌈W/8⌉).

    Parameters
    ----------
    channels : int
        Of the images.
    code : int
        Numbers that each place of the code has.
    width : float
        Scale of the hidden widths.
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
    """G: a code (B, `code`, h, w) to images (B, C, 8h, 8w), not bounded.

    Parameters as for `LocalEncoder`.
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
    """The adversary of G: images (B, C, H, W) to a logit for each patch, (B, 1, ⌊H/4⌋, ⌊W/4⌋)."""

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
    """The critic: an image and its restoration to a verdict and features for each place.

    A U-Net from stride 2 to 16 and back to 4, with a field of view of about 150 pixels.

    Parameters
    ----------
    channels : int
        Of the images.
    restored : bool
        Whether a restoration is given.
    width : float
        Scale of the hidden widths.

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
        # Defects are rare: before anything is learned, a place is normal with probability 0.95.
        self.verdict.bias = nn.Parameter(torch.tensor([-3.0]))

    def forward(self, x: Tensor, x_hat: Tensor | None) -> tuple[Tensor, Tensor]:
        """Judge every place.

        Parameters
        ----------
        x : Tensor of shape (B, C, H, W)
            Images in [0, 1], of at least 16 pixels a side.
        x_hat : Tensor of shape (B, C, H, W) or None
            What E and G make of them, if `restored`.

        Returns
        -------
        logits : Tensor of shape (B, 1, ⌈H/4⌉, ⌈W/4⌉)
            Of a defect.
        local : Tensor of shape (B, `features`, ⌈H/4⌉, ⌈W/4⌉)
            C_ψ.
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
    """Return images less the mean around each pixel, divided by the deviation there; −5 to 5."""
    reach = WINDOW // 2
    # In float64: else the variance of what hardly varies would be the rounding of two squares.
    # Beyond the border an image goes on as its mirror image.
    padded = F.pad(x.double(), [reach] * 4, mode="reflect")
    mean = _box_mean(padded)
    variance = _box_mean(padded.square()) - mean.square()
    normalised = (x - mean) / (variance.clamp(min=0).sqrt() + FLOOR)
    return normalised.clamp(-5, 5).float()


def _box_mean(x: Tensor) -> Tensor:
    """Return the mean of x (B, C, H, W) over each window, along one side and then the other."""
    for dim in (2, 3):
        sums = F.pad(x.cumsum(dim), [0, 0, 1, 0] if dim == 2 else [1, 0])
        n = sums.shape[dim]
        x = (sums.narrow(dim, WINDOW, n - WINDOW) - sums.narrow(dim, 0, n - WINDOW)) / WINDOW
    return x
