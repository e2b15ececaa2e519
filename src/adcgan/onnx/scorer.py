"""An exported detector in ONNX Runtime: the same results without torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from adcgan.errors import InputError, MissingExtraError
from adcgan.onnx.metadata import INPUT, MAP, RECONSTRUCTION, SCORE, Description, check_seal
from adcgan.scoring import Components, ModelCard, Scored, Scorer

_ERRORS_ONLY = 3


class OnnxBackend:
    """The graph in ONNX Runtime.

    Parameters
    ----------
    path : Path
        The .onnx file.
    device : str
        As for `OnnxScorer`.
    threads : int or None
        As for `OnnxScorer`.

    Attributes
    ----------
    description : Description
        What the file says of itself.
    """

    def __init__(self, path: Path, device: str, threads: int | None) -> None:
        self._session, metadata = _open(path, device, _thread_count(threads))
        self.description = Description.from_metadata(metadata, str(path))
        self._pictures = [
            output.name
            for output in self._session.get_outputs()
            if output.name in (MAP, RECONSTRUCTION)
        ]

    @property
    def images_at_once(self) -> int:
        """How many images one pass takes at most: as many as fit in about 1 GiB."""
        _, height, width = self.description.image_shape
        return int(np.clip(2**20 // (height * width), 1 if self.any_size else 16, 256))

    @property
    def any_size(self) -> bool:
        """Whether the graph takes images of any height and width."""
        return self.description.resize == "keep"

    def scored(self, batch: NDArray[np.uint8]) -> Scored[NDArray[Any]]:
        """Return components in float64 and pictures in float32 of images (B, C, H, W)."""
        names = self.description.components
        values = self._run([*names, *self._pictures], batch)
        pictures = dict(zip(self._pictures, values[len(names) :], strict=True))
        made = pictures.get(RECONSTRUCTION)
        return Scored(
            {k: v.astype(np.float64) for k, v in zip(names, values, strict=False)},
            pictures.get(MAP),
            None if made is None else made.transpose(0, 3, 1, 2),
        )

    def scores(self, batch: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return the scores (B,) of images (B, C, H, W) that the graph itself computes."""
        scores: NDArray[np.float64] = self._run([SCORE], batch)[0]
        return scores

    def combine(self, components: Components) -> NDArray[np.float64]:
        """Return the scores (n,) made of `components`."""
        return self.description.score(components)

    def variants(self, components: Components) -> dict[str, NDArray[np.float64]]:
        """Return the detector's other scores (n,) made of `components`, by name."""
        return {name: weigh(components) for name, weigh in self.description.variants.items()}

    def _run(self, outputs: list[str], batch: NDArray[np.uint8]) -> list[NDArray[Any]]:
        """Return `outputs` of the graph for images (B, C, H, W)."""
        images = np.ascontiguousarray(batch.transpose(0, 2, 3, 1))
        values: list[NDArray[Any]] = self._session.run(outputs, {INPUT: images})
        return values


class OnnxScorer(Scorer):
    """Scores images with a file that `adcgan export` made.

    Needs NumPy, Pillow and ONNX Runtime alone.

    Parameters
    ----------
    path : str or Path
        The .onnx file.
    device : str
        "auto" and "cpu" compute on the CPU; "cuda", "cuda:1", … on a GPU, which takes a build of
        ONNX Runtime for CUDA.
    threads : int or None
        CPU threads of one computation. None: as many as the environment variable
        ``OMP_NUM_THREADS`` says, else one for each CPU that the process may use.

    Attributes
    ----------
    description_ : Description
        What the file says of itself: the detector's class and parameters among others.
    device : str
        Where it computes: "cpu", "cuda", …
    fpr, contamination : float or None
        The detector's parameters of these names.
    history_ : list
        Empty: the record of training stays in the model folder.

    Raises
    ------
    InputError
        A parameter is wrong; or the file is missing, damaged, no export, or of another format.
    MissingExtraError
        ONNX Runtime is not installed.

    Examples
    --------
    >>> from adcgan import load
    >>> scorer = load("m.onnx")  # doctest: +SKIP
    >>> scores = scorer.decision_function("photos/new")  # doctest: +SKIP
    """

    is_export: ClassVar[bool] = True

    def __init__(
        self, path: str | Path, *, device: str = "auto", threads: int | None = None
    ) -> None:
        self.path, self.device = Path(path).expanduser(), "cpu" if device == "auto" else device
        self._backend = OnnxBackend(self.path, device, threads)
        found = self.description_ = self._backend.description
        self.resize = found.resize
        self.resized_ = found.resized
        self.image_shape_ = found.image_shape
        self.n_train_ = found.n_train
        self.calibration_scores_ = np.array(found.calibration_scores, dtype=np.float64)
        self.n_calibration_ = len(self.calibration_scores_)
        peaks = found.calibration_peaks
        self.calibration_peaks_ = None if peaks is None else np.array(peaks, dtype=np.float64)
        self.threshold_, self.fpr_ = found.threshold, found.fpr
        self.fpr, self.contamination = (found.parameters[k] for k in ("fpr", "contamination"))
        self.history_ = []

    @property
    def backend(self) -> OnnxBackend:
        """The graph in ONNX Runtime."""
        return self._backend

    @property
    def system(self) -> str:
        """The class of the exported detector."""
        return self.description_.detector

    @property
    def called(self) -> str:
        """What errors call this scorer."""
        return f"{self.system} in {self.path.name}"

    def card(self) -> ModelCard | None:
        """Return the facts of the model's card; None for a file exported before it had one."""
        known = self.description_.card
        return None if known is None else ModelCard(**known)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the constructor's parameters of the detector that was exported; this device."""
        del deep
        return {**self.description_.parameters, "device": self.device}

    def generate(self, n: int = 16, *, seed: int = 0) -> NDArray[np.float32]:
        """Refuse: the generator's own way into images stays in the model folder."""
        del n, seed
        raise InputError(f"{self.called} does not generate images.")

    def _check_fitted(self) -> None:
        """Do nothing: what was exported has learned."""


