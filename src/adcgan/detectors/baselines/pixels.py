"""Pixel baselines: scikit-learn's detectors on raw pixels, a sceptic's first choice.

They run in float64 on the CPU and have no networks: scikit-learn fits the training images and
computes the scores. Models store arrays and pickle nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from adcgan.data.prepare import Split
from adcgan.data.ragged import Images
from adcgan.detectors.anomaly_map import smoothed
from adcgan.detectors.base import Detector
from adcgan.detectors.model import Model
from adcgan.detectors.settings import setting, whole
from adcgan.progress import Progress
from adcgan.scoring import Components, Scored, Shape

WHITE = 255
NEIGHBOURS = "it compares each image with every training image"


def _rows(x: Tensor) -> NDArray[np.float64]:
    """Return pixel values 0 to 255 (B, pixels) of images (B, C, H, W) in [0, 1]."""
    rows: NDArray[np.float64] = (x.flatten(1).double() * WHITE).round().numpy()
    return rows


def _training_rows(images: Images, split: Split) -> NDArray[np.uint8]:
    """Return the training images, all of one size, as rows (n, pixels)."""
    assert isinstance(images, np.ndarray)
    return images[split.train].reshape(len(split.train), -1)


class PixelPCA(Detector):
    """Mean squared error of a projection on the pixels' principal components."""

    name: ClassVar[str] = "pixel-pca"
    candidate: ClassVar[bool] = True
    on_cpu: ClassVar[bool] = True
    not_exported: ClassVar[str] = "it computes in float64 and has no network"

    n_components: int = setting(
        64, whole(1), "Principal components to keep; fewer if there are fewer pixels or images."
    )

    def make_model(self, shape: Shape) -> PixelPCAModel:
        """Return an unfitted projection."""
        return PixelPCAModel(self, shape)


class PixelPCAModel(Model):
    """Principal components of pixels in [0, 1]."""

    mean: Tensor  # (pixels,) float64
    components: Tensor  # (n_components, pixels) float64

    def __init__(self, settings: PixelPCA, shape: Shape) -> None:
        super().__init__(shape)
        self.settings = settings
        for name in ("mean", "components"):
            self.register_buffer(name, torch.empty(0, dtype=torch.float64))

    def forward(self, x: Tensor) -> Scored[Tensor]:
        """Return the mean squared error, its map and the projection, clipped to [0, 1]."""
        rows = torch.from_numpy(_rows(x)) / WHITE
        projected = (rows - self.mean) @ self.components.T @ self.components + self.mean
        error = (rows - projected).square()
        heat = smoothed(error.float().reshape(x.shape).sum(1))
        return Scored(
            {"residual": error.mean(1)}, heat, projected.clamp(0, 1).float().reshape(x.shape)
        )

    def combine(self, components: Components) -> NDArray[np.float64]:
        """Return the residual."""
        return components["residual"]

    def learn(self, images: Images, split: Split, progress: Progress) -> None:
        """Find the principal components."""
        del progress
        rows = _training_rows(images, split) / WHITE
        n_components = min(self.settings.n_components, *rows.shape)
        pca = PCA(n_components, random_state=self.settings.random_state).fit(rows)
        self.mean = torch.tensor(pca.mean_)
        # Use the layout of a loaded model, so that scores are computed in the same order.
        self.components = torch.tensor(pca.components_).contiguous()


class PixelKNN(Detector):
    """Euclidean distance to the k-th nearest training image, with pixels in [0, 1]."""

    name: ClassVar[str] = "pixel-knn"
    candidate: ClassVar[bool] = True
    on_cpu: ClassVar[bool] = True
    not_exported: ClassVar[str] = NEIGHBOURS

    n_neighbors: int = setting(
        5, whole(1), "Rank k of the neighbour; less if there are fewer training images."
    )

    def make_model(self, shape: Shape) -> PixelKNNModel:
        """Return a nearest-neighbour search without images."""
        return PixelKNNModel(self, shape)


class PixelKNNModel(Model):
    """A nearest-neighbour search in the training pixels."""

    training_pixels: Tensor  # (n, pixels) uint8

    def __init__(self, settings: PixelKNN, shape: Shape) -> None:
        super().__init__(shape)
        self.settings = settings
        self.register_buffer("training_pixels", torch.empty(0, dtype=torch.uint8))

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore the training pixels."""
        super().restore(state)
        self.index()

    def index(self) -> None:
        """Build the search from the training pixels."""
        # Integers in float64 make every squared distance exact, so scores do not depend on how
        # scikit-learn blocks its matrix products.
        pixels = self.training_pixels.double().numpy()
        n_neighbors = min(self.settings.n_neighbors, len(pixels))
        self.neighbors = NearestNeighbors(n_neighbors=n_neighbors, algorithm="brute").fit(pixels)

    def forward(self, x: Tensor) -> Scored[Tensor]:
        """Return the distance."""
        distances, _ = self.neighbors.kneighbors(_rows(x))
        return Scored({"distance": torch.from_numpy(distances[:, -1] / WHITE)})

    def combine(self, components: Components) -> NDArray[np.float64]:
        """Return the distance."""
        return components["distance"]

    def learn(self, images: Images, split: Split, progress: Progress) -> None:
        """Store the training pixels."""
        del progress
        self.training_pixels = torch.from_numpy(_training_rows(images, split))
        self.index()


class PixelIsolationForest(Detector):
    """Isolation forest on raw pixels."""

    name: ClassVar[str] = "pixel-iforest"
    on_cpu: ClassVar[bool] = True
    not_exported: ClassVar[str] = "its trees are scikit-learn's, not a network"

    n_estimators: int = setting(100, whole(1), "Trees.")

    def make_model(self, shape: Shape) -> PixelIsolationForestModel:
        """Return an empty forest."""
        return PixelIsolationForestModel(self, shape)


class PixelIsolationForestModel(Model):
    """A forest that is regrown from the training pixels and the seed when it is loaded."""

    training_pixels: Tensor  # (n, pixels) uint8

    def __init__(self, settings: PixelIsolationForest, shape: Shape) -> None:
        super().__init__(shape)
        self.settings = settings
        self.register_buffer("training_pixels", torch.empty(0, dtype=torch.uint8))

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore the training pixels."""
        super().restore(state)
        self.grow()

    def grow(self) -> None:
        """Grow the forest on the training pixels."""
        settings = self.settings
        forest = IsolationForest(
            n_estimators=settings.n_estimators, random_state=settings.random_state
        )
        self.forest = forest.fit(self.training_pixels.double().numpy())

    def forward(self, x: Tensor) -> Scored[Tensor]:
        """Return the isolation score: higher for images that fewer splits isolate."""
        return Scored({"isolation": torch.from_numpy(-self.forest.score_samples(_rows(x)))})

    def combine(self, components: Components) -> NDArray[np.float64]:
        """Return the isolation score."""
        return components["isolation"]

    def learn(self, images: Images, split: Split, progress: Progress) -> None:
        """Store the training pixels and grow the forest."""
        del progress
        self.training_pixels = torch.from_numpy(_training_rows(images, split))
        self.grow()
