"""Pixel baselines: scikit-learn's detectors on raw pixels. What a sceptic tries first.

They compute in float64 and have no networks: `fit` hands the training images to scikit-learn, a
score is what scikit-learn says. Nothing is pickled: a model stores arrays.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from adcgan.data.prepare import Split
from adcgan.detectors.base import Components, Detector, Shape
from adcgan.detectors.heatmaps import smoothed
from adcgan.detectors.parameters import Rule, whole
from adcgan.training import Session

WHITE = 255


def _rows(x: Tensor) -> NDArray[np.float64]:
    """Return pixel values 0 to 255 (B, pixels) of images (B, C, H, W) in [0, 1]."""
    rows: NDArray[np.float64] = (x.flatten(1).double() * WHITE).round().cpu().numpy()
    return rows


def _training_rows(images: NDArray[np.uint8], split: Split) -> NDArray[np.uint8]:
    """Return the training images as rows (n, pixels)."""
    return images[split.train].reshape(len(split.train), -1)


class PixelPCA(Detector):
    """Mean squared error left by principal components of the pixels.

    Parameters
    ----------
    image_size, resize, validation_fraction, fpr, contamination, device, random_state
        As for `ADCGAN`; `device` changes nothing here.
    n_components : int
        Principal components kept; fewer if there are fewer pixels or training images.
    """

    rules: ClassVar[dict[str, Rule]] = {"n_components": whole(1)}

    def __init__(
        self,
        *,
        image_size: int | None = None,
        resize: str = "squash",
        n_components: int = 64,
        validation_fraction: float = 0.1,
        fpr: float = 0.01,
        contamination: float | None = None,
        device: str = "auto",
        random_state: int = 0,
    ) -> None:
        self.image_size = image_size
        self.resize = resize
        self.n_components = n_components
        self.validation_fraction = validation_fraction
        self.fpr = fpr
        self.contamination = contamination
        self.device = device
        self.random_state = random_state

    def _build(self, shape: Shape) -> None:  # noqa: ARG002
        self.mean_ = self.components_ = np.empty(0)

    def _learn(
        self,
        images: NDArray[np.uint8],
        split: Split,
        session: Session,  # noqa: ARG002
    ) -> None:
        rows = _training_rows(images, split) / WHITE
        pca = PCA(min(self.n_components, *rows.shape), random_state=self.random_state).fit(rows)
        self.mean_, self.components_ = pca.mean_, pca.components_

    def _project(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return rows in [0, 1] (B, pixels) projected on the components."""
        projected: NDArray[np.float64] = (
            rows - self.mean_
        ) @ self.components_.T @ self.components_ + self.mean_
        return projected

    def _component_batch(self, x: Tensor) -> dict[str, Tensor]:
        rows = _rows(x) / WHITE
        error = np.square(rows - self._project(rows)).mean(1)
        return {"residual": torch.from_numpy(error)}

    def _combine(self, components: Components) -> NDArray[np.float64]:
        return components["residual"]

    def _reconstruct_batch(self, x: Tensor) -> Tensor:
        """Return projections; what lies outside [0, 1] is cut off."""
        projected = torch.from_numpy(self._project(_rows(x) / WHITE))
        return projected.clamp(0, 1).float().reshape(x.shape)

    def _map_batch(self, x: Tensor) -> Tensor:
        rows = _rows(x) / WHITE
        error = torch.from_numpy(np.square(rows - self._project(rows)))
        return smoothed(error.float().reshape(x.shape).sum(1))

    def _state(self) -> dict[str, Tensor]:
        return {"mean": torch.tensor(self.mean_), "components": torch.tensor(self.components_)}

    def _set_state(self, state: dict[str, Tensor]) -> None:
        self.mean_, self.components_ = state["mean"].numpy(), state["components"].numpy()


