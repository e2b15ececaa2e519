"""Export a fitted detector to one file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils import parametrize

from adcgan import __version__
from adcgan.detectors import Detector, Model
from adcgan.errors import InputError, MissingExtraError
from adcgan.files import replacing
from adcgan.networks import layers
from adcgan.onnx.graph import to_onnx
from adcgan.onnx.metadata import (
    INPUT,
    MAP,
    RECONSTRUCTION,
    SCORE,
    Description,
    Weighing,
    seal,
)
from adcgan.onnx.parity import check_parity
from adcgan.onnx.scorer import OnnxBackend
from adcgan.scoring import Components

# Weights beyond this leave no room for the graph in a Protocol Buffers file, 2 GiB at most.
_MOST_WEIGHT_BYTES = 2_000_000_000
# Ours compute the same, faster in torch.
_TORCH_LAYERS: dict[type[nn.Module], type[nn.Module]] = {
    layers.Conv2d: nn.Conv2d,
    layers.ConvTranspose2d: nn.ConvTranspose2d,
    layers.Dropout: nn.Dropout,
    layers.Linear: nn.Linear,
    layers.PReLU: nn.PReLU,
}


@dataclass(frozen=True)
class Export:
    """A file that was written and checked.

    Attributes
    ----------
    path : Path
        The file.
    n_bytes : int
        Its size.
    parity : float
        Largest relative difference of a score from the detector's, over the images checked.
    n_checked : int
        How many those were.
    """

    path: Path
    n_bytes: int
    parity: float
    n_checked: int


def export_onnx(detector: Detector, path: str | Path) -> Export:
    """Write a fitted detector as one .onnx file, whole or not at all.

    The graph takes uint8 images (n, H, W, C), any n, and has the outputs ``score`` (n,) in
    float64, each component (n,), ``anomaly_map`` (n, H, W) and ``reconstruction`` (n, H, W, C).
    What the detector knows of normal images (calibration scores, threshold, …) is in the file's
    metadata. Before the file takes its name it is opened in ONNX Runtime and must agree with the
    detector.

    Parameters
    ----------
    detector : Detector
        Fitted, and of a system that scores by one forward pass of its networks.
    path : str or Path
        The file; replaced if it exists. Its folder is made if need be.

    Returns
    -------
    Export

    Raises
    ------
    InputError
        The detector is not fitted, or its method cannot be exported.
    MissingExtraError
        onnx or onnxruntime is not installed.
    OSError
        `path` cannot be written.
    RuntimeError
        The file does not agree with the detector. None is left.
    """
    path = Path(path).expanduser()
    check_exportable(detector, path)
    description = describe(detector)
    content = seal(to_onnx(_plain(detector.model_on("cpu")), description))
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(content)
        written = OnnxBackend(temporary, "cpu", None)
        parity, n_checked = check_parity(detector.model_on("cpu"), written)
    return Export(path, len(content), parity, n_checked)


def describe(detector: Detector) -> Description:
    """Return the metadata of a fitted detector's file.

    Raises
    ------
    InputError
        Its score is not a weighted sum of its components.
    """
    components = detector.component_names()
    assert not {INPUT, SCORE, MAP, RECONSTRUCTION} & set(components)
    variants = detector.score_variants({name: np.ones(1) for name in components})

    def variant(name: str) -> Callable[[Components], NDArray[np.float64]]:
        return lambda parts: detector.score_variants(parts)[name]

    return Description(
        version=__version__,
        detector=detector.system,
        parameters=detector.get_params(),
        image_shape=detector.image_shape_,
        resize=detector.resize,
        resized=detector.resized_,
        n_train=detector.n_train_,
        threshold=float(detector.threshold_),
        fpr=None if detector.fpr_ is None else float(detector.fpr_),
        calibration_scores=detector.calibration_scores_.tolist(),
        calibration_peaks=(
            None if detector.calibration_peaks_ is None else detector.calibration_peaks_.tolist()
        ),
        components=components,
        score=Weighing.of(detector.backend.combine, components),
        variants={name: Weighing.of(variant(name), components) for name in variants},
        card=asdict(detector.card()),
    )


def check_exportable(detector: Detector, path: Path) -> None:
    """Refuse, before any work, what `export_onnx` cannot write.

    Raises
    ------
    InputError
        The detector is not fitted, its method cannot be exported, or `path` is a folder.
    MissingExtraError
        onnx or onnxruntime is not installed.
    """
    if not isinstance(detector, Detector):
        raise InputError(
            f"The 'detector' parameter must be a detector. Got {type(detector).__name__} instead."
        )
    n_bytes = sum(value.nbytes for value in detector.backend.state_dict().values())
    if detector.not_exported:
        raise InputError(f"{detector.system} cannot be exported: {detector.not_exported}.")
    if path.is_dir():
        raise InputError(f"The 'path' parameter must be a file. {str(path)!r} is a folder.")
    missing = [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise MissingExtraError(f"Export needs {', '.join(missing)}: pip install 'adcgan[export]'")
    if n_bytes > _MOST_WEIGHT_BYTES:
        raise InputError(
            f"An .onnx file must be smaller than 2 GiB. This detector's weights take {n_bytes:,} "
            "bytes: fit one with a smaller width."
        )


def _plain(model: Model) -> Model:
    """Turn a model's layers into torch's own, which are ONNX's too, and return it.

    Weights that are normalised anew for each batch become what they are. Neither works on networks
    copied by ``deepcopy``: their parametrized layers share classes with the original's.
    """
    for module in model.modules():
        if parametrize.is_parametrized(module):
            assert isinstance(module.parametrizations, nn.ModuleDict)
            for name in list(module.parametrizations):
                parametrize.remove_parametrizations(module, name)
        module.__class__ = _TORCH_LAYERS.get(type(module), type(module))
    return model
