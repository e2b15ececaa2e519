"""A Gaussian over small pixel patches: a sceptic's first baseline for photographs.

All patches of the training images are treated as samples of one Gaussian, wherever they are. The
distance of a patch from it is a convolution and a sum of squares, at the image's original size.
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

# Side, in pixels of the shrunk image, of the neighbourhood over which mean and contrast are
# normalised, and what is added to the contrast (for pixels in [0, 1]) so that noise on flat
# surfaces stays small.
SURROUNDINGS, LEAST_CONTRAST = 25, 0.02
# Added to each component's variance, at a contrast of 1, so that rounding is not an anomaly.
LEAST_VARIANCE = 1e-3
# Side of the window over which distances are averaged.
AVERAGED = 5
# Maximum number of patches for fitting the Gaussian.
PATCHES = 100_000


class PatchPCA(Detector):
    """Mahalanobis distance of small pixel patches from those of normal images."""

    name: ClassVar[str] = "patch-pca"
    candidate: ClassVar[bool] = True

    image_size: int | None = longest_side_setting()
    resize: str = resize_setting()
    patch_size: int = setting(8, whole(2, 16), "Side of a patch in pixels of the shrunk image.")
    shrink: int = setting(
        4,
        whole(1, 16),
        "Factor by which images are shrunk, by averaging, before patches are taken.",
    )
    peak_share: float = peak_share_setting(0.01)

    def make_model(self, shape: Shape) -> PatchPCAModel:
        """Return an unfitted Gaussian for images like `shape` (C, H, W)."""
        return PatchPCAModel(self, shape)


class PatchPCAModel(Model):
    """Principal components of patches, each divided by its standard deviation."""

    weight: Tensor  # (C · p², C, p, p) float32: one component each
    bias: Tensor  # (C · p²,) float32: minus the response to the mean patch

    def __init__(self, settings: PatchPCA, shape: Shape) -> None:
        super().__init__(shape)
        self.settings = settings
        side, n = settings.patch_size, shape[0] * settings.patch_size**2
        self.register_buffer("weight", torch.zeros(n, shape[0], side, side))
        self.register_buffer("bias", torch.zeros(n))

    def prepared(self, x: Tensor) -> Tensor:
        """Shrink images (B, C, H, W), normalise their brightness and contrast, and pad them.

        Padding repeats the border pixels, so that every pixel of the shrunk image has a patch.
        """
        settings = self.settings
        small = F.avg_pool2d(x, settings.shrink, ceil_mode=True, count_include_pad=False)
        # Subtracting the mean first keeps more digits; sums over a flat image are then exact.
        small = small - small.mean((2, 3), keepdim=True)
        apart = small - around(small)
        even = apart / (around(apart.square()).sqrt() + LEAST_CONTRAST)
        before = (settings.patch_size - 1) // 2
        after = settings.patch_size - 1 - before
        return F.pad(even, (before, after, before, after), mode="replicate")

    def forward(self, x: Tensor) -> Scored[Tensor]:
        """Return the mean of the largest distances and the map of distances."""
        whitened = F.conv2d(self.prepared(x), self.weight, self.bias)
        distance = whitened.square().sum(1, keepdim=True).sqrt()
        pooled = F.avg_pool2d(distance, AVERAGED, 1, AVERAGED // 2, count_include_pad=False)
        heat, shrink = pooled[:, 0], self.settings.shrink
        # The centre of an even-sized patch is half a pixel beyond the pixel that it belongs to.
        first = (shrink - 1) / 2 + (1 - self.settings.patch_size % 2) * shrink / 2
        maps = enlarged(heat, x.shape[2], x.shape[3], shrink, first)
        return Scored({"peak": mean_of_largest(heat, self.settings.peak_share)}, maps)

    def combine(self, components: Components) -> NDArray[np.float64]:
        """Return the mean of the largest distances."""
        return components["peak"]

    def learn(self, images: Images, split: Split, progress: Progress) -> None:
        """Fit the Gaussian to equally many patches of each training image."""
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
    """Return the mean of each pixel's neighbourhood in images (B, C, H, W)."""
    reach = SURROUNDINGS // 2
    return F.avg_pool2d(F.pad(x, (reach,) * 4, mode="replicate"), SURROUNDINGS, 1)
