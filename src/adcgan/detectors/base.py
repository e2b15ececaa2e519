"""The interface that every detector has: PyOD's methods on scikit-learn's contract."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from torch import Tensor, nn

from adcgan.data import ImageSet, load_images
from adcgan.data.arrays import is_array
from adcgan.data.decode import MAX_SIZE, MIN_SIZE
from adcgan.data.prepare import Split, split_held_out, to_floats
from adcgan.detectors import storage
from adcgan.detectors.assessment import Assessment, placed
from adcgan.detectors.parameters import (
    Rule,
    check,
    maybe,
    one_of,
    real,
    text,
    whole,
)
from adcgan.errors import InputError
from adcgan.progress import Progress, silent, terminal_progress
from adcgan.scoring import (
    Threshold,
    conformal_p_values,
    contamination_threshold,
    images_needed,
    threshold_for_budget,
)
from adcgan.training import Recipe, RunLog, Session, make_accelerator, resolve_device, train
from adcgan.training.cost import FitCost, estimate

if TYPE_CHECKING:
    from accelerate import Accelerator
    from typing_extensions import Self

Images = Any
Components = dict[str, NDArray[np.float64]]
Shape = tuple[int, int, int]

MINIMUM_IMAGES = 3
COMMON_RULES: dict[str, Rule] = {
    "image_size": maybe(whole(MIN_SIZE, MAX_SIZE)),
    "resize": one_of("squash", "crop", "pad"),
    "validation_fraction": real(0, 1, above=True, below=True),
    "fpr": real(0, 1, above=True, below=True),
    "contamination": maybe(real(0, 0.5, above=True)),
    "device": text,
    "random_state": whole(0, 2**32 - 1),
}


class Detector(BaseEstimator, ABC):  # type: ignore[misc]
    """Learns normal images; gives every image a score, higher = more anomalous.

    Everything a user calls is here. A subclass says how it scores a batch (`_component_batch`,
    `_combine`) and either which networks it has and how they are trained (`_make_networks`,
    `_recipe`), or, without networks, how it learns and what it stores.

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
        Channels, height and width that the detector was trained on.
    n_train_, n_calibration_ : int
        Images trained on, and held out for monitoring and calibration.
    history_ : list of dict
        What was logged during training.
    """

    rules: ClassVar[dict[str, Rule]] = {}

    # Every constructor has these parameters.
    image_size: int | None
    resize: str
    validation_fraction: float
    fpr: float
    contamination: float | None
    device: str
    random_state: int
    # Every system of networks has this one too.
    width: float

    # -- what every system defines -------------------------------------------------------------

    @abstractmethod
    def _component_batch(self, x: Tensor) -> dict[str, Tensor]:
        """Return each part of the score, (B,), of images (B, C, H, W) in [0, 1]."""

    @abstractmethod
    def _combine(self, components: Components) -> NDArray[np.float64]:
        """Return the scores (n,) made of `components`."""

    # -- what a system of networks defines -----------------------------------------------------

    def _make_networks(self, shape: Shape, width: float) -> nn.ModuleDict:
        """Return fresh networks by name, for images of `shape` (C, H, W)."""
        raise NotImplementedError

    def _recipe(self, networks: nn.ModuleDict, n_train: int, accelerator: Accelerator) -> Recipe:
        """Return how `networks` are trained on `n_train` images."""
        raise NotImplementedError

    def _extras(self) -> dict[str, Tensor]:
        """Return learned tensors that belong to no network, if any, to store them."""
        return {}

    def _set_extras(self, extras: dict[str, Tensor]) -> None:
        """Take over what `_extras` returned."""

    # -- what a system without networks defines instead ----------------------------------------

    def _build(self, shape: Shape) -> None:
        """Create the untrained state for images of `shape` (C, H, W); torch's seed is set."""
        self.networks_ = self._make_networks(shape, self.width).to(self._device()).eval()

    def _learn(self, images: NDArray[np.uint8], split: Split, session: Session) -> None:
        """Train on `images` (n, C, H, W) at `split.train`; `split.held_out` is for watching."""
        accelerator = session.accelerator
        self.networks_.to(accelerator.device)
        recipe = self._recipe(self.networks_, len(split.train), accelerator)
        train(recipe, images, split, session)
        self.networks_.to(self._device())

    def _state(self) -> dict[str, Tensor]:
        """Return everything learned that scoring needs."""
        extras = {f"extras.{key}": value for key, value in self._extras().items()}
        return {**self.networks_.state_dict(prefix="networks."), **extras}

    def _set_state(self, state: dict[str, Tensor]) -> None:
        """Take over what `_state` returned."""
        self.networks_.load_state_dict(_under("networks.", state))
        self._set_extras(_under("extras.", state))

    # -- what a system may define --------------------------------------------------------------

    def _fit_components(self, components: Components) -> None:
        """Learn from the held-out images' components what `_combine` needs, if anything."""

    def _accelerator(self, folder: Path | None, trackers: Sequence[str]) -> Accelerator:
        """Return device, precision and processes of a run."""
        precision = getattr(self, "precision", "float32")
        return make_accelerator(self.device, precision, trackers=trackers, folder=folder)

    # -- learning ------------------------------------------------------------------------------

    def fit(
        self,
        X: Images,
        y: Any = None,  # noqa: ARG002
        *,
        run_dir: str | Path | None = None,
        resume: bool = False,
        checkpoint_every: int = 500,
        trackers: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> Self:
        """Learn from normal images.

        Parameters
        ----------
        X : images
            Normal images; see the class. At least 3.
        y : ignored
            Accepted for scikit-learn's sake. No label is ever looked at.
        run_dir : path, optional
            Folder for the run's record, checkpoints and, at the end, the model.
        resume : bool
            Go on from the checkpoint in `run_dir`, or start if there is none.
        checkpoint_every : int
            Steps between checkpoints.
        trackers : sequence of str
            Experiment trackers: "tensorboard", "wandb", "mlflow". They need `run_dir`.
        progress : Progress, optional
            Where progress is reported; a bar when standard error is a terminal.

        Returns
        -------
        self

        Raises
        ------
        InputError
            A parameter or the images are not as described.
        DivergedError
            A loss was not finite.
        """
        self.check_parameters()
        if resume and run_dir is None:
            raise InputError("The 'resume' parameter needs 'run_dir', the run to go on with.")
        folder = None if run_dir is None else Path(run_dir)
        images = self._load(X, cache=True)
        self._check_enough(images)
        accelerator = self._accelerator(folder, trackers)
        log = RunLog(folder)
        if accelerator.is_main_process:
            log.start(self._settings(images), images.source, accelerator.device)
        if resume and folder is not None and storage.is_finished(folder):
            self._restore(storage.read(folder))
            self._training_images = images
            return self
        session = Session(
            accelerator=accelerator,
            log=log,
            seed=self.random_state,
            progress=progress or (terminal_progress() if accelerator.is_main_process else silent),
            resume=resume,
            checkpoint_every=checkpoint_every,
            folder=folder,
        )
        if trackers:
            accelerator.init_trackers("adcgan", config=_flat(self.get_params()))
        split = split_held_out(len(images), self.validation_fraction, self.random_state)
        self.image_shape_ = images.shape
        self.resized_ = images.resized
        self.__dict__.pop("_decision_scores", None)
        self._build_seeded(images.shape)
        self._learn(images.images, split, session)
        self.n_train_, self.n_calibration_ = len(split.train), len(split.held_out)
        self.history_ = log.rows
        self._training_images = images
        self._calibrate(images.images, split)
        accelerator.end_training()
        if folder is not None and accelerator.is_main_process:
            self.save(folder)
            (folder / "checkpoint.safetensors").unlink(missing_ok=True)
        return self

    def check_parameters(self) -> None:
        """Raise `InputError` for the first constructor parameter that is not as documented."""
        check(type(self).__name__, self.get_params(), COMMON_RULES | self.rules)

    def _check_enough(self, images: ImageSet) -> None:
        if len(images) < MINIMUM_IMAGES:
            raise InputError(
                f"{type(self).__name__} needs at least {MINIMUM_IMAGES} readable images to learn "
                f"from: some to train on and some held out. Got {len(images)} in {images.source}."
            )

    def _settings(self, images: ImageSet) -> dict[str, Any]:
        """Return what must not change when a run is resumed."""
        settings = {key: value for key, value in self.get_params().items() if key != "device"}
        data = {"images": len(images), "shape": list(images.shape)}
        return {"detector": type(self).__name__, "parameters": settings, "data": data}

    def _build_seeded(self, shape: Shape) -> None:
        """Build with weights that `random_state` alone decides."""
        with torch.random.fork_rng():
            torch.manual_seed(self.random_state)
            self._build(shape)

    def _calibrate(self, images: NDArray[np.uint8], split: Split) -> None:
        """Set the threshold from held-out normal images, or by PyOD's rule from all of them."""
        components = self._components_of(images, split.held_out)
        self._fit_components(components)
        self.calibration_scores_ = np.sort(self._combine(components))
        self._set_threshold()

    def _set_threshold(self) -> None:
        if self.contamination is not None:
            self.fpr_ = None
            self.threshold_ = contamination_threshold(self.decision_scores_, self.contamination)
            return
        threshold: Threshold = threshold_for_budget(self.calibration_scores_, self.fpr)
        self.threshold_, self.fpr_ = threshold.value, threshold.fpr_in_force
        if not threshold.supported:
            m = len(self.calibration_scores_)
            warnings.warn(
                f"{m} held-out normal images cannot support a false-positive budget of "
                f"{self.fpr:g}: that takes {images_needed(self.fpr)}. "
                f"The budget in force is {threshold.fpr_in_force:.3g}.",
                stacklevel=4,
            )

    # -- scoring -------------------------------------------------------------------------------

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

    def reconstruct(self, X: Images) -> NDArray[np.float32]:
        """Return the reconstructions (n, H, W, C) in [0, 1] of readable images."""
        return np.concatenate(list(self._batched(X, self._reconstruct_batch))).transpose(0, 2, 3, 1)

    def anomaly_map(self, X: Images) -> NDArray[np.float32]:
        """Return heatmaps (n, H, W) of readable images, at least 0, higher = more anomalous."""
        return np.concatenate(list(self._batched(X, self._map_batch)))

    def _reconstruct_batch(self, x: Tensor) -> Tensor:  # noqa: ARG002
        raise InputError(f"{type(self).__name__} does not reconstruct images.")

    def _map_batch(self, x: Tensor) -> Tensor:  # noqa: ARG002
        raise InputError(f"{type(self).__name__} does not make anomaly maps.")

    @property
    def decision_scores_(self) -> NDArray[np.float64]:
        """Scores (n,) of the images given to ``fit``, computed when first asked for."""
        if "_training_images" not in self.__dict__:
            raise AttributeError(
                "decision_scores_ needs the images given to fit; a loaded model has none."
            )
        if "_decision_scores" not in self.__dict__:
            images = self._training_images
            scores = self._combine(self._components_of(images.images))
            self._decision_scores = placed(scores, images.positions, images.n_items)
        scores_: NDArray[np.float64] = self._decision_scores
        return scores_

    @property
    def labels_(self) -> NDArray[np.int64]:
        """Verdicts (n,) on the images given to ``fit``."""
        return self._decide(self.decision_scores_)

    def _decide(self, scores: NDArray[np.float64]) -> NDArray[np.int64]:
        decided = np.where(np.isnan(scores), -1, scores > self.threshold_)
        return decided.astype(np.int64)

    # -- images --------------------------------------------------------------------------------

    def _load(self, X: Images, **options: Any) -> ImageSet:
        return load_images(X, image_size=self.image_size, resize=self.resize, **options)

    def _load_for_scoring(self, X: Images, *, warn: bool = True) -> ImageSet:
        """Load images in the shape the detector was trained on."""
        self._check_fitted()
        channels, size, _ = self.image_shape_
        # Arrays that were trained on as they came are scored as they come.
        as_is = not self.resized_ and is_array(X)
        images = load_images(
            X, image_size=None if as_is else size, resize=self.resize, channels=channels
        )
        if images.shape[1] != size:
            raise InputError(
                f"{type(self).__name__} was trained on arrays of {size}×{size} pixels. "
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
            raise InputError(f"This {type(self).__name__} has learned nothing yet; call fit first.")

    def _device(self) -> torch.device:
        return resolve_device(self.device)

    def _score_batch_size(self) -> int:
        """Return how many images are scored at once: as many as fit in about 1 GiB."""
        return int(np.clip(2**20 // self.image_shape_[1] ** 2, 16, 256))

    def _batches(
        self, images: NDArray[np.uint8], index: NDArray[np.int64] | None = None
    ) -> Iterator[Tensor]:
        """Yield `images` (at `index`) in batches (B, C, H, W) in [0, 1] on the device."""
        size, device = self._score_batch_size(), self._device()
        n = len(images) if index is None else len(index)
        for start in range(0, n, size):
            stop = min(start + size, n)
            rows = images[start:stop] if index is None else images[index[start:stop]]
            # A copy, as torch takes no array that is walked backwards.
            yield to_floats(torch.tensor(np.ascontiguousarray(rows), device=device))

    def _components_of(
        self, images: NDArray[np.uint8], index: NDArray[np.int64] | None = None
    ) -> Components:
        """Return the components of uint8 images (n, C, H, W), at `index` if given."""
        parts: list[dict[str, NDArray[np.float64]]] = []
        progress = terminal_progress()
        progress.start("Scoring", len(images) if index is None else len(index))
        try:
            for x in self._batches(images, index):
                with torch.no_grad():  # not inference mode: some systems search by gradients
                    batch = self._component_batch(x)
                parts.append({k: v.double().cpu().numpy() for k, v in batch.items()})
                progress.advance(len(x))
        finally:
            progress.finish()
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

    def _batched(
        self, X: Images, function: Callable[[Tensor], Tensor]
    ) -> Iterator[NDArray[np.float32]]:
        for x in self._batches(self._load_for_scoring(X).images):
            with torch.no_grad():
                yield function(x).float().cpu().numpy()

    # -- cost, saving --------------------------------------------------------------------------

    def fit_cost(self, images: ImageSet) -> FitCost | None:
        """Return what ``fit`` on `images` would cost on this machine, here and at other widths.

        None for systems that train no networks.
        """
        self.check_parameters()
        if type(self)._recipe is Detector._recipe:
            return None
        accelerator = self._accelerator(None, ())
        n_train = len(split_held_out(len(images), self.validation_fraction, 0).train)

        def recipe(width: float) -> Recipe:
            networks = self._make_networks(images.shape, width).to(accelerator.device)
            return self._recipe(networks, n_train, accelerator)

        return estimate(recipe, self.width, images.shape)

    def save(self, path: str | Path) -> None:
        """Write the model folder `path`: config, weights, calibration and a manifest of hashes."""
        self._check_fitted()
        calibration = {
            "scores": self.calibration_scores_.tolist(),
            "threshold": self.threshold_,
            "fpr_in_force": self.fpr_,
        }
        config = {
            "parameters": self.get_params(),
            "image_shape": list(self.image_shape_),
            "resized": self.resized_,
            "n_train": self.n_train_,
            "n_calibration": self.n_calibration_,
        }
        storage.write(Path(path), self, config, calibration, self._state())

    def _restore(self, stored: storage.Stored) -> None:
        """Take over what `save` stored."""
        channels, height, width = stored.config["image_shape"]
        self.image_shape_ = (channels, height, width)
        self.resized_ = stored.config["resized"]
        self.n_train_ = stored.config["n_train"]
        self.n_calibration_ = stored.config["n_calibration"]
        self.calibration_scores_ = np.asarray(stored.calibration["scores"], dtype=np.float64)
        self.threshold_ = stored.calibration["threshold"]
        self.fpr_ = stored.calibration["fpr_in_force"]
        self.history_ = stored.history
        self._build_seeded(self.image_shape_)
        self._set_state(stored.state)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the entries whose key starts with `prefix`, without it."""
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}


def _flat(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return parameters as trackers take them: numbers and text."""
    return {k: v if isinstance(v, (int, float, str)) else str(v) for k, v in parameters.items()}
