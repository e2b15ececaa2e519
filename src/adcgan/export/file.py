"""From a fitted detector to one file: what may be exported, and how the file comes to be."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from torch import nn
from torch.nn.utils import parametrize

from adcgan.detectors import (
    ADGAN,
    AnoGAN,
    Detector,
    PixelIsolationForest,
    PixelKNN,
    PixelPCA,
    PretrainedKNN,
)
from adcgan.errors import InputError, MissingExtraError
from adcgan.export.description import describe
from adcgan.export.graph import to_onnx
from adcgan.export.parity import check_parity
from adcgan.files import replacing
from adcgan.networks import layers
from adcgan.scoring import OnnxScorer
from adcgan.scoring.onnx_file import seal

# Weights beyond this leave no room for the graph in a Protocol Buffers file, 2 GiB at most.
_MOST_WEIGHT_BYTES = 2_000_000_000
_SEARCH = "it scores each image by a search with gradients, not by one forward pass"
_NEIGHBOURS = "it compares each image with every training image"
_REASONS: dict[type[Detector], str] = {
    ADGAN: _SEARCH,
    AnoGAN: _SEARCH,
    PixelPCA: "its arithmetic is NumPy's, not a network's",
    PixelKNN: _NEIGHBOURS,
    PretrainedKNN: _NEIGHBOURS,
    PixelIsolationForest: "its trees are scikit-learn's, not a network",
}
# Ours compute the same, faster in torch.
_TORCH_LAYERS: dict[type[nn.Module], type[nn.Module]] = {
    layers.Conv2d: nn.Conv2d,
    layers.ConvTranspose2d: nn.ConvTranspose2d,
    layers.Dropout: nn.Dropout,
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
        The detector is not fitted, its method cannot be exported, or `path` cannot be written.
    MissingExtraError
        onnx or onnxruntime is not installed.
    RuntimeError
        The file does not agree with the detector. None is left.
    """
    path = Path(path)
    _check(detector, path)
    reference, traced = _on_cpu(detector), _plain(_on_cpu(detector))
    # Described first, as that scores an image: what is computed for the first alone is a constant
    # of the graph then.
    description = describe(traced)
    content = seal(to_onnx(traced, description))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(content)
            parity, n_checked = check_parity(reference, OnnxScorer(temporary, device="cpu"))
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be written: {error.strerror}.") from None
    return Export(path, len(content), parity, n_checked)


def _check(detector: Detector, path: Path) -> None:
    """Refuse, before any work, what cannot be exported."""
    if not isinstance(detector, Detector):
        raise InputError(
            f"The 'detector' parameter must be a detector. Got {type(detector).__name__} instead."
        )
    detector._check_fitted()
    for kind, reason in _REASONS.items():
        if isinstance(detector, kind):
            raise InputError(f"{kind.__name__} cannot be exported: {reason}.")
    if path.is_dir():
        raise InputError(f"The 'path' parameter must be a file. {str(path)!r} is a folder.")
    missing = [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise MissingExtraError(f"Export needs {', '.join(missing)}: pip install 'adcgan[export]'")
    n_bytes = sum(value.nbytes for value in detector._state().values())
    if n_bytes > _MOST_WEIGHT_BYTES:
        raise InputError(
            "One .onnx file holds less than 2 GiB. This detector's weights take "
            f"{n_bytes:,} bytes; a smaller width makes them fewer."
        )


def _on_cpu(detector: Detector) -> Detector:
    """Return the detector on the CPU, with networks of its own."""
    twin = copy.copy(detector)
    twin.device = "cpu"
    twin._build_seeded(detector.image_shape_)
    twin._set_state({name: value.detach().cpu() for name, value in detector._state().items()})
    return twin


def _plain(detector: Detector) -> Detector:
    """Turn a detector's layers into torch's own, which are ONNX's too, and return it.

    Weights that are normalised anew for each batch become what they are. Neither works on networks
    copied by ``deepcopy``: their parametrized layers share classes with the original's.
    """
    for module in detector.networks_.modules():
        if parametrize.is_parametrized(module):
            assert isinstance(module.parametrizations, nn.ModuleDict)
            for name in list(module.parametrizations):
                parametrize.remove_parametrizations(module, name)
        module.__class__ = _TORCH_LAYERS.get(type(module), type(module))
    return detector
