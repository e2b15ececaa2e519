"""Which images are normal: from classes and folders to 0 and 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adcgan.data.imageset import ImageSet
from adcgan.errors import InputError

NORMAL_FOLDER, ANOMALOUS_FOLDER = "normal", "anomalous"


def anomaly_labels(
    labels: ArrayLike,
    class_names: Sequence[str] | None = None,
    *,
    normal: int | str | None = None,
    anomalous: int | str | None = None,
) -> NDArray[np.int64]:
    """Turn class labels into 0 (normal) and 1 (anomalous) by naming one class.

    Parameters
    ----------
    labels : array-like of shape (n,), int
        Class numbers.
    class_names : sequence of str, optional
        Name of each class number.
    normal : int or str, optional
        The one normal class, by name or number; every other class is anomalous (one-vs-all).
    anomalous : int or str, optional
        The one anomalous class; every other class is normal (all-vs-one).

    Returns
    -------
    ndarray of shape (n,), int64
        0 normal, 1 anomalous.

    Raises
    ------
    InputError
        If not exactly one of `normal` and `anomalous` is given, or there is no such class.
    """
    if (normal is None) == (anomalous is None):
        raise InputError(
            "Exactly one of 'normal' and 'anomalous' must be given. "
            f"Got {'neither' if normal is None else 'both'}."
        )
    labels = np.asarray(labels)
    if normal is not None:
        marked = labels != _class_number("normal", normal, labels, class_names)
    else:
        assert anomalous is not None
        marked = labels == _class_number("anomalous", anomalous, labels, class_names)
    return np.asarray(marked, dtype=np.int64)


def _class_number(
    parameter: str,
    wanted: int | str,
    labels: NDArray[Any],
    class_names: Sequence[str] | None,
) -> int:
    """Return the number of the class `wanted`, a name first and a number otherwise."""
    names = list(class_names or [])
    if wanted in names:
        return names.index(str(wanted))
    numbers = list(range(len(names))) or np.unique(labels).tolist()
    if str(wanted).isdecimal() and int(wanted) in numbers:
        return int(wanted)
    shown = [f"{i} ({name})" if name != str(i) else name for i, name in enumerate(names)]
    allowed = ", ".join(shown or [str(number) for number in numbers])
    raise InputError(f"The '{parameter}' class must be one of {allowed}. Got {wanted!r} instead.")


def normal_images(
    images: ImageSet, *, normal: int | str | None = None, anomalous: int | str | None = None
) -> ImageSet:
    """Return the normal images of a set with classes, to learn from.

    Inputs that could not be read stay in `skipped`, after the images.

    Parameters
    ----------
    images : ImageSet
        With labels.
    normal, anomalous : int or str, optional
        As in `anomaly_labels`.

    Raises
    ------
    InputError
        As `anomaly_labels`, and if the images have no labels.
    """
    labels = anomaly_labels(
        _classes(images), images.class_names, normal=normal, anomalous=anomalous
    )
    chosen = images.select(np.flatnonzero(labels == 0))
    n = len(chosen)
    return replace(
        chosen,
        skipped=[replace(item, position=n + i) for i, item in enumerate(images.skipped)],
        source=f"{images.source}, "
        + (f"only {normal}" if normal is not None else f"without {anomalous}"),
    )


def labelled_images(
    images: ImageSet, *, normal: int | str | None = None, anomalous: int | str | None = None
) -> ImageSet:
    """Return images with labels 0 (normal) and 1 (anomalous), to judge a detector on.

    Parameters
    ----------
    images : ImageSet
        With classes, with labels that are 0 and 1 already, or of a folder with ``normal/`` and
        ``anomalous/`` in it.
    normal, anomalous : int or str, optional
        As in `anomaly_labels`; neither where the labels are 0 and 1, or folders say it.

    Raises
    ------
    InputError
        As `anomaly_labels`, and if the images have neither labels nor such folders.
    """
    chosen = normal is not None or anomalous is not None
    if images.labels is None and not chosen:
        return replace(images, labels=_labels_of_folders(images))
    labels = _classes(images)
    if not chosen and images.class_names is None and set(np.unique(labels)) <= {0, 1}:
        return images
    which = f"{normal} normal" if normal is not None else f"{anomalous} anomalous"
    return replace(
        images,
        labels=anomaly_labels(labels, images.class_names, normal=normal, anomalous=anomalous),
        class_names=[NORMAL_FOLDER, ANOMALOUS_FOLDER],
        source=f"{images.source}, {which}",
    )


def _classes(images: ImageSet) -> NDArray[np.int64]:
    """Return the labels, or refuse a class asked for where there are none."""
    if images.labels is None:
        raise InputError(
            "A normal or anomalous class can be named only for labelled data: a named set, or an "
            f".npz file with an array 'labels'. {images.source!r} has no labels."
        )
    return images.labels


def _labels_of_folders(images: ImageSet) -> NDArray[np.int64]:
    """Return labels by the first folder in each image's name."""
    folders = [name.split("/")[0] if "/" in name else "" for name in images.names]
    found = set(folders)
    if found != {NORMAL_FOLDER, ANOMALOUS_FOLDER}:
        where = ", ".join(repr(folder + "/") if folder else "no folder" for folder in sorted(found))
        raise InputError(
            f"DATA must be a folder with images in {NORMAL_FOLDER}/ and {ANOMALOUS_FOLDER}/ and "
            f"nowhere else, a named set, or an .npz file with labels. {images.source!r} has images "
            f"in {where} instead."
        )
    return np.array([folder == ANOMALOUS_FOLDER for folder in folders], dtype=np.int64)
