"""Images in: folders, arrays and named data sets -> uint8 images, names and labels.

Batches on the device are made by `adcgan.data.prepare`, which alone needs torch.
"""

from __future__ import annotations

from adcgan.data.classes import anomaly_labels, labelled_images, normal_images
from adcgan.data.imageset import ImageSet, Skipped
from adcgan.data.layouts import (
    FOLDER_SETS,
    anomalous_listing,
    judging_listing,
    training_listing,
)
from adcgan.data.listing import ListedImage, Listing
from adcgan.data.load import ImageSource, load_images
from adcgan.data.manifest import read_manifest
from adcgan.data.named import DATASETS, NamedDataset, load_named

__all__ = [
    "DATASETS",
    "FOLDER_SETS",
    "ImageSet",
    "ImageSource",
    "ListedImage",
    "Listing",
    "NamedDataset",
    "Skipped",
    "anomalous_listing",
    "anomaly_labels",
    "judging_listing",
    "labelled_images",
    "load_images",
    "load_named",
    "normal_images",
    "read_manifest",
    "training_listing",
]
