"""Features of timm networks, from weights on this machine."""

from __future__ import annotations

import hashlib
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from adcgan.detectors import imagenet
from adcgan.errors import InputError, MissingExtraError

# Strides of the features that are compared: those of PatchCore's second and third stages.
STRIDES = (8, 16)
# Images are padded to at least this side, the last stride of common networks.
LEAST_SIDE = 32


class TimmFeatures:
    """A timm network up to stride 16: images of any size to local features.

    Parameters
    ----------
    name : str
        Name as listed by ``timm.list_models()``.
    weights : str or None
        File with the network's weights. None uses timm's caches.

    Attributes
    ----------
    sha256 : str
        SHA-256 of the weights file.
    stride : int
        Pixels between neighbouring features.
    first : float
        Row and column at the centre of the first feature.

    Raises
    ------
    MissingExtraError
        timm is not installed.
    InputError
        timm has no such network, the network has no features at `STRIDES`, or the weights are
        missing.
    """

    stride = STRIDES[0]
    # Most timm networks pad symmetrically, so the first feature is centred on the first pixel.
    first = 0.0

    def __init__(self, name: str, weights: str | None) -> None:
        if find_spec("timm") is None:
            raise MissingExtraError(f"The backbone {name!r} needs timm: pip install timm")
        import timm

        if not timm.is_model(name):
            raise InputError(
                "The 'backbone' parameter of PretrainedPatch must be 'efficientnet-lite0' or a "
                f"timm network. Got {name!r} instead."
            )
        path = _cached(name) if weights is None else Path(weights).expanduser()
        try:
            self.sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise InputError(
                "The 'weights' parameter of PretrainedPatch must be a weights file for "
                f"{name}. Got {weights!r} instead ({error.strerror})."
            ) from None
        self.network = _network(name, path)
        # Three channels each, for images in [0, 1].
        for part in ("mean", "std"):
            values = self.network.pretrained_cfg[part]
            setattr(self, part, torch.tensor(values).view(1, -1, 1, 1))

    mean: Tensor
    std: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Return features (B, F, ⌈H/8⌉, ⌈W/8⌉) of images (B, 1 or 3, H, W) in [0, 1].

        Each is averaged over 3×3 neighbours; the coarser stage is upsampled to the finer one.
        """
        self.network.to(x.device)
        x = (
            imagenet.at_least(x, LEAST_SIDE).expand(-1, 3, -1, -1) - self.mean.to(x.device)
        ) / self.std.to(x.device)
        pooled = [imagenet.averaged(y) for y in self.network(x)]
        size = pooled[0].shape[2:]
        return torch.cat([pooled[0], F.interpolate(pooled[1], size, mode="bilinear")], 1)


def _network(name: str, path: Path) -> Any:
    """Load the network up to the last stride with the weights at `path`, in evaluation mode."""
    import timm

    try:
        reductions = timm.create_model(name, features_only=True).feature_info.reduction()
        # The last stage at each stride.
        stages = [
            max(i for i, stride in enumerate(reductions) if stride == wanted) for wanted in STRIDES
        ]
    except (AttributeError, RuntimeError, ValueError) as error:
        raise InputError(
            "The 'backbone' parameter of PretrainedPatch must be a network with features at "
            f"strides {' and '.join(map(str, STRIDES))}. Got {name!r} instead."
        ) from error
    trained: dict[str, Any] = {
        "pretrained": True,
        "pretrained_cfg_overlay": {"file": os.fspath(path)},
    }
    try:
        # Create the whole network first, as a feature extractor accepts a file without weights.
        timm.create_model(name, **trained)
        network = timm.create_model(name, features_only=True, out_indices=stages, **trained)
    except Exception as error:
        # A file with other content makes timm and torch raise anything; report it in one line.
        said = str(error).strip().splitlines()
        raise InputError(
            f"The weights file {str(path)!r} must match {name}, but it cannot be loaded: "
            f"{said[0] if said else type(error).__name__}"
        ) from error
    return network.eval().requires_grad_(False)


def _cached(name: str) -> Path:
    """Return the file of a network's weights in timm's caches."""
    import timm
    from huggingface_hub import try_to_load_from_cache

    config: Any = timm.get_pretrained_cfg(name)
    for file in ("model.safetensors", "pytorch_model.bin"):
        found = try_to_load_from_cache(config.hf_hub_id, file) if config.hf_hub_id else None
        if isinstance(found, str):
            return Path(found)
    if config.url:
        downloaded: Path = Path(torch.hub.get_dir()) / "checkpoints" / config.url.rsplit("/", 1)[-1]
        if downloaded.is_file():
            return downloaded
    raise InputError(
        f"The weights of {name} are not in timm's caches, and adcgan downloads nothing. Run "
        f"timm.create_model({name!r}, pretrained=True) once with internet access, or pass a file "
        "as the 'weights' parameter."
    )
