"""The methods of everything that scores images, in torch or not."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from adcgan.data import ImageSet, ImageSource, load_images
from adcgan.data.arrays import is_array
from adcgan.data.image_file import Target
from adcgan.data.ragged import Images, Maps, gathered, shaped
from adcgan.errors import InputError
from adcgan.files import scratch_file
from adcgan.progress import Progress, silent, terminal_progress
from adcgan.scoring.assessment import Assessment, placed
from adcgan.scoring.backend import Backend, Components, Scored, Shape, in_batches
from adcgan.scoring.card import ModelCard
from adcgan.scoring.regions import Region, regions
from adcgan.scoring.verdict import Verdict


class Scorer(ABC):
    """Gives every image a score, higher = more anomalous, and judges it by normal images.

    Everything a user calls to score images is here; its `backend` computes.

    Images are given as a folder, an .npy or .npz file, a uint8 array (n, H, W) or (n, H, W, C), a
    list of paths, arrays or PIL images, or an `adcgan.ImageSet`.

    Attributes
    ----------
    threshold_ : float
        Images with a higher score are anomalous.
    fpr_ : float or None
        The false-positive budget in force; None when `contamination` set the threshold.
    calibration_scores_ : ndarray of float64 (n_calibration_,)
        Scores of the held-out normal images, ascending.
    calibration_peaks_ : ndarray of float64 (n_calibration_,) or None
        The largest value of the anomaly map of each held-out normal image, ascending; None for
        detectors that make no maps, and for models that were fitted before it was kept.
    image_shape_ : (int, int, int)
        Channels, height and width of the images learned from.
    resized_ : bool
        Whether those went through the resize pipeline, or were arrays taken as they came.
    n_train_, n_calibration_ : int
        Images trained on, and held out for monitoring and calibration.
    history_ : list of dict
        What was logged during training.
    """

    is_export: ClassVar[bool] = False

    resize: str
    fpr: float
    contamination: float | None
    device: str
    threshold_: float
    fpr_: float | None
    calibration_scores_: NDArray[np.float64]
    calibration_peaks_: NDArray[np.float64] | None
    image_shape_: Shape
    resized_: bool
    n_train_: int
    n_calibration_: int
    history_: list[dict[str, Any]]

    @property
    @abstractmethod
    def backend(self) -> Backend:
        """Computes the scores of batches."""

    @property
    @abstractmethod
    def system(self) -> str:
        """The name of the detector's class, also of an exported one."""

    @property
    def target_(self) -> Target:
        """Size, resizing and channels of the images that are scored."""
        channels, side, _ = self.image_shape_
        size: int | None = self.get_params()["image_size"] if self.resize == "keep" else side
        return Target(size, self.resize, channels)

    @property
    def called(self) -> str:
        """The scorer's name in errors."""
        return self.system

    @abstractmethod
    def card(self) -> ModelCard | None:
        """Return the facts of the model's card; None for a file exported before it had one."""

    @abstractmethod
    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the detector's settings by name."""

    # -- scores --------------------------------------------------------------------------------

    def decision_function(self, X: ImageSource) -> NDArray[np.float64]:
        """Return the anomaly scores (n,) of images, higher = more anomalous.

        An image that cannot be read scores nan, with a warning.
        """
        images = self._load_for_scoring(X)
        scores = self.backend.combine(self.components_of(images.images))
        return placed(scores, images.positions, images.n_items)

    def predict(self, X: ImageSource) -> NDArray[np.int64]:
        """Return 1 for anomalous images, 0 for normal ones, -1 for unreadable ones: (n,)."""
        return self.verdict().anomalous(self.decision_function(X))

    def predict_proba(self, X: ImageSource) -> NDArray[np.float64]:
        """Return (n, 2): the p-value of each image, and one minus it.

        Column 1 estimates the chance that a normal image scores lower. It is calibrated by normal
        images alone and does not depend on how common anomalies are.
        """
        p = self.p_values(X)
        return np.stack([p, 1 - p], axis=1)

    def p_values(self, X: ImageSource) -> NDArray[np.float64]:
        """Return conformal p-values (n,) in (0, 1].

        The share of normal images that score at least as high, estimated from held-out ones: if
        new normal images come from where the training images came from, at most a share `a` of
        them gets a p-value of `a` or less.
        """
        return self.verdict().p_values(self.decision_function(X))

    def score_components(self, X: ImageSource) -> dict[str, NDArray[np.float64]]:
        """Return the parts of the score by name, each (n,) float64; nan where unreadable."""
        images = self._load_for_scoring(X)
        components = self.components_of(images.images)
        return {k: placed(v, images.positions, images.n_items) for k, v in components.items()}

    def score_variants(self, components: Components) -> dict[str, NDArray[np.float64]]:
        """Return other scores made of the same components, by name; none unless a system has some.

        Parameters
        ----------
        components : dict of str to ndarray (n,)
            What `score_components` returned.
        """
        return self.backend.variants(components)

    def score_contributions(self, components: Components) -> dict[str, NDArray[np.float64]]:
        """Return what each component adds to the score, by name.

        Every score is a weighted sum of its components and a constant. A contribution is a
        component by its weight; all of them add up to the score less the constant.

        Parameters
        ----------
        components : dict of str to ndarray (n,)
            What `score_components` returned.
        """
        combine = self.backend.combine
        none = {name: np.zeros(1) for name in components}
        constant = combine(none)
        return {
            name: (combine(none | {name: np.ones(1)}) - constant) * values
            for name, values in components.items()
        }

    def verdict(self, fpr: float | None = None) -> Verdict:
        """Return the verdict by the false-positive budget `fpr`, or None for the model's own."""
        self._check_fitted()
        if fpr is None:
            return Verdict(self.threshold_, self.fpr_, self.calibration_scores_)
        return Verdict.for_budget(self.calibration_scores_, fpr)

    def assess(self, X: ImageSource, *, maps: bool = False, fpr: float | None = None) -> Assessment:
        """Return scores, p-values, verdicts, components and, if asked for, maps, in one pass.

        Parameters
        ----------
        X : images
            See the class.
        maps : bool
            Keep the anomaly maps too, in a temporary file that is deleted with them.
        fpr : float or None
            Decide by this false-positive budget instead of the model's own threshold.

        Raises
        ------
        InputError
            The images are not as described, or the detector makes no maps.
        OSError
            The maps do not fit into the folder for temporary files, ``$TMPDIR``.
        """
        images = self._load_for_scoring(X, warn=False)
        verdict = self.verdict(fpr)
        if verdict.warning:
            warnings.warn(verdict.warning, stacklevel=2)
        parts: list[dict[str, NDArray[np.float64]]] = []
        heat, shapes = None, list[tuple[int, ...]]()
        with scratch_file() if maps else nullcontext() as file:
            for scored in self.passes(images.images, progress=terminal_progress()):
                parts.append(scored.components)
                if file is not None:
                    found = self._map_of(scored)
                    shapes.extend([found.shape[1:]] * len(found))
                    file.write(found.tobytes())
            if file is not None:
                file.flush()
                heat = shaped(np.memmap(file, np.float32, "c"), shapes)
        components = {
            key: placed(value, images.positions, images.n_items)
            for key, value in _joined(parts).items()
        }
        scores = self.backend.combine(components)
        names, errors = [""] * images.n_items, [""] * images.n_items
        for position, name in zip(images.positions, images.names, strict=True):
            names[position] = name
        for skipped in images.skipped:
            names[skipped.position], errors[skipped.position] = skipped.name, skipped.error
        return Assessment(
            names=names,
            scores=scores,
            p_values=verdict.p_values(scores),
            anomalous=verdict.anomalous(scores),
            components=components,
            variants=self.score_variants(components),
            errors=errors,
            verdict=verdict,
            maps=heat,
        )

    # -- pictures ------------------------------------------------------------------------------

    def reconstruct(self, X: ImageSource) -> Maps:
        """Return the reconstructions (n, H, W, C) in [0, 1] of readable images.

        A sequence of n, each (H, W, C), where the images differ in size.
        """
        made = []
        for scored in self.passes(self._load_for_scoring(X).images):
            if scored.reconstruction is None:
                raise InputError(f"{self.called} does not reconstruct images.")
            made.append(scored.reconstruction.transpose(0, 2, 3, 1))
        return gathered(made)

    def anomaly_map(self, X: ImageSource) -> Maps:
        """Return heatmaps (n, H, W) of readable images, at least 0, higher = more anomalous.

        A sequence of n, each (H, W), where the images differ in size.
        """
        passes = self.passes(self._load_for_scoring(X).images)
        return gathered(self._map_of(scored) for scored in passes)

    def pixel_verdict(self, fpr: float | None = None) -> Verdict:
        """Return the verdict on pixels of anomaly maps, as `adcgan.scoring.regions` has it.

        Parameters
        ----------
        fpr : float or None
            The share of new normal images that may have any pixel above the threshold, in (0, 1).
            None: the model's own false-positive budget.

        Raises
        ------
        InputError
            There are no anomaly maps, or the model does not know those of normal images.
        """
        self._check_fitted()
        if self.calibration_peaks_ is None:
            raise InputError(
                f"{self.called} has no threshold for pixels: it makes no anomaly maps, or was "
                "fitted by a version that did not keep one. In that case, fit it again."
            )
        return Verdict.for_budget(self.calibration_peaks_, self.fpr if fpr is None else fpr)

    def regions(self, X: ImageSource, *, fpr: float | None = None) -> list[list[Region]]:
        """Return the anomalous regions of each readable image, most anomalous first.

        In pixels of the image as the model sees it: the photograph itself where sizes are kept
        and `image_size` is not exceeded.

        Parameters
        ----------
        X : images
            See the class.
        fpr : float or None
            As for `pixel_verdict`.
        """
        verdict = self.pixel_verdict(fpr)
        if verdict.warning:
            warnings.warn(verdict.warning, stacklevel=2)
        passes = self.passes(self._load_for_scoring(X).images)
        maps = (heat for scored in passes for heat in self._map_of(scored))
        return [regions(heat, verdict.threshold) for heat in maps]

    @abstractmethod
    def generate(self, n: int = 16, *, seed: int = 0) -> NDArray[np.float32]:
        """Return images (n, H, W, C) in [0, 1] made from random latents, if the system can."""

    def _map_of(self, scored: Scored[NDArray[Any]]) -> NDArray[np.float32]:
        if scored.anomaly_map is None:
            raise InputError(f"{self.called} does not make anomaly maps.")
        return scored.anomaly_map

    # -- images --------------------------------------------------------------------------------

    def passes(
        self,
        images: Images,
        index: NDArray[np.int64] | None = None,
        progress: Progress = silent,
    ) -> Iterator[Scored[NDArray[Any]]]:
        """Yield the backend's results for uint8 images (n, C, H, W), batch by batch.

        Parameters
        ----------
        images : ndarray of uint8 (n, C, H, W), or Ragged of n
            Of the shape that was trained on, or of any where sizes are kept.
        index : ndarray of int (m,), optional
            Which of them; all if not given.
        progress : Progress, optional
            Where progress is reported.
        """
        for batch in in_batches(images, self.backend.images_at_once, index, progress):
            yield self.backend.scored(batch)

    def components_of(
        self, images: Images, index: NDArray[np.int64] | None = None
    ) -> dict[str, NDArray[np.float64]]:
        """Return the components (n,) of uint8 images, at `index` if given."""
        return _joined([s.components for s in self.passes(images, index, terminal_progress())])

    def component_names(self) -> list[str]:
        """Return the names of the components, in order."""
        return list(self.backend.scored(np.zeros((1, *self.image_shape_), np.uint8)).components)

    def _load_for_scoring(self, X: ImageSource, *, warn: bool = True) -> ImageSet:
        """Load images in the shape the scorer was trained on."""
        self._check_fitted()
        target, size = self.target_, self.image_shape_[1]
        # Arrays that were trained on as they came are scored as they come.
        wanted = None if not self.resized_ and is_array(X) else target.size
        images = load_images(X, image_size=wanted, resize=target.resize, channels=target.channels)
        if self.resize != "keep" and images.shape[1] != size:
            raise InputError(
                f"{self.called} was trained on arrays of {size}×{size} pixels. "
                f"Got {images.shape[1]}×{images.shape[2]} instead."
            )
        if warn:
            images.warn_of_skipped(stacklevel=4)
        return images

    @abstractmethod
    def _check_fitted(self) -> None:
        """Raise `InputError` unless the detector is fitted."""


def _joined(parts: list[dict[str, NDArray[np.float64]]]) -> dict[str, NDArray[np.float64]]:
    """Return the components of all batches."""
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
