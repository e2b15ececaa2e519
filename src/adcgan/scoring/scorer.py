"""What can be asked of anything that scores images, whether it computes in torch or not."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adcgan.data import ImageSet, load_images
from adcgan.data.arrays import is_array
from adcgan.errors import InputError
from adcgan.progress import Progress, silent, terminal_progress
from adcgan.scoring.assessment import Assessment, placed
from adcgan.scoring.calibration import conformal_p_values

Images = Any
Components = dict[str, NDArray[np.float64]]
Shape = tuple[int, int, int]


class Scorer(ABC):
    """Gives every image a score, higher = more anomalous, and judges it by normal images.

    Everything a user calls to score images is here, once for all. A subclass says how it computes
    on a batch of uint8 images (`_components_in`, `_maps_in`, `_reconstructions_in`) and how a
    score is made of components (`_combine`).

    Images are given as a folder, an .npy or .npz file, a uint8 array (n, H, W) or (n, H, W, C), a
    list of PIL images, or an `adcgan.ImageSet`.

    Attributes
    ----------
    threshold_ : float
        An image is called anomalous when its score is above it.
    fpr_ : float or None
        The false-positive budget in force; None when `contamination` set the threshold.
    calibration_scores_ : ndarray of float64 (n_calibration_,)
        Scores of the held-out normal images, ascending.
    image_shape_ : (int, int, int)
        Channels, height and width of the images learned from.
    resized_ : bool
        Whether those went through the resize pipeline, or were arrays taken as they came.
    n_train_, n_calibration_ : int
        Images trained on, and held out for monitoring and calibration.
    """

    resize: str
    threshold_: float
    fpr_: float | None
    calibration_scores_: NDArray[np.float64]
    image_shape_: Shape
    resized_: bool
    n_train_: int
    n_calibration_: int

    # -- what every scorer defines -------------------------------------------------------------

    @abstractmethod
    def _components_in(self, batch: NDArray[np.uint8]) -> Components:
        """Return each part of the score, (B,), of images (B, C, H, W)."""

    @abstractmethod
    def _combine(self, components: Components) -> NDArray[np.float64]:
        """Return the scores (n,) made of `components`."""

    @abstractmethod
    def _reconstructions_in(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return reconstructions (B, C, H, W) in [0, 1] of images (B, C, H, W)."""

    @abstractmethod
    def _maps_in(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return anomaly maps (B, H, W) of images (B, C, H, W)."""

    def _called(self) -> str:
        """Return what errors call this scorer."""
        return type(self).__name__

    # -- scores --------------------------------------------------------------------------------

    def decision_function(self, X: Images) -> NDArray[np.float64]:
        """Return the anomaly scores (n,) of images, higher = more anomalous.

        An image that cannot be read scores nan, with a warning.
        """
        images = self._load_for_scoring(X)
        scores = self._combine(self._components_of(images.images))
        return placed(scores, images.positions, images.n_items)

    def predict(self, X: Images) -> NDArray[np.int64]:
        """Return 1 for anomalous images, 0 for normal ones, -1 for unreadable ones: (n,)."""
        return self._decide(self.decision_function(X))

    def predict_proba(self, X: Images) -> NDArray[np.float64]:
        """Return (n, 2): the p-value of each image, and one minus it.

        Column 1 estimates how sure it is that a normal image would score lower. It is calibrated
        by normal images alone and says nothing of how common anomalies are.
        """
        p = self.p_values(X)
        return np.stack([p, 1 - p], axis=1)

    def p_values(self, X: Images) -> NDArray[np.float64]:
        """Return conformal p-values (n,) in (0, 1].

        The share of normal images that score at least as high, estimated from held-out ones: if
        new normal images come from where the training images came from, at most a share `a` of
        them gets a p-value of `a` or less.
        """
        return conformal_p_values(self.decision_function(X), self.calibration_scores_)

    def score_components(self, X: Images) -> Components:
        """Return the parts of the score by name, each (n,) float64; nan where unreadable."""
        images = self._load_for_scoring(X)
        components = self._components_of(images.images)
        return {k: placed(v, images.positions, images.n_items) for k, v in components.items()}

    def score_variants(self, components: Components) -> Components:  # noqa: ARG002
        """Return other scores made of the same components, by name; none unless a system has some.

        Parameters
        ----------
        components : dict of str to ndarray (n,)
            What `score_components` returned.
        """
        return {}

    def score_contributions(self, components: Components) -> Components:
        """Return what each component adds to the score, by name.

        Every score is a weighted sum of its components and a constant. A contribution is a
        component by its weight; all of them add up to the score less the constant.

        Parameters
        ----------
        components : dict of str to ndarray (n,)
            What `score_components` returned.
        """
        none = {name: np.zeros(1) for name in components}
        constant = self._combine(none)
        return {
            name: (self._combine(none | {name: np.ones(1)}) - constant) * values
            for name, values in components.items()
        }

    def assess(self, X: Images) -> Assessment:
        """Return scores, p-values, verdicts and components of images, in one pass."""
        images = self._load_for_scoring(X, warn=False)
        components = {
            key: placed(value, images.positions, images.n_items)
            for key, value in self._components_of(images.images).items()
        }
        scores = self._combine(components)
        names, errors = [""] * images.n_items, [""] * images.n_items
        for position, name in zip(images.positions, images.names, strict=True):
            names[position] = name
        for skipped in images.skipped:
            names[skipped.position], errors[skipped.position] = skipped.name, skipped.error
        return Assessment(
            names=names,
            scores=scores,
            p_values=conformal_p_values(scores, self.calibration_scores_),
            anomalous=self._decide(scores),
            components=components,
            variants=self.score_variants(components),
            errors=errors,
        )

    def _decide(self, scores: NDArray[np.float64]) -> NDArray[np.int64]:
        decided = np.where(np.isnan(scores), -1, scores > self.threshold_)
        return decided.astype(np.int64)

    # -- pictures ------------------------------------------------------------------------------

    def reconstruct(self, X: Images) -> NDArray[np.float32]:
        """Return the reconstructions (n, H, W, C) in [0, 1] of readable images."""
        made = self._batched(self._reconstructions_in, self._load_for_scoring(X).images)
        return np.concatenate(list(made)).transpose(0, 2, 3, 1)

    def anomaly_map(self, X: Images) -> NDArray[np.float32]:
        """Return heatmaps (n, H, W) of readable images, at least 0, higher = more anomalous."""
        return np.concatenate(list(self._batched(self._maps_in, self._load_for_scoring(X).images)))

    def generate(self, n: int = 16, *, seed: int = 0) -> NDArray[np.float32]:  # noqa: ARG002
        """Return images (n, H, W, C) in [0, 1] made of random latents, where that is possible."""
        raise InputError(f"{self._called()} does not generate images.")

    # -- images --------------------------------------------------------------------------------

    def _load_for_scoring(self, X: Images, *, warn: bool = True) -> ImageSet:
        """Load images in the shape the scorer was trained on."""
        self._check_fitted()
        channels, size, _ = self.image_shape_
        # Arrays that were trained on as they came are scored as they come.
        as_is = not self.resized_ and is_array(X)
        images = load_images(
            X, image_size=None if as_is else size, resize=self.resize, channels=channels
        )
        if images.shape[1] != size:
            raise InputError(
                f"{self._called()} was trained on arrays of {size}×{size} pixels. "
                f"Got {images.shape[1]}×{images.shape[2]} instead."
            )
        if warn and images.skipped:
            first = images.skipped[0]
            warnings.warn(
                f"{len(images.skipped)} of {images.n_items} images could not be read; "
                f"the first is {first.name!r}: {first.error}",
                stacklevel=3,
            )
        return images

    def _check_fitted(self) -> None:
        if not hasattr(self, "image_shape_"):
            raise InputError(f"This {self._called()} has learned nothing yet; call fit first.")

    def _score_batch_size(self) -> int:
        """Return how many images are scored at once: as many as fit in about 1 GiB."""
        return int(np.clip(2**20 // self.image_shape_[1] ** 2, 16, 256))

    def _batched(
        self,
        function: Callable[[NDArray[np.uint8]], Any],
        images: NDArray[np.uint8],
        index: NDArray[np.int64] | None = None,
        progress: Progress = silent,
    ) -> Iterator[Any]:
        """Yield `function` of each batch (B, C, H, W) of `images`, at `index` if given."""
        size = self._score_batch_size()
        n = len(images) if index is None else len(index)
        progress.start("Scoring", n)
        try:
            for start in range(0, n, size):
                stop = min(start + size, n)
                yield function(images[start:stop] if index is None else images[index[start:stop]])
                progress.advance(stop - start)
        finally:
            progress.finish()

    def _components_of(
        self, images: NDArray[np.uint8], index: NDArray[np.int64] | None = None
    ) -> Components:
        """Return the components of uint8 images (n, C, H, W), at `index` if given."""
        parts = list(self._batched(self._components_in, images, index, terminal_progress()))
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
