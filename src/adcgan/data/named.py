"""Data sets by name: the paper's, one that needs no download, and folders of photographs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from adcgan.data.cache import Decoded
from adcgan.data.hub import decode_hub
from adcgan.data.image_file import Target, check_channels, check_image_size, to_pixels
from adcgan.data.imageset import ImageSet, Skipped
from adcgan.data.layouts import FOLDER_SETS, judging_listing, training_listing
from adcgan.data.parallel import decode_all
from adcgan.errors import InputError
from adcgan.progress import Progress

SPLITS = ("train", "test")

# The share of each class that trains where a set comes without a test split (paper, section 5).
_TRAIN_SHARE = 0.8
_DIGITS_SEED = 0


@dataclass(frozen=True)
class NamedDataset:
    """A data set that can be loaded by name.

    Parameters
    ----------
    name : str
        What `load_named` and the command line call it.
    hub_id : str or None
        Its repository on the hub; None if scikit-learn ships it.
    image_column, label_column : str
        The hub's names of the columns.
    size : int
        Default height and width of its images in pixels.
    channels : int
        1 (grey) or 3 (RGB).
    class_names : tuple of str
        The name of each class.
    splits : tuple of str
        The splits it comes with. Without "test", "train" is split by a seed.
    """

    name: str
    hub_id: str | None
    image_column: str
    label_column: str
    size: int
    channels: int
    class_names: tuple[str, ...]
    splits: tuple[str, ...] = SPLITS


_DIGIT_NAMES = tuple(str(digit) for digit in range(10))

DATASETS: dict[str, NamedDataset] = {
    entry.name: entry
    for entry in (
        NamedDataset("mnist", "ylecun/mnist", "image", "label", 28, 1, _DIGIT_NAMES),
        NamedDataset(
            "fashion-mnist",
            "zalando-datasets/fashion_mnist",
            "image",
            "label",
            28,
            1,
            (
                "T-shirt/top",
                "trouser",
                "pullover",
                "dress",
                "coat",
                "sandal",
                "shirt",
                "sneaker",
                "bag",
                "ankle boot",
            ),
        ),
        NamedDataset(
            "cifar10",
            "uoft-cs/cifar10",
            "img",
            "label",
            32,
            3,
            (
                "airplane",
                "automobile",
                "bird",
                "cat",
                "deer",
                "dog",
                "frog",
                "horse",
                "ship",
                "truck",
            ),
        ),
        NamedDataset(
            "cats-vs-dogs",
            "microsoft/cats_vs_dogs",
            "image",
            "labels",
            64,
            3,
            ("cat", "dog"),
            ("train",),
        ),
        NamedDataset("digits", None, "images", "target", 16, 1, _DIGIT_NAMES, ("train",)),
    )
}


def load_named(
    name: str,
    split: str,
    *,
    image_size: int | None = None,
    channels: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> ImageSet:
    """Load one split of a data set by name.

    The sets come from the Hugging Face hub through `datasets` or, where ``$ADCGAN_DATA`` is set,
    from the folder ``$ADCGAN_DATA/<hub id>`` in the hub's layout. Decoded images are kept in the
    cache folder (``$ADCGAN_CACHE``, or the user's), found again by the content they come from.

    ``cats-vs-dogs`` has no test split: 80% of each class are its "train" and 20% its "test",
    drawn by `seed`. ``digits`` (1,797 images that scikit-learn ships: 8×8 with values 0 to 16,
    scaled to 0 to 255 and enlarged to 16×16) is split in the same way by a fixed seed.

    ``magnetic-tile``, photographs of parts with defects and masks, is the folder
    ``$ADCGAN_DATA/magnetic-tile`` in the layout of `adcgan.data.layouts`. Its labels are 0 (normal)
    and 1 (anomalous), without class names, and all of "train" is normal.

    Parameters
    ----------
    name : str
        A name in `DATASETS` or `FOLDER_SETS`.
    split : {"train", "test"}
        Which split.
    image_size : int or None, default None
        Height and width, 16 to 256; None for the set's own (64 for photographs).
    channels : {1, 3} or None, default None
        Convert to grey or RGB; None for the set's own.
    seed : int, default 0
        Draws the split of ``cats-vs-dogs``; at least 0.
    progress : Progress or None, default None
        Where to report to; None for a bar on the terminal.

    Returns
    -------
    ImageSet
        With labels and class names. Images are named by their row in the split they come with,
        or by their path.

    Raises
    ------
    InputError
        If a parameter is wrong, or the set is not in ``$ADCGAN_DATA`` or cannot be downloaded.
    MissingExtraError
        If `datasets` is needed and not installed.
    """
    if name not in DATASETS and name not in FOLDER_SETS:
        known = ", ".join([*DATASETS, *FOLDER_SETS])
        raise InputError(f"The 'name' parameter must be one of {known}. Got {name!r} instead.")
    if split not in SPLITS:
        raise InputError(f"The 'split' parameter must be 'train' or 'test'. Got {split!r} instead.")
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise InputError(
            f"The 'seed' parameter must be an integer of at least 0. Got {seed!r} instead."
        )
    check_channels(channels)
    if image_size is not None:
        check_image_size(image_size)
    if name in FOLDER_SETS:
        # Imported here because `load` names the sets of this module in an error.
        from adcgan.data.load import load_images

        listing = training_listing(name) if split == "train" else judging_listing(name)
        assert listing is not None
        return load_images(
            listing, image_size=image_size, channels=channels, cache=True, progress=progress
        )
    entry = DATASETS[name]
    target = Target(
        entry.size if image_size is None else int(image_size), channels=channels or entry.channels
    )
    stored = split if split in entry.splits else "train"
    if entry.hub_id is None:
        decoded, seed = _decode_digits(target, progress), _DIGITS_SEED
    else:
        decoded = decode_hub(
            entry.hub_id, stored, entry.image_column, entry.label_column, target, progress
        )
    assert decoded.labels is not None
    labels = np.asarray(decoded.labels, dtype=np.int64)
    rows = np.arange(len(labels))
    if "test" not in entry.splits:
        train, test = split_per_class(labels, _TRAIN_SHARE, int(seed))
        rows = train if split == "train" else test
    return _image_set(decoded, labels, rows, entry, f"{name} ({split})")


def split_per_class(
    labels: NDArray[np.int64], share: float, seed: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Split rows in two, each class in the same proportion.

    Parameters
    ----------
    labels : ndarray of int64, shape (n,)
        The class of each row.
    share : float
        The share of each class in the first part, rounded to whole rows.
    seed : int
        Draws the split. The draw in one class does not depend on the other classes.

    Returns
    -------
    first, second : ndarray of intp
        Disjoint, ascending, together all rows.
    """
    first: list[NDArray[np.intp]] = []
    second: list[NDArray[np.intp]] = []
    for label in np.unique(labels):
        random = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(int(label),)))
        rows = random.permutation(np.flatnonzero(labels == label))
        count = round(share * len(rows))
        first.append(rows[:count])
        second.append(rows[count:])
    return np.sort(np.concatenate(first)), np.sort(np.concatenate(second))


