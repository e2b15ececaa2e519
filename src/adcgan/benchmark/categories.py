"""Folders in the layout of industrial sets as material for the benchmark: a category each."""

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
    """One kind of part: normal photographs to learn from, others to be judged on.

    Parameters
    ----------
    dataset : str
        What rows call the set: the name of its folder.
    name : str
        What rows call the category: the name of its own folder.
    folder : str
        Where it is on this machine.
    images : str
        A hash of the names and sizes of its files, which tells sets of one name apart.
    """

    dataset: str
    name: str
    folder: str
    images: str


def is_folder_set(dataset: str) -> bool:
    """Say whether a benchmark's data set is meant to be a folder, not one with classes."""
    return dataset not in DATASETS


def find_categories(data: str, names: Sequence[str] | None = None) -> list[Category]:
    """Return the categories of a folder, in alphabetical order.

    Parameters
    ----------
    data : str
        A folder that is a category or holds some, or a name of `adcgan.data.FOLDER_SETS`.
    names : sequence of str or None
        Which of them; None for all.

    Raises
    ------
    InputError
        There is no such folder or category, or one that is wanted has no normal images to learn
        from, or not both normal and defective ones to be judged on.
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
            f"The folder {valid_name(data)!r} must have {TRAIN}/{GOOD}/ and {TEST}/ in it, or hold "
            "folders (categories) that have. It has neither."
        )
    for name in names or ():
        if name not in found:
            raise InputError(
                f"The 'classes' parameter must be of {', '.join(found)}, the categories of "
                f"{valid_name(data)!r}. Got {name!r} instead."
            )
    wanted = found if names is None else {name: found[name] for name in found if name in names}
    return [
        Category(folder_name(data), name, os.path.abspath(folder), _checked(folder))
        for name, folder in wanted.items()
    ]


def category_images(category: Category, detector: Detector) -> tuple[ImageSet, ImageSet]:
    """Return what a detector learns from, without labels, and what it is judged on, with them.

    Both are as the detector takes photographs; masks and types of defects come with the second.
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
    """Decode the images and read the masks once, so that what is wrong with them is said early."""
    seen: set[tuple[str, int | None, str]] = set()
    for category, detector in wanted:
        kind = (category.folder, detector.image_size, detector.resize)
        if kind not in seen:
            seen.add(kind)
            _, test = category_images(category, detector)
            read_truth(test, detector.resize)


def _listings(folder: str | Path) -> tuple[Listing, Listing]:
    """Return the images of a category to learn from, and those to be judged on."""
    learned, judged = training_listing(folder), judging_listing(folder)
    if learned is None or judged is None:
        raise InputError(
            f"The folder {valid_name(str(folder))!r} must have {TRAIN}/{GOOD}/ to learn from, and "
            f"{TEST}/{GOOD}/ and folders of defects in {TEST}/ to be evaluated on. It has no "
            f"{TRAIN}/{GOOD}/."
        )
    return learned, judged


def _checked(folder: Path) -> str:
    """Refuse a category that no detector can be judged on; return the hash of its files."""
    learned, judged = _listings(folder)
    labels = {item.label for item in judged.images}
    for label, place in ((0, f"{TEST}/{GOOD}/"), (1, f"folders of defects in {TEST}/")):
        if label not in labels:
            raise InputError(
                f"The folder {valid_name(str(folder))!r} must have normal and defective images in "
                f"{TEST}/ to be evaluated on. It has none in {place}."
            )
    files = [
        (item.file.name, _size(item.file.path), item.mask and _size(item.mask))
        for item in [*learned.images, *judged.images]
    ]
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()[:12]


def _size(path: str) -> int | None:
    """Return the bytes of a file, None where it cannot be looked at."""
    try:
        return os.path.getsize(path)
    except OSError:
        return None
