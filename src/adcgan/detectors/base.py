"""The interface that every detector has: PyOD's methods on scikit-learn's contract."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn import get_config
from sklearn.base import BaseEstimator
from torch import Tensor, nn

from adcgan.data import ImageSet, load_images
from adcgan.data.decode import MAX_SIZE, MIN_SIZE
from adcgan.data.prepare import Split, split_held_out, to_floats
from adcgan.detectors import storage
from adcgan.detectors.notebook import html_of
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
    Scorer,
    Threshold,
    contamination_threshold,
    images_needed,
    threshold_for_budget,
)
from adcgan.scoring.assessment import placed
from adcgan.scoring.scorer import Components, Images, Shape
from adcgan.training import Recipe, RunLog, Session, make_accelerator, resolve_device, train
from adcgan.training.cost import FitCost, estimate
from adcgan.training.trackers import tracked

if TYPE_CHECKING:
    from accelerate import Accelerator
    from typing_extensions import Self

__all__ = ["Components", "Detector", "Shape"]

MINIMUM_IMAGES = 3
GENERATED_TOGETHER = 64
COMMON_RULES: dict[str, Rule] = {
    "image_size": maybe(whole(MIN_SIZE, MAX_SIZE)),
    "resize": one_of("squash", "crop", "pad"),
    "validation_fraction": real(0, 1, above=True, below=True),
    "fpr": real(0, 1, above=True, below=True),
    "contamination": maybe(real(0, 0.5, above=True)),
    "device": text,
    "random_state": whole(0, 2**32 - 1),
}


class Detector(BaseEstimator, Scorer):  # type: ignore[misc]
    """Learns normal images; gives every image a score, higher = more anomalous.

    Everything a user calls is here and in `adcgan.scoring.Scorer`, which scores. A subclass says
    how it scores a batch (`_component_batch`, `_combine`) and either which networks it has and how
    they are trained (`_make_networks`, `_recipe`), or, without networks, how it learns and what it
    stores.

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
    # Whether a training step can be captured: reads nothing back, decides nothing on the way.
    _capturable: ClassVar[bool] = False

    # Every constructor has these parameters.
    image_size: int | None
    resize: str
    validation_fraction: float
    fpr: float
    contamination: float | None
    device: str
    random_state: int
    # Every system of networks has this one too.
    width: float | None

    # -- what every system defines -------------------------------------------------------------

    @abstractmethod
    def _component_batch(self, x: Tensor) -> dict[str, Tensor]:
        """Return each part of the score, (B,), of images (B, C, H, W) in [0, 1]."""

    # And `_combine`, the score made of those parts.

    # -- what a system of networks defines -----------------------------------------------------

    def _width(self, shape: Shape) -> float:  # noqa: ARG002
        """Return the scale of every hidden width for images of `shape` (C, H, W)."""
        assert self.width is not None
        return self.width

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
        self.networks_ = self._make_networks(shape, self._width(shape)).to(self._device()).eval()

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

    def _reconstruct_batch(self, x: Tensor) -> Tensor:  # noqa: ARG002
        """Return the reconstructions (B, C, H, W) in [0, 1] of images (B, C, H, W) in [0, 1]."""
        raise InputError(f"{type(self).__name__} does not reconstruct images.")

    def _map_batch(self, x: Tensor) -> Tensor:  # noqa: ARG002
        """Return the anomaly maps (B, H, W) of images (B, C, H, W) in [0, 1]."""
        raise InputError(f"{type(self).__name__} does not make anomaly maps.")

    def _generated(self, generator: nn.Module, n: int, rng: torch.Generator) -> Tensor:
        """Return what `generator` makes of `n` latents that `rng`, on the CPU, draws.

        (n, C, H, W) in [0, 1]. Every system with a network named "generator" defines it.
        """
        raise NotImplementedError

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
        cuda_graphs: bool = False,
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
            Experiment trackers: "tensorboard", "wandb", "mlflow". They need `run_dir`, and write
            into it (`adcgan.training.trackers`).
        progress : Progress, optional
            Where progress is reported; a bar when standard error is a terminal.
        cuda_graphs : bool
            Capture a training step as a CUDA graph and replay it, which spares the device the
            wait for Python. AD-CGAN's steps alone, on one CUDA device, in one process. The same
            computation, so that a run may be resumed with another value.

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
        self.check_packages()
        if resume and run_dir is None:
            raise InputError("The 'resume' parameter needs 'run_dir', the run to go on with.")
        folder = None if run_dir is None else Path(run_dir)
        images = self._load(X, cache=True)
        self._check_enough(images)
        accelerator = self._accelerator(folder, trackers)
        if cuda_graphs:
            self.check_cuda_graphs(accelerator.num_processes)
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
            cuda_graphs=cuda_graphs,
            folder=folder,
        )
        split = split_held_out(len(images), self.validation_fraction, self.random_state)
        self.image_shape_ = images.shape
        self.resized_ = images.resized
        self.__dict__.pop("_decision_scores", None)
        self._build_seeded(images.shape)
        with tracked(accelerator, trackers, folder, self.get_params()):
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

    def check_packages(self) -> None:
        """Raise `MissingExtraError` if a package that learning needs is missing."""

    def check_cuda_graphs(self, processes: int = 1) -> None:
        """Raise `InputError` if ``fit`` cannot use CUDA graphs, here in so many processes."""
        refused = "The 'cuda_graphs' parameter must be False"
        if not self._capturable:
            raise InputError(f"{refused} for {type(self).__name__}; only ADCGAN can be captured.")
        device = resolve_device(self.device)
        if device.type != "cuda":
            raise InputError(
                f"{refused} where training is not on a CUDA device. Got True on {str(device)!r}."
            )
        if processes > 1:
            raise InputError(
                f"{refused} in training by several processes. Got True in {processes}."
            )

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

    # -- pictures ------------------------------------------------------------------------------

    def generate(self, n: int = 16, *, seed: int = 0) -> NDArray[np.float32]:
        """Return images that the generator makes of random latents: what it takes for normal.

        They are made as in training: batch normalisation takes its statistics from 64 of them at
        a time. What scores an image has other statistics, those of reconstructions.

        Parameters
        ----------
        n : int, default=16
            How many.
        seed : int, default=0
            Of the latents; the same one gives the same images, the first of them for a smaller n.

        Returns
        -------
        ndarray of shape (n, H, W, C), float32
            In [0, 1].

        Raises
        ------
        InputError
            The detector has no generator or has learned nothing yet, or a parameter is wrong.
        """
        self._check_fitted()
        rules = {"n": whole(1), "seed": whole(0, 2**32 - 1)}
        check(f"{type(self).__name__}.generate", {"n": n, "seed": seed}, rules)
        if "generator" not in getattr(self, "networks_", ()):
            raise InputError(f"{type(self).__name__} has no generator.")
        # A copy, as training mode changes the running statistics.
        generator = deepcopy(self.networks_["generator"]).train()
        rng = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            made = [
                _to_numpy(self._generated(generator, GENERATED_TOGETHER, rng))
                for _ in range(0, n, GENERATED_TOGETHER)
            ]
        return np.concatenate(made)[:n].transpose(0, 2, 3, 1)

    def _repr_html_(self) -> str | None:
        """Return what notebooks show, None where scikit-learn is set to show text."""
        return None if get_config()["display"] == "text" else html_of(self)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        """Return the same for notebooks that ask for several forms at once."""
        html = self._repr_html_()
        return {"text/plain": repr(self)} | ({} if html is None else {"text/html": html})

    # -- in batches ----------------------------------------------------------------------------

    def _components_in(self, batch: NDArray[np.uint8]) -> Components:
        with torch.no_grad():  # not inference mode: some systems search by gradients
            components = self._component_batch(self._on_device(batch))
        return {key: value.double().cpu().numpy() for key, value in components.items()}

    def _reconstructions_in(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.no_grad():
            return _to_numpy(self._reconstruct_batch(self._on_device(batch)))

    def _maps_in(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.no_grad():
            return _to_numpy(self._map_batch(self._on_device(batch)))

    def _batches(self, images: NDArray[np.uint8]) -> Iterator[Tensor]:
        """Yield `images` in batches (B, C, H, W) in [0, 1] on the device."""
        return self._batched(self._on_device, images)

    def _on_device(self, batch: NDArray[np.uint8]) -> Tensor:
        """Return uint8 images as floats in [0, 1] on the device."""
        # A copy, as torch takes no array that is walked backwards.
        return to_floats(torch.tensor(np.ascontiguousarray(batch), device=self._device()))

    def _device(self) -> torch.device:
        return resolve_device(self.device)

    def _load(self, X: Images, **options: Any) -> ImageSet:
        return load_images(X, image_size=self.image_size, resize=self.resize, **options)

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

        return estimate(recipe, self._width(images.shape), images.shape)

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


def _to_numpy(images: Tensor) -> NDArray[np.float32]:
    """Return a tensor as float32 in main memory."""
    array: NDArray[np.float32] = images.float().cpu().numpy()
    return array


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the entries whose key starts with `prefix`, without it."""
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
