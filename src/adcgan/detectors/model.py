"""What a system is: networks, a score, and how they are learned."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adcgan.data.prepare import Split, budget_of, to_floats
from adcgan.data.ragged import Images
from adcgan.progress import Progress, silent
from adcgan.scoring import (
    Components,
    Scored,
    Shape,
    in_batches,
    location_and_scale,
    standardise,
)
from adcgan.training import Recipe, full_precision

if TYPE_CHECKING:
    from accelerate import Accelerator


# What a pass of the paper's networks takes at most, at width 1, for each pixel of an image.
BYTES_PER_PIXEL = 1024


class Model(nn.Module, ABC):
    """One system for images of one shape, or of one number of channels where sizes are kept.

    A subclass defines `forward` and `combine`.

    A system of networks defines `recipe` too; one that also, or only, learns without gradients
    defines `learn`. One whose components must be put on one scale sets `scale`; it is measured on
    images that the threshold is not calibrated with, so that p-values hold what they promise.
    Networks are attributes, learned tensors are buffers: both are saved.

    Parameters
    ----------
    shape : (int, int, int)
        Channels, height and width of the images; of a typical one, where sizes are kept.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.scale: ComponentScale | None = None

    # -- what a system defines -----------------------------------------------------------------

    @abstractmethod
    def forward(self, x: Tensor) -> Scored[Tensor]:
        """Return all that is asked of images (B, C, H, W) in [0, 1], in one pass."""

    @abstractmethod
    def combine(self, components: Components) -> NDArray[np.float64]:
        """Return the scores (n,) made of `components`; higher = more anomalous.

        A weighted sum of the components and a constant.
        """

    def variants(self, components: Components) -> dict[str, NDArray[np.float64]]:
        """Return other scores (n,) made of the same components, by name."""
        del components
        return {}

    def recipe(self, n_train: int, accelerator: Accelerator) -> Recipe | None:
        """Return how the networks are trained on `n_train` images, None where there are none."""
        del n_train, accelerator
        return None

    def learn(self, images: Images, split: Split, progress: Progress) -> None:
        """Learn what no gradient does, once the networks are trained.

        Parameters
        ----------
        images : ndarray of uint8 (n, C, H, W), or Ragged of n
            Normal images.
        split : Split
            Which of them to learn from, and which to judge what was learned by. The latter are
            never those that the threshold is calibrated with.
        progress : Progress
            Where progress is reported.
        """

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        """Return what the generator makes of `n` latents that `rng`, on the CPU, draws.

        (n, C, H, W) in [0, 1].
        """
        raise NotImplementedError

    @property
    def images_at_once(self) -> int:
        """How many images one pass takes at most: as many as fit in about 1 GiB, 16 to 256.

        On CUDA devices as many as fit in a quarter of the memory that is free, up to 2,048.
        """
        if self.device.type == "cuda":
            return images_that_fit(self.shape, budget_of(self.device), 2048)
        return images_that_fit(self.shape, 2**30, 256)

    # -- what every system has -----------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(chain(self.parameters(), self.buffers())).device

    def scored(self, batch: NDArray[np.uint8]) -> Scored[NDArray[Any]]:
        """Return `forward` of uint8 images (B, C, H, W) as arrays, components in float64."""
        # Not inference mode: some systems search by gradients.
        with full_precision(), torch.no_grad():
            found: Scored[Tensor] = self(self.on_device(batch))
        arrays = found.map(lambda values: values.cpu().numpy())
        components = {name: v.astype(np.float64) for name, v in arrays.components.items()}
        return Scored(components, arrays.anomaly_map, arrays.reconstruction)

    def batches(
        self,
        images: Images,
        index: NDArray[np.int64] | None = None,
        progress: Progress = silent,
    ) -> Iterator[Tensor]:
        """Yield images, those at `index` if given, as `forward` takes them."""
        for batch in in_batches(images, self.images_at_once, index, progress):
            yield self.on_device(batch)

    def on_device(self, batch: NDArray[np.uint8]) -> Tensor:
        """Return uint8 images as floats in [0, 1] on the model's device."""
        # A copy, as torch takes no array that is walked backwards.
        return to_floats(torch.tensor(np.ascontiguousarray(batch), device=self.device))

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` returned, learned tensors of any length included."""
        for name, buffer in dict(self.named_buffers()).items():
            if name in state and state[name].shape != buffer.shape:
                owner, _, leaf = name.rpartition(".")
                setattr(self.get_submodule(owner), leaf, buffer.new_empty(state[name].shape))
        self.load_state_dict(state)


def images_that_fit(shape: Shape, budget_bytes: int, most: int) -> int:
    """Return how many images of `shape` a pass may take in so much memory: from 16 to `most`."""
    _, height, width = shape
    return int(np.clip(budget_bytes // (BYTES_PER_PIXEL * height * width), 16, most))


def channels_last(module: nn.Module) -> None:
    """Lay out the weights of convolutions with the channels innermost."""
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class ComponentScale(nn.Module):
    """Mean and standard deviation of each component on held-out normal images.

    They are extra state, not buffers: float64, which not every device has.

    Parameters
    ----------
    names : sequence of str
        Of the components.
    """

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.location, self.scale = dict.fromkeys(names, 0.0), dict.fromkeys(names, 1.0)

    def measure(self, components: Components) -> None:
        """Take over location and scale of `components`, (m,) each."""
        self.location, self.scale = location_and_scale(components)

    def forward(self, components: Components) -> dict[str, NDArray[np.float64]]:
        """Return components (n,) on the scale of the held-out images."""
        return standardise(components, self.location, self.scale)

    def get_extra_state(self) -> Tensor:
        """Return (n_components, 2): location and scale."""
        rows = [[self.location[name], self.scale[name]] for name in self.location]
        return torch.tensor(rows, dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        """Take over what `get_extra_state` returned."""
        for name, (location, scale) in zip(self.location, state.tolist(), strict=True):
            self.location[name], self.scale[name] = location, scale
