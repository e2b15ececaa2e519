"""A Gaussian over small patches of pixels: what a sceptic tries first on photographs.

All patches of the training images are taken for draws from one Gaussian, wherever they lie. How far
a patch is from it is a convolution and a sum of squares, at the photograph's own size.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from adcgan.data.prepare import Split
from adcgan.data.ragged import Images
from adcgan.detectors.anomaly_map import enlarged, mean_of_largest
from adcgan.detectors.base import Detector
from adcgan.detectors.density import gaussian_whitening
from adcgan.detectors.model import Model
from adcgan.detectors.settings import (
    longest_side_setting,
    peak_share_setting,
    resize_setting,
    setting,
    whole,
)
from adcgan.progress import Progress
from adcgan.scoring import Components, Scored, Shape

# The surroundings, in pixels of the shrunk image, whose mean and contrast each pixel is put on, and
# what is added to the contrast, of pixels in [0, 1], so that noise on a flat surface stays small.
SURROUNDINGS, LEAST_CONTRAST = 25, 0.02
# Added to the variance of each component, on the scale of a contrast of 1: rounding is no anomaly.
LEAST_VARIANCE = 1e-3
# Distances are averaged over so many places each way.
AVERAGED = 5
# Patches that the Gaussian is fitted to, at most.
PATCHES = 100_000


class PatchPCA(Detector):
    """Mahalanobis distance of small patches of pixels from those of normal images."""

    name: ClassVar[str] = "patch-pca"
    candidate: ClassVar[bool] = True

    image_size: int | None = longest_side_setting()
    resize: str = resize_setting()
    patch_size: int = setting(8, whole(2, 16), "Side of a patch, in pixels of the shrunk image.")
    shrink: int = setting(
        4, whole(1, 16), "Pixels, each way, whose mean is one of the shrunk image's."
    )
    peak_share: float = peak_share_setting(0.01)

    def make_model(self, shape: Shape) -> PatchPCAModel:
        """Return a Gaussian yet to be fitted, for images like `shape` (C, H, W)."""
        return PatchPCAModel(self, shape)


class PatchPCAModel(Model):
    """Principal components of patches, each divided by its standard deviation."""

    weight: Tensor  # (C · p², C, p, p) float32: a component each
    bias: Tensor  # (C · p²,) float32: less what the mean patch gives

    def __init__(self, settings: PatchPCA, shape: Shape) -> None:
        super().__init__(shape)
        self.settings = settings
        side, n = settings.patch_size, shape[0] * settings.patch_size**2
        self.register_buffer("weight", torch.zeros(n, shape[0], side, side))
        self.register_buffer("bias", torch.zeros(n))

    def prepared(self, x: Tensor) -> Tensor:
        """Return images (B, C, H, W) shrunk, of one brightness and contrast, with room for patches.

        They are continued by their first and last rows and columns, so that each pixel of the
        shrunk image has a patch.
        """
        settings = self.settings
        small = F.avg_pool2d(x, settings.shrink, ceil_mode=True, count_include_pad=False)
        # Sums of differences from the mean are of more digits, those of a flat image exact.
        small = small - small.mean((2, 3), keepdim=True)
        apart = small - around(small)
        even = apart / (around(apart.square()).sqrt() + LEAST_CONTRAST)
        before = (settings.patch_size - 1) // 2
        after = settings.patch_size - 1 - before
        return F.pad(even, (before, after, before, after), mode="replicate")

    def forward(self, x: Tensor) -> Scored[Tensor]:
        """Return the mean of the largest distances, and where they are."""
        whitened = F.conv2d(self.prepared(x), self.weight, self.bias)
        distance = whitened.square().sum(1, keepdim=True).sqrt()
        pooled = F.avg_pool2d(distance, AVERAGED, 1, AVERAGED // 2, count_include_pad=False)
        heat, shrink = pooled[:, 0], self.settings.shrink
        # The middle of an even patch is half a pixel behind the one that it stands for.
        first = (shrink - 1) / 2 + (1 - self.settings.patch_size % 2) * shrink / 2
        maps = enlarged(heat, x.shape[2], x.shape[3], shrink, first)
        return Scored({"peak": mean_of_largest(heat, self.settings.peak_share)}, maps)

    def combine(self, components: Components) -> NDArray[np.float64]:
        """Return the mean of the largest distances."""
        return components["peak"]

    def learn(self, images: Images, split: Split, progress: Progress) -> None:
        """Fit the Gaussian to as many patches of each training image."""
        rng = torch.Generator().manual_seed(self.settings.random_state)
        share = -(-PATCHES // len(split.train))
        kept = []
        for x in self.batches(images, split.train, progress):
            for image in self.prepared(x):
                patches = F.unfold(image[None], self.settings.patch_size)[0].T
                some = torch.randperm(len(patches), generator=rng)[:share]
                kept.append(patches[some.to(patches.device)].cpu())
        mean, whitening = gaussian_whitening(torch.cat(kept).numpy())
        whitening = whitening / (1 + LEAST_VARIANCE * whitening.square().sum(0)).sqrt()
        self.weight = whitening.T.reshape(self.weight.shape).contiguous().to(self.device)
        self.bias = -(mean.double() @ whitening.double()).float().to(self.device)


def around(x: Tensor) -> Tensor:
    """Return the mean of each pixel's surroundings in images (B, C, H, W)."""
    reach = SURROUNDINGS // 2
    return F.avg_pool2d(F.pad(x, (reach,) * 4, mode="replicate"), SURROUNDINGS, 1)
