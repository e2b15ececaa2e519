"""Images in: folders, arrays and named data sets -> uint8 images, names and labels.

Batches on the device are made by `adcgan.data.prepare`, which alone needs torch.
"""

from __future__ import annotations

from adcgan.data.imageset import ImageSet, Skipped
from adcgan.data.load import ImageSource, load_images
from adcgan.data.named import DATASETS, NamedDataset, load_named

__all__ = [
    "DATASETS",
    "ImageSet",
    "ImageSource",
    "NamedDataset",
    "Skipped",
    "load_images",
    "load_named",
]
