"""Categories: folders in the layout of industrial data sets, as input for the benchmark."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from adcgan.benchmark.defects import read_truth
from adcgan.data import (
    DATASETS,
    FOLDER_SETS,
    ImageSet,
    Listing,
    judging_listing,
    load_images,
    training_listing,
)
from adcgan.data.folder import valid_name
from adcgan.data.layouts import GOOD, TEST, TRAIN, categories, folder_name
from adcgan.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from adcgan.detectors import Detector


@dataclass(frozen=True)
class Category:
    """One kind of part, with normal images for training and other images for testing.

    Parameters
    ----------
    dataset : str
        Name of the data set in rows: that of its folder.
    name : str
        Name of the category in rows: that of its own folder.
    folder : str
        Path on this machine.
    images : str
        Hash of the names and sizes of its files, which distinguishes sets with the same name.
    """

    dataset: str
    name: str
    folder: str
    images: str


def is_folder_set(dataset: str) -> bool:
    """Return whether a data set given to the benchmark is a folder, not a set with classes."""
    return dataset not in DATASETS


def find_categories(data: str, names: Sequence[str] | None = None) -> list[Category]:
    """Find the categories of a folder, in alphabetical order.

    Parameters
    ----------
    data : str
        A folder that is a category or contains categories, or a name in `adcgan.data.FOLDER_SETS`.
    names : sequence of str or None
        Categories to return; None means all.

    Raises
    ------
    InputError
        There is no such folder or category, or a category lacks normal images for training or
        normal and defective images for testing.
    """
    if data not in FOLDER_SETS and not os.path.isdir(os.path.expanduser(data)):
        known = ", ".join([*DATASETS, *FOLDER_SETS])
        raise InputError(
            f"The 'dataset' parameter must be one of {known}, or a folder. "
            f"Got {valid_name(data)!r} instead."
        )
    found = categories(data)
    if not found:
        raise InputError(
            f"The folder {valid_name(data)!r} must contain {TRAIN}/{GOOD}/ and {TEST}/, or folders "
            "(categories) that do. It contains neither."
        )
    for name in names or ():
        if name not in found:
            raise InputError(
                f"The 'classes' parameter must be among {', '.join(found)}, the categories of "
                f"{valid_name(data)!r}. Got {name!r} instead."
            )
    wanted = found if names is None else {name: found[name] for name in found if name in names}
    return [
        Category(folder_name(data), name, os.path.abspath(folder), _checked(folder))
        for name, folder in wanted.items()
    ]


def category_images(category: Category, detector: Detector) -> tuple[ImageSet, ImageSet]:
    """Return the training images, without labels, and the test images, with labels.

    Both are resized as the detector requires. The test images come with masks and defect types.
    """
    learned, judged = _listings(category.folder)
    train = load_images(learned, image_size=detector.image_size, resize=detector.resize, cache=True)
    test = load_images(
        judged,
        image_size=detector.image_size,
        resize=detector.resize,
        channels=train.shape[0],
        cache=True,
    )
    return replace(train, labels=None), test


def prepare_categories(wanted: Iterable[tuple[Category, Detector]]) -> None:
    """Decode the images and read the masks once, so that errors in them are reported early."""
    seen: set[tuple[str, int | None, str]] = set()
    for category, detector in wanted:
        kind = (category.folder, detector.image_size, detector.resize)
        if kind not in seen:
            seen.add(kind)
            _, test = category_images(category, detector)
            read_truth(test, detector.resize)


def _listings(folder: str | Path) -> tuple[Listing, Listing]:
    """List the training images and the test images of a category."""
    learned, judged = training_listing(folder), judging_listing(folder)
    if learned is None or judged is None:
        raise InputError(
            f"The folder {valid_name(str(folder))!r} must contain {TRAIN}/{GOOD}/ for training, "
            f"and {TEST}/{GOOD}/ and folders of defects in {TEST}/ for testing. It has no "
            f"{TRAIN}/{GOOD}/."
        )
    return learned, judged


def _checked(folder: Path) -> str:
    """Check that detectors can be tested on a category; return the hash of its files."""
    learned, judged = _listings(folder)
    labels = {item.label for item in judged.images}
    for label, place in ((0, f"{TEST}/{GOOD}/"), (1, f"folders of defects in {TEST}/")):
        if label not in labels:
            raise InputError(
                f"The folder {valid_name(str(folder))!r} must contain normal and defective images "
                f"in {TEST}/ for testing. It has none in {place}."
            )
    files = [
        (item.file.name, _size(item.file.path), item.mask and _size(item.mask))
        for item in [*learned.images, *judged.images]
    ]
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()[:12]


def _size(path: str) -> int | None:
    """Return the size of a file in bytes, or None if it cannot be accessed."""
    try:
        return os.path.getsize(path)
    except OSError:
        return None
