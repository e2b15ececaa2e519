"""The interface of all detectors: PyOD's methods on scikit-learn's estimator contract."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import sklearn.exceptions
import torch
from numpy.typing import NDArray
from sklearn import get_config
from sklearn.base import BaseEstimator, clone

from adcgan.data import ImageSet, ImageSource, load_images
from adcgan.data.image_file import MAX_SIZE, MIN_SIZE, RESIZES
from adcgan.data.prepare import Split, divided, split_held_out
from adcgan.data.ragged import Images
from adcgan.detectors import storage
from adcgan.detectors.card import Provenance, card_of, to_markdown
from adcgan.detectors.model import Model
from adcgan.detectors.notebook import html_of
from adcgan.detectors.settings import Settings, check, maybe, one_of, real, setting, text, whole
from adcgan.errors import InputError, MissingExtraError
from adcgan.progress import Progress, silent, terminal_progress
from adcgan.scoring import Components, Scorer, Shape, Verdict, contamination_threshold
from adcgan.scoring.assessment import placed
from adcgan.scoring.card import ModelCard
from adcgan.training import (
    Recipe,
    RunLog,
    Session,
    full_precision,
    make_accelerator,
    precision_of,
    random_state_kept,
    resolve_device,
    train,
)
from adcgan.training.cost import FitCost, estimate, memory_of_steps
from adcgan.training.trackers import tracked

if TYPE_CHECKING:
    from accelerate import Accelerator
    from typing_extensions import Self

MINIMUM_IMAGES = 3
GENERATED_TOGETHER = 64


class NotFittedError(InputError, sklearn.exceptions.NotFittedError):  # type: ignore[misc]
    """Raised when an unfitted detector is used for something that needs a fitted one."""


class Detector(Settings, BaseEstimator, Scorer):  # type: ignore[misc]
    """Learns from normal images and scores any image; a higher score is more anomalous.

    All public methods are here and in `adcgan.scoring.Scorer`, which does the scoring. The
    mathematics of a system is in its `Model`, which `make_model` builds.

    Images can be a folder, an .npy or .npz file, a uint8 array (n, H, W) or (n, H, W, C), a list of
    paths, arrays or PIL images, or an `adcgan.ImageSet`.

    Attributes
    ----------
    model_ : Model
        The fitted model.
    decision_scores_, labels_ : ndarray (n,)
        Scores and verdicts for the images passed to ``fit``.

    For the other attributes, see `Scorer`.
    """

    # Facts about the system, in this order: its name on the command line; the league of its
    # results, "" if it learns from normal images alone; the extra it needs and that extra's
    # packages; why it cannot be exported, if it cannot; whether its training steps can be captured,
    # that is, read nothing back and branch only on their position in the `Phase`; whether its
    # training length is its own rather than the paper's epochs; whether it always runs on the CPU,
    # whatever `device` says; the instructions of a CPU with which precision="auto" trains it in
    # bf16 ("avx512", "amx" or "", see `make_accelerator`); whether `adcgan.compare` tries it by
    # default.
    name: ClassVar[str]
    league: ClassVar[str] = ""
    extra: ClassVar[str] = ""
    packages: ClassVar[tuple[str, ...]] = ()
    not_exported: ClassVar[str] = ""
    capturable: ClassVar[bool] = False
    own_steps: ClassVar[bool] = False
    on_cpu: ClassVar[bool] = False
    bf16_on_cpus: ClassVar[str] = ""
    candidate: ClassVar[bool] = False

    # scikit-learn up to 1.7 reads this; from 1.6 on it reads __sklearn_tags__ below.
    _estimator_type: ClassVar[str] = "outlier_detector"

    image_size: int | None = setting(
        None,
        maybe(whole(MIN_SIZE, MAX_SIZE)),
        f"Side of the images in pixels, {MIN_SIZE} to {MAX_SIZE}. None means 64 for folders and "
        "lists, and the original size for arrays.",
    )
    resize: str = setting(
        "squash",
        one_of(*(way for way in RESIZES if way != "keep")),
        'How images are made square: "squash", "crop" or "pad".',
    )
    validation_fraction: float = setting(
        0.1,
        real(0, 1, above=True, below=True),
        "Fraction of the images held out for monitoring and calibration.",
    )
    fpr: float = setting(
        0.01,
        real(0, 1, above=True, below=True),
        "False-positive budget of the threshold.",
    )
    contamination: float | None = setting(
        None,
        maybe(real(0, 0.5, above=True)),
        "If set, the threshold follows PyOD's rule instead: this fraction of the images passed to "
        "``fit`` is labelled anomalous.",
    )
    device: str = setting("auto", text, 'Device: "auto", "cpu", "cuda", "cuda:1" or "mps".')
    random_state: int = setting(0, whole(0, 2**32 - 1), "Seed of all randomness.")

    @abstractmethod
    def make_model(self, shape: Shape) -> Model:
        """Build the untrained model for images of `shape` (C, H, W), with these settings.

        Weights are drawn from torch's global generator, which the caller has seeded.
        """

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.estimator_type = self._estimator_type
        return tags

    # -- learning ------------------------------------------------------------------------------

    def fit(
        self,
        X: ImageSource,
        y: object = None,
        *,
        run_dir: str | Path | None = None,
        resume: bool = False,
        checkpoint_every: int = 500,
        trackers: Sequence[str] = (),
        progress: Progress | None = None,
        cuda_graphs: bool | None = None,
    ) -> Self:
        """Learn from normal images.

        Parameters
        ----------
        X : images
            At least 3 normal images, in any of the forms that the class accepts. Unreadable images
            are skipped with a warning; an image set has already given its own.
        y : ignored
            Accepted for compatibility with scikit-learn. Labels are never used.
        run_dir : path, optional
            Folder for the run's records, its checkpoints and the finished model.
        resume : bool
            Resume from the checkpoint in `run_dir`, or start a new run if there is none.
        checkpoint_every : int
            Number of steps between checkpoints.
        trackers : sequence of str
            Experiment trackers: "tensorboard", "wandb", "mlflow". They require `run_dir` and write
            to it (see `adcgan.training.trackers`).
        progress : Progress, optional
            Where to report progress. By default, a progress bar if standard error is a terminal.
        cuda_graphs : bool, optional
            Whether to capture a training step as a CUDA graph and replay it, so that the device
            does not wait for Python. By default this is done wherever possible: if the detector's
            steps are `capturable`, on a single CUDA device, in a single process. The computation is
            the same either way, so a run can be resumed with a different value.

        Returns
        -------
        self

        Raises
        ------
        InputError
            A parameter or the images are invalid.
        MissingExtraError
            A package that this detector needs is not installed.
        DivergedError
            A loss was not finite.
        """
        del y
        steps = self.fitting(
            X,
            run_dir=run_dir,
            resume=resume,
            checkpoint_every=checkpoint_every,
            trackers=trackers,
            progress=progress,
            cuda_graphs=cuda_graphs,
        )
        for _ in steps:
            pass
        return self

    def fitting(
        self,
        X: ImageSource,
        *,
        run_dir: str | Path | None = None,
        resume: bool = False,
        checkpoint_every: int = 500,
        trackers: Sequence[str] = (),
        progress: Progress | None = None,
        cuda_graphs: bool | None = None,
    ) -> Iterator[None]:
        """Fit like ``fit``, but as an iterator that trains one step per item.

        Several detectors can thus be trained in turns in one process, each with the same result as
        alone: no global state that affects computation is left changed between items.

        Parameters
        ----------
        X, run_dir, resume, checkpoint_every, trackers, progress, cuda_graphs
            As for ``fit``.

        Yields
        ------
        None
            After every training step. The detector is fitted once the iterator is exhausted.

        Raises
        ------
        InputError, MissingExtraError, DivergedError
            As for ``fit``, but when items are consumed.
        """
        self.check_parameters()
        self.check_packages()
        if resume and run_dir is None:
            raise InputError(
                "The 'resume' parameter needs 'run_dir', the folder of the run to resume."
            )
        folder = None if run_dir is None else Path(run_dir).expanduser()
        images = load_images(X, image_size=self.image_size, resize=self.resize, cache=True)
        if images is not X:
            images.warn_of_skipped(stacklevel=4)
        self._check_enough(images)
        accelerator = self._accelerator(folder, trackers)
        if cuda_graphs:
            self.check_cuda_graphs(accelerator.num_processes)
        graphs = self._can_capture(accelerator) if cuda_graphs is None else cuda_graphs
        log = RunLog(folder)
        if accelerator.is_main_process:
            in_force = {"precision": precision_of(accelerator), "cuda_graphs": graphs}
            log.start(self._settings(images), images.source, accelerator.device, in_force)
        if resume and folder is not None and storage.is_finished(folder):
            self._restore(storage.read(folder))
            self._training_images = images
            return
        session = Session(
            accelerator=accelerator,
            log=log,
            seed=self.random_state,
            progress=progress or (terminal_progress() if accelerator.is_main_process else silent),
            resume=resume,
            checkpoint_every=checkpoint_every,
            cuda_graphs=graphs,
            folder=folder,
        )
        split = split_held_out(len(images), self.validation_fraction, self.random_state)
        self.image_shape_ = images.shape
        self.resized_ = images.resized
        self.__dict__.pop("_decision_scores", None)
        self.model_ = self._new_model(images.shape)
        scaling, calibration = split.held_out[:0], split.held_out
        if self.model_.scale is not None:
            scaling, calibration = divided(split.held_out, self.random_state)
        with tracked(accelerator, trackers, folder, self.get_params()):
            yield from self._train(images.images, split, scaling, session)
        self.n_train_, self.n_calibration_ = len(split.train), len(calibration)
        self.history_ = log.rows
        self._training_images = images
        self._calibrate(images.images, calibration)
        self._provenance = Provenance.now(images, self.model_.device)
        accelerator.end_training()
        if folder is not None and accelerator.is_main_process:
            self.save(folder)
            (folder / "checkpoint.safetensors").unlink(missing_ok=True)

    def check_packages(self) -> None:
        """Raise `MissingExtraError` if a required package is missing."""
        if any(find_spec(package) is None for package in self.packages):
            raise MissingExtraError(
                f"{self.system} needs {' and '.join(self.packages)}: "
                f"pip install 'adcgan[{self.extra}]'"
            )

    def check_cuda_graphs(self, processes: int = 1) -> None:
        """Raise `InputError` if ``fit`` cannot use CUDA graphs here with this many processes."""
        refused = "The 'cuda_graphs' parameter must be False"
        if not self.capturable:
            raise InputError(f"{refused} for {self.system}: its steps cannot be captured.")
        device = resolve_device(self.device)
        if device.type != "cuda":
            raise InputError(
                f"{refused} unless training runs on a CUDA device. Got True on {str(device)!r}."
            )
        if processes > 1:
            raise InputError(
                f"{refused} when several processes train. Got True with {processes} processes."
            )

    def _can_capture(self, accelerator: Accelerator) -> bool:
        """Return whether training steps can be captured as CUDA graphs."""
        on_cuda = accelerator.device.type == "cuda"
        return self.capturable and on_cuda and accelerator.num_processes == 1

    def fit_cost(self, images: ImageSet, *, cuda_graphs: bool | None = None) -> FitCost | None:
        """Estimate the cost of ``fit`` on `images` on this machine, at this and other widths.

        `cuda_graphs` is as in ``fit``. Returns None for systems that train no networks.
        """
        self.check_parameters()
        accelerator = self._accelerator(None, ())
        n_train = len(split_held_out(len(images), self.validation_fraction, 0).train)

        def recipe(width: float | None) -> Recipe | None:
            settings = {} if width is None else {"width": width}
            model: Model = clone(self).set_params(**settings).make_model(images.shape)
            return model.to(accelerator.device).recipe(n_train, accelerator)

        graphs = self._can_capture(accelerator) if cuda_graphs is None else cuda_graphs
        scaled = "width" in self.get_params()
        return estimate(recipe, images.shape, scaled=scaled, cuda_graphs=graphs)

    def fit_memory(self, images: ImageSet, *, cuda_graphs: bool | None = None) -> int | None:
        """Return the CUDA memory in bytes that ``fit`` on `images` needs, excluding the images.

        Measured over a few captured steps. `cuda_graphs` is as in ``fit``. Returns None if steps
        are not captured.
        """
        self.check_parameters()
        accelerator = self._accelerator(None, ())
        graphs = self._can_capture(accelerator) if cuda_graphs is None else cuda_graphs
        if not graphs:
            return None
        n_train = len(split_held_out(len(images), self.validation_fraction, 0).train)
        with random_state_kept():
            model: Model = clone(self).make_model(images.shape).to(accelerator.device)
            recipe = model.recipe(n_train, accelerator)
            assert recipe is not None, "a capturable system has a recipe"
            return memory_of_steps(recipe, images.shape)

    def _accelerator(self, folder: Path | None, trackers: Sequence[str]) -> Accelerator:
        """Return an accelerator with the device, precision and processes of a run."""
        precision = self.get_params().get("precision", "float32")
        return make_accelerator(
            self.device,
            precision,
            bf16_on_cpus=self.bf16_on_cpus,
            trackers=trackers,
            folder=folder,
        )

    def _check_enough(self, images: ImageSet) -> None:
        if len(images) < MINIMUM_IMAGES:
            raise InputError(
                f"{self.system} needs at least {MINIMUM_IMAGES} readable images: "
                f"some to train on, some to hold out. Got {len(images)} in {images.source}."
            )

    def _settings(self, images: ImageSet) -> dict[str, Any]:
        """Return the settings that must stay the same when a run is resumed."""
        settings = {key: value for key, value in self.get_params().items() if key != "device"}
        data = {"images": len(images), "shape": list(images.shape)}
        return {
            "detector": self.system,
            "parameters": settings,
            "data": data,
            "format": storage.FORMAT,
        }

    def _new_model(self, shape: Shape, device: str | None = None) -> Model:
        """Return an untrained model, its weights determined by `random_state` alone."""
        with random_state_kept():
            torch.manual_seed(self.random_state)
            # The model gets its own copy of the settings, which later changes do not affect.
            model: Model = clone(self).make_model(shape)
        return model.to(resolve_device(device or self.device) if not self.on_cpu else "cpu").eval()

    def _train(
        self,
        images: Images,
        split: Split,
        scaling: NDArray[np.int64],
        session: Session,
    ) -> Iterator[None]:
        """Train on the images at `split.train`, monitored on those at `split.held_out`.

        Decision rules and scales are fitted on the images at `scaling` alone.
        """
        model, accelerator = self.model_, session.accelerator
        where = model.device
        recipe = model.recipe(len(split.train), accelerator)
        if recipe is not None:
            model.to(accelerator.device)
            yield from train(recipe, images, split, session)
            model.to(where)
        with full_precision():
            model.learn(images, Split(split.train, scaling), session.progress)
        if model.scale is not None and len(scaling):
            model.scale.measure(self.components_of(images, scaling))

    def _calibrate(self, images: Images, calibration: NDArray[np.int64]) -> None:
        """Set the threshold from held-out normal images, or from all images by PyOD's rule."""
        passes = list(self._watched_passes(images, calibration))
        components = {
            name: np.concatenate([found[name] for found, _ in passes]) for name in passes[0][0]
        }
        self.calibration_scores_ = np.sort(self.model_.combine(components))
        peaks = [largest for _, largest in passes if largest is not None]
        self.calibration_peaks_ = np.sort(np.concatenate(peaks)) if peaks else None
        if self.contamination is not None:
            self.fpr_ = None
            self.threshold_ = contamination_threshold(self.decision_scores_, self.contamination)
            return
        verdict = Verdict.for_budget(self.calibration_scores_, self.fpr)
        self.threshold_, self.fpr_ = verdict.threshold, verdict.fpr
        if verdict.warning:
            warnings.warn(verdict.warning, stacklevel=4)

    def _watched_passes(
        self, images: Images, index: NDArray[np.int64]
    ) -> Iterator[tuple[Components, NDArray[np.float64] | None]]:
        """Yield the components and map maxima of the images at `index`, batch by batch."""
        for scored in self.passes(images, index, terminal_progress()):
            heat = scored.anomaly_map
            yield (
                scored.components,
                None if heat is None else heat.max(axis=(1, 2)).astype(np.float64),
            )

    # -- scoring -------------------------------------------------------------------------------

    @property
    def backend(self) -> Model:
        """The fitted model."""
        self._check_fitted()
        return self.model_

    @property
    def system(self) -> str:
        """Name of the class."""
        return type(self).__name__

    @property
    def decision_scores_(self) -> NDArray[np.float64]:
        """Scores (n,) of the images passed to ``fit``, computed on first access."""
        if "_training_images" not in self.__dict__:
            raise AttributeError(
                "decision_scores_ needs the images passed to fit, which loaded models do not have."
            )
        if "_decision_scores" not in self.__dict__:
            images = self._training_images
            scores = self.model_.combine(self.components_of(images.images))
            self._decision_scores = placed(scores, images.positions, images.n_items)
        scores_: NDArray[np.float64] = self._decision_scores
        return scores_

    @property
    def labels_(self) -> NDArray[np.int64]:
        """Verdicts (n,) on the images passed to ``fit``."""
        return self.verdict().anomalous(self.decision_scores_)

    def generate(self, n: int = 16, *, seed: int = 0) -> NDArray[np.float32]:
        """Generate images from random latents: samples of what the model considers normal.

        They are generated as in training: batch normalisation uses the statistics of 64 of them at
        a time. Scoring uses different statistics, those of reconstructions.

        Parameters
        ----------
        n : int, 16
            Number of images.
        seed : int, 0
            Seed of the latents. The same seed gives the same images; a smaller n gives the first
            ones.

        Returns
        -------
        ndarray of shape (n, H, W, C), float32
            Images in [0, 1].

        Raises
        ------
        InputError
            The detector has no generator or is not fitted, or a parameter is invalid.
        """
        self._check_fitted()
        rules = {"n": whole(1), "seed": whole(0, 2**32 - 1)}
        check(f"{self.system}.generate", {"n": n, "seed": seed}, rules)
        if type(self.model_).sample is Model.sample:
            raise InputError(f"{self.system} has no generator.")
        # Use a copy: training mode changes the running statistics.
        model = deepcopy(self.model_).train()
        rng = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            made = [
                model.sample(GENERATED_TOGETHER, rng).float().cpu().numpy()
                for _ in range(0, n, GENERATED_TOGETHER)
            ]
        return np.concatenate(made)[:n].transpose(0, 2, 3, 1)

    def _check_fitted(self) -> None:
        if not hasattr(self, "image_shape_"):
            raise NotFittedError(f"This {self.system} is not fitted yet. Call fit first.")

    def _repr_html_(self) -> str | None:
        """Return HTML for notebooks, or None if scikit-learn's display is set to text."""
        return None if get_config()["display"] == "text" else html_of(self)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        """Return the same for front ends that request several formats at once."""
        html = self._repr_html_()
        return {"text/plain": repr(self)} | ({} if html is None else {"text/html": html})

    # -- saving --------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Save the model to the folder `path`: config, weights, calibration, a manifest of hashes.

        Also writes the model card as README.md, unless the folder has a README.md that is not a
        model card.
        """
        self._check_fitted()
        calibration = {
            "scores": self.calibration_scores_.tolist(),
            "threshold": self.threshold_,
            "fpr_in_force": self.fpr_,
            "peaks": None if self.calibration_peaks_ is None else self.calibration_peaks_.tolist(),
        }
        config = {
            "detector": self.system,
            "parameters": self.get_params(),
            "image_shape": list(self.image_shape_),
            "resized": self.resized_,
            "n_train": self.n_train_,
            "n_calibration": self.n_calibration_,
            "provenance": asdict(self._provenance),
        }
        card = to_markdown(self, self.card())
        state = self.model_.state_dict()
        storage.write(Path(path).expanduser(), config, calibration, state, card)

    def card(self) -> ModelCard:
        """Return the facts for the model card."""
        self._check_fitted()
        return card_of(self, self._provenance)

    @classmethod
    def from_stored(cls, stored: storage.Stored, device: str = "auto") -> Self:
        """Create the detector from a stored model, on `device`."""
        detector = cls(**{**stored.config["parameters"], "device": device})
        detector._restore(stored)
        return detector

    def model_on(self, device: str) -> Model:
        """Return a copy of the fitted model on another device."""
        twin = self._new_model(self.image_shape_, device)
        twin.restore(self.model_.state_dict())
        return twin

    def _restore(self, stored: storage.Stored) -> None:
        """Restore the state that `save` stored."""
        channels, height, width = stored.config["image_shape"]
        self.image_shape_ = (channels, height, width)
        self.resized_ = stored.config["resized"]
        self.n_train_ = stored.config["n_train"]
        self.n_calibration_ = stored.config["n_calibration"]
        self._provenance = Provenance(
            # Models from before provenance was recorded know only their version.
            **stored.config.get("provenance", {"version": stored.config["versions"]["adcgan"]})
        )
        self.calibration_scores_ = np.asarray(stored.calibration["scores"], dtype=np.float64)
        peaks = stored.calibration.get("peaks")
        self.calibration_peaks_ = None if peaks is None else np.asarray(peaks, dtype=np.float64)
        self.threshold_ = stored.calibration["threshold"]
        self.fpr_ = stored.calibration["fpr_in_force"]
        self.history_ = stored.history
        self.model_ = self._new_model(self.image_shape_)
        self.model_.restore(stored.state)
