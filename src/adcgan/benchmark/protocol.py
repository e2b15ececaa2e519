"""Which images train a detector and which it is judged on: from labels to indices.

Every function is pure, so who sees which image can be tested without an image.
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
# Not of classes: a folder says which photographs are normal and which have defects.
DEFECTS = "defects"
SPLITS = ("test", "development")
PROTOCOLS = ("paper", "released")

# What the development split takes from the training split: this share of the normal images, and
# no more than this many images of either kind.
DEVELOPMENT_SHARE = 0.2
DEVELOPMENT_CAP = 5000
# The same images for every cell, so that settings are compared on equal terms.
_DEVELOPMENT_SEED = 0
# Keep the streams of random numbers that share one seed apart.
_NORMAL, _ANOMALOUS, _SUBSET = 0, 1, 2

# The paper trains longer where many classes are normal (A.3). The other scheme's epochs are the
# constructor's defaults.
_SCHEME_SETTINGS: dict[tuple[str, str], dict[str, Any]] = {
    ("adcgan", "all-vs-one"): {"warmup_epochs": 15, "epochs": 35},
}
# The release's latent critic judges latents one at a time.
_RELEASED_SETTINGS: dict[str, Any] = {"latent": "single"}


@dataclass(frozen=True, eq=False)
class Partition:
    """The images of one cell of the benchmark.

    Attributes
    ----------
    train : ndarray of intp (n,)
        Normal images to learn from: ascending indices into the training split.
    evaluation : ndarray of intp (m,)
        Images to judge the detector on: ascending indices into the split `source`.
    source : {"train", "test"}
        The split that `evaluation` points into.
    labels : ndarray of int64 (m,)
        1 anomalous, 0 normal, for each of `evaluation`.
    """

    train: NDArray[np.intp]
    evaluation: NDArray[np.intp]
    source: Literal["train", "test"]
    labels: NDArray[np.int64]


def protocol_settings(detector: type[Detector], scheme: str, protocol: str) -> dict[str, Any]:
    """Return the constructor parameters that a benchmark sets for a class of detectors.

    Parameters
    ----------
    detector : type
        A value in `adcgan.DETECTORS`.
    scheme, protocol : str
        Of `SCHEMES`, or `DEFECTS`, and of `PROTOCOLS`.

    Returns
    -------
    dict
        The paper's epochs under `scheme`, ``min_steps=0`` where there is such a parameter (the
        epochs are the paper's, however few the images), and what "released" needs. A detector
        that is not the paper's keeps its own steps. Nothing for `DEFECTS`, of which the paper has
        none: every detector is what ``adcgan fit`` makes.
    """
    if scheme == DEFECTS:
        return {}
    chosen = dict(_SCHEME_SETTINGS.get((detector.name, scheme), {}))
    if "min_steps" in detector.rules() and not detector.own_steps:
        chosen["min_steps"] = 0
    return chosen | (_RELEASED_SETTINGS if protocol == "released" else {})


def is_anomalous(labels: NDArray[np.int64], scheme: str, class_: int) -> NDArray[np.int64]:
    """Return 1 for images that are anomalous when `class_` is singled out by `scheme`, else 0.

    Parameters
    ----------
    labels : ndarray of int64 (n,)
        Classes.
    scheme : {"one-vs-all", "all-vs-one"}
        Whether `class_` is the one normal class or the one anomalous class.
    class_ : int
        A class that occurs.

    Raises
    ------
    InputError
        There is no such scheme or class.
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
    """Train on the normal images of the training split; judge on the whole test split.

    Parameters
    ----------
    train_labels, test_labels : ndarray of int64 (n,), (m,)
        Classes of both splits.
    scheme, class_
        As in `is_anomalous`.
    max_train : int or None
        Train on this many images at most, drawn by `seed`.
    seed : int
        At least 0.
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
    """Carve both parts out of the training split, for choices that must not see the test split.

    `DEVELOPMENT_SHARE` of the normal training images are held out as the normal half; training
    images of the anomalous classes are the other half; neither is larger than `DEVELOPMENT_CAP`.
    The draw is the same for every seed and detector.

    Parameters
    ----------
    train_labels : ndarray of int64 (n,)
        Classes of the training split.
    scheme, class_, max_train, seed
        As in `official_partition`.
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
    """Return at most `most` of `rows`, ascending, drawn by `seed`; fewer are always among more."""
    if most is None or most >= len(rows):
        return rows
    return np.sort(_shuffled(rows, seed, _SUBSET)[:most])


def _shuffled(rows: NDArray[np.intp], seed: int, stream: int) -> NDArray[np.intp]:
    """Return `rows` in an order that `seed` and `stream` decide."""
    sequence = np.random.SeedSequence(seed, spawn_key=(stream,))
    return np.random.default_rng(sequence).permutation(rows)
