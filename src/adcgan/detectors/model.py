"""The model of a system: its networks, its score and its training."""

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


# Upper bound on the memory of a pass through the paper's networks at width 1, per pixel.
BYTES_PER_PIXEL = 1024


class Model(nn.Module, ABC):
    """A system for images of one shape, or of any size with a fixed number of channels.

    A subclass defines `forward` and `combine`.

    A system with networks also defines `recipe`; a system that learns without gradients, also or
    exclusively, defines `learn`. A system whose components need a common scale sets `scale`, which
    is measured on images that are not used to calibrate the threshold, so that p-values remain
    valid. Networks are attributes and learned tensors are buffers; both are saved.

    Parameters
    ----------
    shape : (int, int, int)
        Channels, height and width of the images, or of a typical image if sizes vary.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.scale: ComponentScale | None = None

    # -- what a system defines -----------------------------------------------------------------

    @abstractmethod
    def forward(self, x: Tensor) -> Scored[Tensor]:
        """Return components, map and reconstruction of images (B, C, H, W) in [0, 1]."""

    @abstractmethod
    def combine(self, components: Components) -> NDArray[np.float64]:
        """Combine `components` into scores (n,); a higher score is more anomalous.

        The score is a weighted sum of the components plus a constant.
        """

    def variants(self, components: Components) -> dict[str, NDArray[np.float64]]:
        """Return alternative scores (n,) of the same components, by name."""
        del components
        return {}

    def recipe(self, n_train: int, accelerator: Accelerator) -> Recipe | None:
        """Return how to train the networks on `n_train` images, or None without networks."""
        del n_train, accelerator
        return None

    def learn(self, images: Images, split: Split, progress: Progress) -> None:
        """Learn whatever is not learned by gradient descent, after the networks are trained.

        Parameters
        ----------
        images : ndarray of uint8 (n, C, H, W), or Ragged of n
            Normal images.
        split : Split
            Indices of the images to learn from and of the images to evaluate on. The latter are
            never used to calibrate the threshold.
        progress : Progress
            Where to report progress.
        """

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        """Generate `n` images from latents drawn with `rng`, a generator on the CPU.

        The images are (n, C, H, W) in [0, 1].
        """
        raise NotImplementedError

    @property
    def images_at_once(self) -> int:
        """Maximum number of images per pass: as many as fit in about 1 GiB, from 16 to 256.

        On CUDA devices, as many as fit in a quarter of the free memory, up to 2,048.
        """
        if self.device.type == "cuda":
            return images_that_fit(self.shape, budget_of(self.device), 2048)
        return images_that_fit(self.shape, 2**30, 256)

    # -- what every system has -----------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return next(chain(self.parameters(), self.buffers())).device

    def scored(self, batch: NDArray[np.uint8]) -> Scored[NDArray[Any]]:
        """Return `forward` for uint8 images (B, C, H, W) as arrays, components in float64."""
        # Not inference mode: some systems search with gradients.
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
        """Yield the images, or those at `index`, in batches for `forward`."""
        for batch in in_batches(images, self.images_at_once, index, progress):
            yield self.on_device(batch)

    def on_device(self, batch: NDArray[np.uint8]) -> Tensor:
        """Return uint8 images as floats in [0, 1] on the model's device."""
        # Copy, because torch rejects arrays with negative strides.
        return to_floats(torch.tensor(np.ascontiguousarray(batch), device=self.device))

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Load what `state_dict` returned, including learned tensors of any length."""
        for name, buffer in dict(self.named_buffers()).items():
            if name in state and state[name].shape != buffer.shape:
                owner, _, leaf = name.rpartition(".")
                setattr(self.get_submodule(owner), leaf, buffer.new_empty(state[name].shape))
        self.load_state_dict(state)


def images_that_fit(shape: Shape, budget_bytes: int, most: int) -> int:
    """Return how many images of `shape` fit in a pass within the budget: 16 to `most`."""
    _, height, width = shape
    return int(np.clip(budget_bytes // (BYTES_PER_PIXEL * height * width), 16, most))


def channels_last(module: nn.Module) -> None:
    """Convert the weights of convolutions to channels-last layout."""
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class ComponentScale(nn.Module):
    """Mean and standard deviation of each component on held-out normal images.

    They are stored as extra state, not as buffers, because not every device supports float64.

    Parameters
    ----------
    names : sequence of str
        Names of the components.
    """

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.location, self.scale = dict.fromkeys(names, 0.0), dict.fromkeys(names, 1.0)

    def measure(self, components: Components) -> None:
        """Measure the location and scale of `components`, (m,) each."""
        self.location, self.scale = location_and_scale(components)

    def forward(self, components: Components) -> dict[str, NDArray[np.float64]]:
        """Standardise components (n,) on the held-out images."""
        return standardise(components, self.location, self.scale)

    def get_extra_state(self) -> Tensor:
        """Return (n_components, 2): location and scale."""
        rows = [[self.location[name], self.scale[name]] for name in self.location]
        return torch.tensor(rows, dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        """Restore what `get_extra_state` returned."""
        for name, (location, scale) in zip(self.location, state.tolist(), strict=True):
            self.location[name], self.scale[name] = location, scale
