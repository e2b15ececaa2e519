"""Random crops of images of any size, cut on the device by index."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adcgan.data.prepare import as_tensor, copy_on, to_floats
from adcgan.data.ragged import Images, Ragged


class DeviceCrops:
    """Images that stay uint8 until crops of them are on the device.

    Parameters
    ----------
    images : ndarray of uint8 (n, C, H, W), or Ragged of n
        In memory or memory-mapped. Must not change while this object is in use.
    device : torch.device
        Where crops are wanted.
    side : int
        Height and width of a crop. A smaller image is continued by its mirror image.

    Attributes
    ----------
    resident : bool
        Whether all images are on the device, for which they must fit a quarter of its free
        memory. Otherwise crops are cut in main memory and sent.
    """

    def __init__(self, images: Images, device: torch.device, side: int) -> None:
        self.device, self.side = device, side
        stored = images.values if isinstance(images, Ragged) else images
        if not isinstance(images, Ragged):
            shape = images.shape[1:]
            images = Ragged(images.reshape(-1), [shape] * len(images))
        self._copy = copy_on(device, stored)
        self.resident = self._copy is not None
        where = device if self.resident else torch.device("cpu")
        self._pixels = as_tensor(stored) if self._copy is None else self._copy.tensor
        self._pixels = self._pixels.reshape(-1)
        self.channels = images.shapes[0][0]
        layout = np.column_stack([images.starts, [shape[1:] for shape in images.shapes]])
        self._layout = torch.from_numpy(layout.astype(np.int64)).to(where)  # start, height, width

    def gather(self, index: NDArray[np.int64] | Tensor, rng: torch.Generator) -> Tensor:
        """Return one crop of each image at `index`, at a place that `rng`, on the device, draws.

        A place at the border of an image is in about half as many crops as one inside.

        Tensor of float32 (B, C, side, side), on the device, in [0, 1].
        """
        which = torch.from_numpy(index) if isinstance(index, np.ndarray) else index
        start, height, width = self._layout[which.to(self._layout.device)].T
        drawn = torch.rand(2, len(which), generator=rng, device=rng.device).to(start.device)
        rows, columns = self._places(drawn[0], height), self._places(drawn[1], width)
        channel = torch.arange(self.channels, device=start.device)[:, None, None]
        # (B, C, side, side): start of the image, of the channel, of the row, and the column
        plane = (height * width)[:, None, None, None]
        row_start = rows[:, None, :, None] * width[:, None, None, None]
        places = start[:, None, None, None] + channel * plane + row_start
        return to_floats(self._pixels[places + columns[:, None, None, :]].to(self.device))

    def _places(self, drawn: Tensor, length: Tensor) -> Tensor:
        """Return the rows or columns (B, side) of crops of lines of this `length` (B,)."""
        # As if crops began up to half a side outside: else what lies at the border of an image,
        # which no crop but the outermost holds, would hardly ever be seen.
        furthest = (length - self.side).clamp(min=0)
        first = (drawn * (furthest + self.side + 1)).long() - self.side // 2
        first = torch.minimum(first.clamp(min=0), furthest)
        place = first[:, None] + torch.arange(self.side, device=first.device)
        # Beyond the end a line goes on as its mirror image, and back again.
        period = (2 * length - 2).clamp(min=1)[:, None]
        place = place % period
        return torch.minimum(place, period - place).clamp(max=length[:, None] - 1)
