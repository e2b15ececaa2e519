"""Features of networks that the package timm names, from weights that are on this machine."""

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

# Pixels from a place to the next of the features that are compared: those of PatchCore's second and
# third stages.
STRIDES = (8, 16)
# Sides are continued to at least this, which is the last stride of common networks.
LEAST_SIDE = 32


class TimmFeatures:
    """A network of timm up to stride 16: images of any size to features of places.

    Parameters
    ----------
    name : str
        As ``timm.list_models()`` has it.
    weights : str or None
        A file of the network's weights; None takes them from the caches of timm.

    Attributes
    ----------
    sha256 : str
        Of the weights' file.
    stride : int
        Pixels from a place to the next.
    first : float
        Row, and column, at the centre of the first place.

    Raises
    ------
    MissingExtraError
        timm is not installed.
    InputError
        timm has no such network, it has no features at `STRIDES`, or there are no such weights.
    """

    stride = STRIDES[0]
    # The layers of most networks of timm pad evenly, so that places begin at the first pixel.
    first = 0.0

    def __init__(self, name: str, weights: str | None) -> None:
        if find_spec("timm") is None:
            raise MissingExtraError(f"The backbone {name!r} needs timm: pip install timm")
        import timm

        if not timm.is_model(name):
            raise InputError(
                "The 'backbone' parameter of PretrainedPatch must be 'efficientnet-lite0' or a "
                f"network of timm. Got {name!r} instead."
            )
        path = _cached(name) if weights is None else Path(weights).expanduser()
        try:
            self.sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise InputError(
                "The 'weights' parameter of PretrainedPatch must be a file of weights for "
                f"{name}. Got {weights!r} instead ({error.strerror})."
            ) from None
        self.network = _network(name, path)
        # Numbers of three channels, of images in [0, 1].
        for part in ("mean", "std"):
            values = self.network.pretrained_cfg[part]
            setattr(self, part, torch.tensor(values).view(1, -1, 1, 1))

    mean: Tensor
    std: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Return features (B, F, ⌈H/8⌉, ⌈W/8⌉) of images (B, 1 or 3, H, W) in [0, 1].

        Each is the mean of 3×3 neighbours; those of the coarser stage are enlarged to the finer.
        """
        self.network.to(x.device)
        x = (
            imagenet.at_least(x, LEAST_SIDE).expand(-1, 3, -1, -1) - self.mean.to(x.device)
        ) / self.std.to(x.device)
        pooled = [imagenet.averaged(y) for y in self.network(x)]
        size = pooled[0].shape[2:]
        return torch.cat([pooled[0], F.interpolate(pooled[1], size, mode="bilinear")], 1)


def _network(name: str, path: Path) -> Any:
    """Return the network with the weights at `path`, in evaluation mode, up to the last stride."""
    import timm

    try:
        reductions = timm.create_model(name, features_only=True).feature_info.reduction()
        # The last stage of each stride.
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
        # The whole network first: one of features alone takes a file without its weights.
        timm.create_model(name, **trained)
        network = timm.create_model(name, features_only=True, out_indices=stages, **trained)
    except Exception as error:
        # Whatever a file that holds something else makes timm and torch say, in one line.
        said = str(error).strip().splitlines()
        raise InputError(
            f"The weights {str(path)!r} must be those of {name}. They cannot be loaded: "
            f"{said[0] if said else type(error).__name__}"
        ) from error
    return network.eval().requires_grad_(False)


def _cached(name: str) -> Path:
    """Return the file of a network's weights in the caches that timm fills."""
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
        f"There are no weights of {name} in timm's caches, and nothing is downloaded. Run "
        f"timm.create_model({name!r}, pretrained=True) once where there is a network, or name a "
        "file by the 'weights' parameter."
    )
