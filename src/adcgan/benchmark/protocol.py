"""The benchmark's protocols: which images are for training and which for testing.

The functions are pure and map labels to indices, so they can be tested without images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from adcgan.data import anomaly_labels
from adcgan.errors import InputError

if TYPE_CHECKING:
    from adcgan.detectors import Detector

SCHEMES = ("one-vs-all", "all-vs-one")
# For folders of normal and defective images, which have no classes.
DEFECTS = "defects"
SPLITS = ("test", "development")
PROTOCOLS = ("paper", "released")

# The development split takes this fraction of the normal training images, and at most this many
# images of each kind.
DEVELOPMENT_SHARE = 0.2
DEVELOPMENT_CAP = 5000
# The images are the same for every cell, so that settings can be compared.
_DEVELOPMENT_SEED = 0
# Separate random streams for one seed.
_NORMAL, _ANOMALOUS, _SUBSET = 0, 1, 2

# The paper trains longer if many classes are normal (A.3). The epochs of the other scheme are the
# constructor's defaults.
_SCHEME_SETTINGS: dict[tuple[str, str], dict[str, Any]] = {
    ("adcgan", "all-vs-one"): {"warmup_epochs": 15, "epochs": 35},
}
# The release's latent critic judges single latents.
_RELEASED_SETTINGS: dict[str, Any] = {"latent": "single"}


@dataclass(frozen=True, eq=False)
class Partition:
    """The images of one cell of the benchmark.

    Attributes
    ----------
    train : ndarray of intp (n,)
        Normal images for training, as ascending indices into the training split.
    evaluation : ndarray of intp (m,)
        Images for testing, as ascending indices into the split `source`.
    source : {"train", "test"}
        Split to which the indices in `evaluation` refer.
    labels : ndarray of int64 (m,)
        Labels of the images in `evaluation`: 1 anomalous, 0 normal.
    """

    train: NDArray[np.intp]
    evaluation: NDArray[np.intp]
    source: Literal["train", "test"]
    labels: NDArray[np.int64]


def protocol_settings(detector: type[Detector], scheme: str, protocol: str) -> dict[str, Any]:
    """Return the constructor parameters that the benchmark sets for a detector class.

    Parameters
    ----------
    detector : type
        Class in `adcgan.DETECTORS`.
    scheme, protocol : str
        One of `SCHEMES`, or `DEFECTS`, and one of `PROTOCOLS`.

    Returns
    -------
    dict
        The paper's epochs for `scheme`, ``min_steps=0`` if there is such a parameter (so that the
        paper's epochs hold however few the images), and what "released" needs. Detectors that are
        not in the paper keep their own number of steps. Empty for `DEFECTS`, which is not in the
        paper: all detectors then use the defaults of ``adcgan fit``.
    """
    if scheme == DEFECTS:
        return {}
    chosen = dict(_SCHEME_SETTINGS.get((detector.name, scheme), {}))
    if "min_steps" in detector.rules() and not detector.own_steps:
        chosen["min_steps"] = 0
    return chosen | (_RELEASED_SETTINGS if protocol == "released" else {})


def is_anomalous(labels: NDArray[np.int64], scheme: str, class_: int) -> NDArray[np.int64]:
    """Label images as anomalous (1) or normal (0), given `class_` and `scheme`.

    Parameters
    ----------
    labels : ndarray of int64 (n,)
        Class numbers.
    scheme : {"one-vs-all", "all-vs-one"}
        Whether `class_` is the only normal class or the only anomalous class.
    class_ : int
        A class that occurs in `labels`.

    Raises
    ------
    InputError
        The scheme or class does not exist.
    """
    if scheme not in SCHEMES:
        raise InputError(
            f"The 'scheme' parameter must be one of {', '.join(SCHEMES)}. Got {scheme!r} instead."
        )
    if scheme == "one-vs-all":
        return anomaly_labels(labels, normal=class_)
    return anomaly_labels(labels, anomalous=class_)


def official_partition(
    train_labels: NDArray[np.int64],
    test_labels: NDArray[np.int64],
    *,
    scheme: str,
    class_: int,
    max_train: int | None = None,
    seed: int = 0,
) -> Partition:
    """Train on the normal images of the training split and test on the whole test split.

    Parameters
    ----------
    train_labels, test_labels : ndarray of int64 (n,), (m,)
        Class numbers of both splits.
    scheme, class_
        See `is_anomalous`.
    max_train : int or None
        Maximum number of training images, drawn with `seed`.
    seed : int
        Seed, at least 0.
    """
    normal = np.flatnonzero(is_anomalous(train_labels, scheme, class_) == 0)
    return Partition(
        train=subset(normal, max_train, seed),
        evaluation=np.arange(len(test_labels)),
        source="test",
        labels=is_anomalous(test_labels, scheme, class_),
    )


def development_partition(
    train_labels: NDArray[np.int64],
    *,
    scheme: str,
    class_: int,
    max_train: int | None = None,
    seed: int = 0,
) -> Partition:
    """Split the training images into both parts, for choices that must not use the test split.

    The normal half is a fraction `DEVELOPMENT_SHARE` of the normal training images, which are held
    out; the other half is training images of the anomalous classes. Neither is larger than
    `DEVELOPMENT_CAP`. The draw is the same for all seeds and detectors.

    Parameters
    ----------
    train_labels : ndarray of int64 (n,)
        Class numbers of the training split.
    scheme, class_, max_train, seed
        See `official_partition`.
    """
    anomalous = is_anomalous(train_labels, scheme, class_)
    normal_rows = _shuffled(np.flatnonzero(anomalous == 0), _DEVELOPMENT_SEED, _NORMAL)
    anomalous_rows = _shuffled(np.flatnonzero(anomalous == 1), _DEVELOPMENT_SEED, _ANOMALOUS)
    held_out = min(round(DEVELOPMENT_SHARE * len(normal_rows)), DEVELOPMENT_CAP)
    judged = np.sort(np.concatenate([normal_rows[:held_out], anomalous_rows[:DEVELOPMENT_CAP]]))
    return Partition(
        train=subset(np.sort(normal_rows[held_out:]), max_train, seed),
        evaluation=judged,
        source="train",
        labels=anomalous[judged],
    )


def subset(rows: NDArray[np.intp], most: int | None, seed: int) -> NDArray[np.intp]:
    """Draw at most `most` of `rows`, ascending; a smaller draw is a subset of a larger one."""
    if most is None or most >= len(rows):
        return rows
    return np.sort(_shuffled(rows, seed, _SUBSET)[:most])


def _shuffled(rows: NDArray[np.intp], seed: int, stream: int) -> NDArray[np.intp]:
    """Return `rows` in an order determined by `seed` and `stream`."""
    sequence = np.random.SeedSequence(seed, spawn_key=(stream,))
    return np.random.default_rng(sequence).permutation(rows)