def _open(path: Path, device: str, threads: int) -> tuple[Any, dict[str, str]]:
    """Return a session for the file, checked to be as it was written, and its metadata."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None
    sealed = check_seal(content, str(path))
    # From 1.32 on it tells its makers of every session unless this is set before it is imported.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError(
            f"Loading {path} needs ONNX Runtime: pip install 'adcgan[export]'"
        ) from None
    providers = _providers(device, onnxruntime.get_available_providers())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _ERRORS_ONLY
    try:
        session = onnxruntime.InferenceSession(content, options, providers=providers)
    except Exception as error:  # its exceptions share no base class but this
        reason = " ".join(str(error).split())
        if sealed:
            raise InputError(
                f"ONNX Runtime {onnxruntime.__version__} cannot load {path}: {reason}"
            ) from None
        raise InputError(f"{path} is not an ONNX file, or a damaged one: {reason}") from None
    if session.get_providers()[0] != _name(providers[0]):
        raise InputError(
            f"The 'device' parameter is {device!r}, but ONNX Runtime could not start "
            f"{_name(providers[0])}: its libraries are missing or too old."
        )
    metadata: dict[str, str] = session.get_modelmeta().custom_metadata_map
    if metadata and not sealed and any(key.startswith("adcgan.") for key in metadata):
        raise InputError(f"{path} was changed or damaged: it lacks its SHA-256.")
    return session, metadata


def _providers(device: str, available: list[str]) -> list[Any]:
    """Return ONNX Runtime's name for `device`, with its number if it has one."""
    if device in ("auto", "cpu"):
        return ["CPUExecutionProvider"]
    kind, _, number = str(device).partition(":")
    if kind != "cuda" or not (number.isdecimal() or device == "cuda"):
        raise InputError(
            "The 'device' parameter of an .onnx file must be 'auto', 'cpu', 'cuda' or 'cuda:N'. "
            f"Got {device!r} instead."
        )
    if "CUDAExecutionProvider" not in available:
        raise InputError(
            f"The 'device' parameter is {device!r}, but this ONNX Runtime computes only "
            f"on {', '.join(available)}: pip install onnxruntime-gpu."
        )
    return [("CUDAExecutionProvider", {"device_id": int(number or 0)})]


def _name(provider: Any) -> str:
    return provider if isinstance(provider, str) else str(provider[0])


def _thread_count(threads: int | None) -> int:
    """Return the number of threads asked for, or a sensible one."""
    if threads is None:
        wanted = os.environ.get("OMP_NUM_THREADS", "")
        if wanted.isdecimal() and int(wanted) > 0:
            return int(wanted)
        allowed = getattr(os, "sched_getaffinity", None)  # Linux alone has it
        return len(allowed(0)) if allowed else os.cpu_count() or 1
    if not isinstance(threads, int) or isinstance(threads, bool) or threads < 1:
        raise InputError(
            "The 'threads' parameter must be None or a whole number of at least 1. "
            f"Got {threads!r} instead."
        )
    return threads