class PixelKNN(Detector):
    """Euclidean distance to the k-th nearest training image, pixels in [0, 1].

    Parameters
    ----------
    image_size, resize, validation_fraction, fpr, contamination, device, random_state
        As for `ADCGAN`; `device` changes nothing here.
    n_neighbors : int
        k; fewer if there are fewer training images.
    """

    rules: ClassVar[dict[str, Rule]] = {"n_neighbors": whole(1)}

    def __init__(
        self,
        *,
        image_size: int | None = None,
        resize: str = "squash",
        n_neighbors: int = 5,
        validation_fraction: float = 0.1,
        fpr: float = 0.01,
        contamination: float | None = None,
        device: str = "auto",
        random_state: int = 0,
    ) -> None:
        self.image_size = image_size
        self.resize = resize
        self.n_neighbors = n_neighbors
        self.validation_fraction = validation_fraction
        self.fpr = fpr
        self.contamination = contamination
        self.device = device
        self.random_state = random_state

    def _build(self, shape: Shape) -> None:
        self.training_pixels_ = np.empty((0, int(np.prod(shape))), dtype=np.uint8)

    def _learn(
        self,
        images: NDArray[np.uint8],
        split: Split,
        session: Session,  # noqa: ARG002
    ) -> None:
        self._index(_training_rows(images, split))

    def _index(self, pixels: NDArray[np.uint8]) -> None:
        """Make `pixels` (n, pixels) the images that others are compared with."""
        self.training_pixels_ = pixels
        # Whole numbers in float64 make every squared distance exact, so that a score does not
        # depend on how scikit-learn blocks its matrix products.
        search = NearestNeighbors(n_neighbors=min(self.n_neighbors, len(pixels)), algorithm="brute")
        self.neighbors_ = search.fit(pixels.astype(np.float64))

    def _component_batch(self, x: Tensor) -> dict[str, Tensor]:
        distances, _ = self.neighbors_.kneighbors(_rows(x))
        return {"distance": torch.from_numpy(distances[:, -1] / WHITE)}

    def _combine(self, components: Components) -> NDArray[np.float64]:
        return components["distance"]

    def _state(self) -> dict[str, Tensor]:
        return {"training_pixels": torch.tensor(self.training_pixels_)}

    def _set_state(self, state: dict[str, Tensor]) -> None:
        self._index(state["training_pixels"].numpy())


class PixelIsolationForest(Detector):
    """Isolation forest on raw pixels.

    A model stores its training pixels and grows the same forest from them and `random_state` when
    it is loaded.

    Parameters
    ----------
    image_size, resize, validation_fraction, fpr, contamination, device, random_state
        As for `ADCGAN`; `device` changes nothing here.
    n_estimators : int
        Trees.
    """

    rules: ClassVar[dict[str, Rule]] = {"n_estimators": whole(1)}

    def __init__(
        self,
        *,
        image_size: int | None = None,
        resize: str = "squash",
        n_estimators: int = 100,
        validation_fraction: float = 0.1,
        fpr: float = 0.01,
        contamination: float | None = None,
        device: str = "auto",
        random_state: int = 0,
    ) -> None:
        self.image_size = image_size
        self.resize = resize
        self.n_estimators = n_estimators
        self.validation_fraction = validation_fraction
        self.fpr = fpr
        self.contamination = contamination
        self.device = device
        self.random_state = random_state

    def _build(self, shape: Shape) -> None:
        self.training_pixels_ = np.empty((0, int(np.prod(shape))), dtype=np.uint8)

    def _learn(
        self,
        images: NDArray[np.uint8],
        split: Split,
        session: Session,  # noqa: ARG002
    ) -> None:
        self._grow(_training_rows(images, split))

    def _grow(self, pixels: NDArray[np.uint8]) -> None:
        """Grow the forest on `pixels` (n, pixels)."""
        self.training_pixels_ = pixels
        forest = IsolationForest(n_estimators=self.n_estimators, random_state=self.random_state)
        self.forest_ = forest.fit(pixels.astype(np.float64))

    def _component_batch(self, x: Tensor) -> dict[str, Tensor]:
        return {"isolation": torch.from_numpy(-self.forest_.score_samples(_rows(x)))}

    def _combine(self, components: Components) -> NDArray[np.float64]:
        return components["isolation"]

    def _state(self) -> dict[str, Tensor]:
        return {"training_pixels": torch.tensor(self.training_pixels_)}

    def _set_state(self, state: dict[str, Tensor]) -> None:
        self._grow(state["training_pixels"].numpy())
