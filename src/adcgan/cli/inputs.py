"""From command-line arguments to images and folders, or one line that says what is wrong."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from adcgan.cli.terminal import say
from adcgan.errors import InputError

if TYPE_CHECKING:
    from adcgan.data import ImageSet, Listing
    from adcgan.scoring import Scorer

# Files whose size decides which detector suits them.
LOOKED_AT = 20


def training_images(
    data: str,
    *,
    normal: str | None,
    anomalous: str | None,
    image_size: int | None,
    resize: str,
    strict: bool,
) -> ImageSet:
    """Return the images to learn from, with those that could not be read in `skipped`."""
    from adcgan.data import DATASETS, load_named, normal_images, training_listing

    if data in DATASETS:
        if normal is None and anomalous is None:
            raise InputError(
                f"The data set {data!r} has classes ({', '.join(DATASETS[data].class_names)}): "
                "name the normal one with --normal, or the anomalous one with --anomalous."
            )
        images = load_named(data, "train", image_size=image_size)
        refuse_skipped(images, strict)
    else:
        known = training_listing(data)
        if known is not None:
            refuse_classes(data, normal, anomalous)
        images = load_path(
            _noted(known) or data, image_size=image_size, resize=resize, strict=strict
        )
    if normal is None and anomalous is None:
        return images
    return normal_images(images, normal=normal, anomalous=anomalous)


def suited_detector(data: str) -> tuple[str, str]:
    """Return the name of the detector that suits images to learn from, and why."""
    from adcgan.selection.candidates import suited

    return suited(_longer_side(data))


def _longer_side(data: str) -> float:
    """Return the longer side of images in pixels, as a median of the first files."""
    from adcgan.data import DATASETS, training_listing
    from adcgan.data.folder import list_files
    from adcgan.data.masks import photograph_size

    if data in DATASETS:
        return DATASETS[data].size
    listing = training_listing(data)
    if listing is not None:
        files = [item.file for item in listing.images]
    elif os.path.isdir(data):
        files = list_files(Path(data))
    else:
        return max(load_path(data, resize="keep").shape[1:])
    sides = []
    for file in files[:LOOKED_AT]:
        # What cannot be read is named when all are loaded.
        with suppress(InputError):
            sides.append(max(photograph_size(file.path)))
    return median(sides or [0])


def images_to_compare(
    data: str,
    anomalies: str | None,
    *,
    normal: str | None,
    anomalous: str | None,
    longest: int,
    strict: bool,
) -> tuple[Callable[[int | None, str], ImageSet], ImageSet | None]:
    """Return a loader of the normal images at a given size, and the anomalous images, if any.

    Both come from the training split of a named set; the test split is for final figures.
    """
    from adcgan.data import (
        DATASETS,
        anomalous_listing,
        labelled_images,
        load_named,
        training_listing,
    )

    listing = None if data in DATASETS else _noted(training_listing(data))
    if listing is not None:
        refuse_classes(data, normal, anomalous)

    def load(image_size: int | None, resize: str) -> ImageSet:
        if listing is not None:
            return load_path(listing, image_size=image_size, resize=resize, strict=strict)
        return training_images(
            data,
            normal=normal,
            anomalous=anomalous,
            # The images of a named set are of one size already.
            image_size=None if data in DATASETS and resize == "keep" else image_size,
            resize=resize,
            strict=strict,
        )

    options: dict[str, Any] = {"image_size": longest, "resize": "keep", "strict": strict}
    if anomalies is not None:
        return load, load_path(anomalies, **options)
    if normal is not None or anomalous is not None:
        images = load_named(data, "train") if data in DATASETS else load_path(data, **options)
        images = labelled_images(images, normal=normal, anomalous=anomalous)
        assert images.labels is not None
        return load, images.select(images.labels == 1)
    own = None if data in DATASETS else anomalous_listing(data)
    return load, None if own is None else load_path(own, **options)


def images_to_score(detector: Scorer, data: str, *, strict: bool) -> ImageSet:
    """Return the images of `data` as the detector sees them; of a named set, its test split."""
    from adcgan.data import DATASETS, judging_listing
    from adcgan.data.manifest import is_manifest

    # Scores can be had of every row of a manifest, whatever it is for.
    if data in DATASETS or is_manifest(data):
        return _seen(detector, data, strict)
    return _seen(detector, _noted(judging_listing(data)) or data, strict)


def images_to_judge(
    detector: Scorer, data: str, *, normal: str | None, anomalous: str | None, strict: bool
) -> ImageSet:
    """Return images with labels 0 (normal) and 1 (anomalous)."""
    from adcgan.data import DATASETS, judging_listing, labelled_images

    known = None if data in DATASETS else judging_listing(data)
    if known is not None:
        refuse_classes(data, normal, anomalous)
    images = _seen(detector, _noted(known) or data, strict)
    return labelled_images(images, normal=normal, anomalous=anomalous)


def _seen(detector: Scorer, data: str | Listing, strict: bool) -> ImageSet:
    """Load images in the size and colours that the detector takes."""
    from adcgan.data import DATASETS, load_named

    target = detector.target_
    if isinstance(data, str) and data in DATASETS:
        # A named set has images of one size, and takes those of another kind for squares.
        size = target.size or detector.image_shape_[1]
        images = load_named(data, "test", image_size=size, channels=target.channels)
        refuse_skipped(images, strict)
        return images
    return load_path(
        data,
        image_size=target.size,
        resize=target.resize,
        channels=target.channels,
        strict=strict,
    )


def _noted(listing: Listing | None) -> Listing | None:
    """Print which part of a folder or manifest is used."""
    if listing is not None:
        say(f"layout     {listing.note}")
    return listing


def refuse_classes(data: str, normal: str | None, anomalous: str | None) -> None:
    """Refuse --normal and --anomalous for data that says itself which images are normal."""
    if normal is not None or anomalous is not None:
        raise InputError(
            f"--normal and --anomalous must be left out: {data!r} says itself which images are "
            "normal."
        )


def load_path(data: str | Listing, **options: Any) -> ImageSet:
    """Load a path, or the files that it lists."""
    from adcgan.data import DATASETS, FOLDER_SETS, Listing, load_images

    if not isinstance(data, Listing) and not os.path.lexists(data):
        raise InputError(
            "DATA must be a folder, an image, a manifest, an .npy or .npz file, or one of "
            f"{', '.join([*DATASETS, *FOLDER_SETS])}. {data!r} does not exist."
        )
    return load_images(data, cache=True, **options)


def refuse_skipped(images: ImageSet, strict: bool) -> None:
    """Refuse unreadable images of a named set, as `load_images` does for the rest."""
    if strict and images.skipped:
        first = images.skipped[0]
        raise InputError(
            f"{len(images.skipped)} images of {images.source} cannot be read; the first is "
            f"{first.name!r}: {first.error}."
        )


def check_output_folder(folder: Path, *, resume: bool) -> None:
    """Refuse, before any work, a folder that is not empty, unless a run in it is resumed.

    `OSError` if nothing can be written to it.
    """
    from adcgan.data.system_files import holds_something

    if not folder.exists():
        check_writable(folder)
        return
    if not folder.is_dir():
        raise InputError(f"--out must be a folder. {str(folder)!r} is a file.")
    if not resume and holds_something(folder):
        raise InputError(
            f"--out must be a new or empty folder, unless with --resume. {str(folder)!r} has "
            "files in it."
        )
    check_writable(folder)


def check_output_file(path: Path) -> None:
    """Refuse, before any work, a folder where a file is to be written.

    `OSError` if the folder that it is to be in cannot be written to.
    """
    if path.is_dir():
        raise InputError(f"--out must be a file. {str(path)!r} is a folder.")
    check_writable(path.parent)


def make_folder(folder: Path) -> None:
    """Make a folder for results, with its parents; `OSError` if it is not writable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"{str(folder)!r} cannot be created: {error.strerror}.") from None
    check_writable(folder)


def check_writable(folder: Path) -> None:
    """Raise, before any work, the error that a new file in a folder would meet.

    Parameters
    ----------
    folder : Path
        It need not be there yet.

    Raises
    ------
    OSError
        The file system is read-only, or the right is missing.
    """
    whole = folder.absolute()
    there = next(path for path in (whole, *whole.parents) if path.exists())
    if not there.is_dir() or os.access(there, os.W_OK | os.X_OK):
        return
    try:
        # Only the system knows why not.
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        error.filename = str(folder)
        raise
