"""Batches on the device, and the order of images in training."""

from __future__ import annotations

from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Device memory for images where the free memory cannot be asked for.
_DEFAULT_BUDGET_BYTES = 1 << 30

# Keep the streams of random numbers that share one seed apart.
_EPOCH_ORDER, _HELD_OUT, _SCALING = 0, 1, 2


class DeviceImages:
    """Images that stay uint8 until a batch of them is on the device.

    All images are put on the device if they fit the budget. Otherwise batches are gathered in
    main memory and sent: on CUDA from pinned memory, so that the copy does not hold up the caller.
    On a CPU the array is used where it is: a memory-mapped file is read as batches need it.
    Several of these objects with one array and device, in use at a time, have one copy of it.

    Parameters
    ----------
    images : ndarray of uint8, shape (n, C, H, W)
        In memory or memory-mapped. Must not change while this object is in use.
    device : torch.device
        Where batches are wanted.
    budget_bytes : int or None, default None
        Most device memory to spend on the images. None: a quarter of what is free on CUDA devices,
        1 GiB on others.

    Attributes
    ----------
    device : torch.device
    resident : bool
        Whether all images are on the device. An index should be too then; else in main memory.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        device: torch.device,
        budget_bytes: int | None = None,
    ) -> None:
        assert images.dtype == np.uint8
        assert images.ndim == 4
        self.device = device
        self._copy = copy_on(device, images, budget_bytes)
        self.resident = self._copy is not None
        self._images = as_tensor(images) if self._copy is None else self._copy.tensor

    def __len__(self) -> int:
        return len(self._images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of one image."""
        _, channels, height, width = self._images.shape
        return channels, height, width

    def gather(self, index: NDArray[np.int64] | Tensor) -> Tensor:
        """Return the images at `index`.

        Parameters
        ----------
        index : ndarray or Tensor of int64, shape (B,)
            In main memory or on the device.

        Returns
        -------
        Tensor of float32, shape (B, C, H, W)
            On the device, in [0, 1].
        """
        where = torch.from_numpy(index) if isinstance(index, np.ndarray) else index
        if self.resident:
            batch = self._images.index_select(0, where.to(self.device, non_blocking=True))
        else:
            batch = self._send(where.cpu())
        return to_floats(batch)

    def _send(self, index: Tensor) -> Tensor:
        """Gather a batch in main memory and start its copy to the device."""
        if self.device.type != "cuda":
            return self._images.index_select(0, index).to(self.device)
        # A pinned block of its own for each batch: torch's allocator hands it out again only when
        # the copy is done.
        pinned = torch.empty(
            (len(index), *self._images.shape[1:]), dtype=torch.uint8, pin_memory=True
        )
        torch.index_select(self._images, 0, index, out=pinned)
        return pinned.to(self.device, non_blocking=True)


class DeviceCopy:
    """An array's copy on a device, `tensor`. Keeps the array, so that no other gets its address."""

    def __init__(self, images: NDArray[np.uint8], device: torch.device) -> None:
        self.array, self.tensor = images, as_tensor(images).to(device)


# Those in use, by the array's identity.
_copies: WeakValueDictionary[tuple[int, torch.device], DeviceCopy] = WeakValueDictionary()


def copy_on(
    device: torch.device, images: NDArray[np.uint8], budget_bytes: int | None = None
) -> DeviceCopy | None:
    """Return `images` on `device`: the copy in use if there is one, on a CPU the array itself.

    Parameters
    ----------
    device : torch.device
        Where the images are wanted.
    images : ndarray of uint8
        Of any shape. Must not change while the copy is in use.
    budget_bytes : int or None, default None
        As for `DeviceImages`. If they do not fit, there is no copy: None.
    """
    copy = _copies.get((id(images), device))
    if copy is None:
        budget = budget_of(device) if budget_bytes is None else budget_bytes
        if device.type != "cpu" and images.nbytes > budget:
            return None
        copy = _copies[id(images), device] = DeviceCopy(images, device)
    return copy


def to_floats(images: Tensor) -> Tensor:
    """Return uint8 images of any shape as float32 in [0, 1], on the same device."""
    return images.to(torch.float32).div_(255)


class Split(NamedTuple):
    """Indices of the images trained on, and of those held out: disjoint and ascending."""

    train: NDArray[np.int64]
    held_out: NDArray[np.int64]


def epoch_order(n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the order of the images in one epoch, a function of the arguments alone.

    Parameters
    ----------
    n : int
        Number of images.
    seed : int
        At least 0.
    epoch : int
        At least 0.

    Returns
    -------
    ndarray of int64, shape (n,)
        A permutation of 0 to n - 1.
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(_EPOCH_ORDER, epoch))
    return np.random.default_rng(sequence).permutation(n).astype(np.int64, copy=False)


def split_held_out(n: int, fraction: float, seed: int) -> Split:
    """Hold some images out of training.

    Parameters
    ----------
    n : int
        Number of images, at least 2.
    fraction : float
        The share to hold out, rounded to whole images; at least one is held out and one is not.
    seed : int
        At least 0.

    Returns
    -------
    Split
        Together 0 to n - 1.
    """
    assert n >= 2
    count = min(max(round(n * fraction), 1), n - 1)
    sequence = np.random.SeedSequence(seed, spawn_key=(_HELD_OUT,))
    order = np.random.default_rng(sequence).permutation(n).astype(np.int64, copy=False)
    return Split(np.sort(order[count:]), np.sort(order[:count]))


def divided(index: NDArray[np.int64], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divide held-out images into a quarter, rounded down, to measure scales on, and the rest.

    Parameters
    ----------
    index : ndarray of int64, shape (m,)
        The images held out.
    seed : int
        At least 0.

    Returns
    -------
    scaling, calibration : ndarray of int64
        Together `index`, each ascending.
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(_SCALING,))
    order = np.random.default_rng(sequence).permutation(len(index))
    count = len(index) // 4
    return np.sort(index[order[:count]]), np.sort(index[order[count:]])


class _Borrowed:
    """Presents read-only memory as writable, so that torch takes it without a warning.

    Nothing writes to it. Holds a reference, so that the array lives as long as the view.
    """

    def __init__(self, array: NDArray[np.uint8]) -> None:
        self.array = array
        interface: dict[str, Any] = dict(array.__array_interface__)
        interface["data"] = (interface["data"][0], False)
        self.__array_interface__ = interface


def as_tensor(images: NDArray[np.uint8]) -> Tensor:
    """View an array as a tensor, without a copy."""
    if any(stride < 0 for stride in images.strides):
        # The one layout that torch has no view of.
        images = np.ascontiguousarray(images)
    if not images.flags.writeable:
        images = np.asarray(_Borrowed(images))
    return torch.from_numpy(np.asarray(images))


def budget_of(device: torch.device) -> int:
    """Return how many bytes of images a device may hold: on CUDA a quarter of what is free."""
    if device.type != "cuda":
        return _DEFAULT_BUDGET_BYTES
    free, _ = torch.cuda.mem_get_info(device)
    return int(free) // 4