def _image_set(
    decoded: Decoded,
    labels: NDArray[np.int64],
    rows: NDArray[np.intp],
    entry: NamedDataset,
    source: str,
) -> ImageSet:
    """Return the given rows, out of all, as an image set."""
    place = np.full(decoded.n_items, -1)
    place[rows] = np.arange(len(rows))
    readable = decoded.positions
    kept = place[readable] >= 0
    everything = len(rows) == decoded.n_items
    chosen = readable[kept]
    return ImageSet(
        # Without a selection the pixels stay in the memory-mapped file.
        images=decoded.images if everything else decoded.images[kept],
        names=[str(row) for row in chosen],
        positions=place[chosen].astype(np.intp),
        skipped=[
            Skipped(int(place[item.position]), item.name, item.error)
            for item in decoded.skipped
            if place[item.position] >= 0
        ],
        labels=labels[chosen],
        class_names=list(entry.class_names),
        source=source,
        resized=True,
    )


def _decode_digits(target: Target, progress: Progress | None) -> Decoded:
    # Imported here because scikit-learn costs import time that other sets do not need.
    from sklearn.datasets import load_digits

    values, labels = load_digits(return_X_y=True)
    pixels = np.round(values.reshape(-1, 8, 8) * 255 / 16).astype(np.uint8)
    names = [str(i) for i in range(len(pixels))]

    def fetch(i: int) -> NDArray[np.uint8]:
        return to_pixels(Image.fromarray(pixels[i]), target)

    return decode_all(names, fetch, target, labels=labels.tolist(), progress=progress)
