"""One fitted detector judged on labelled images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adcgan.benchmark.metrics import auroc, summary
from adcgan.errors import InputError

if TYPE_CHECKING:
    from adcgan.data import ImageSet
    from adcgan.scoring import Assessment, Scorer

UNREADABLE = -1


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a detector said of every image, what was true, and the figures that follow.

    Parameters
    ----------
    assessment : Assessment
        One row for each input, unreadable ones included.
    labels : ndarray of shape (n_items,), int64
        1 anomalous, 0 normal, -1 unreadable; rows as in `assessment`.
    metrics : dict
        JSON-ready; the keys are listed at `evaluate`.
    """

    assessment: Assessment
    labels: NDArray[np.int64]
    metrics: dict[str, Any]


def evaluate(detector: Scorer, images: ImageSet) -> Evaluation:
    """Score labelled images once and compute every figure from those scores.

    Nothing is chosen or normalised on these images: the threshold in force is the one that
    held-out normal training images gave.

    Parameters
    ----------
    detector : Scorer
        A fitted detector, or an exported one.
    images : ImageSet
        With labels: 1 anomalous, 0 normal. Images that could not be read are counted and left
        out of the figures.

    Returns
    -------
    Evaluation
        Its `metrics` hold the keys of `adcgan.benchmark.metrics.summary` and ``components``
        and ``variants`` (name to AUROC), ``at_threshold``, ``n_unreadable``, ``unreadable``
        (names), ``data``, ``detector``, ``settings``, ``versions``, ``hardware``, ``date``.

    Raises
    ------
    InputError
        If the images have no labels, or lack one of the two classes.
    """
    if images.labels is None:
        raise InputError(
            "The 'images' parameter of evaluate must have labels (1 anomalous, 0 normal). "
            f"Got {images.source} without labels instead."
        )
    found = np.unique(images.labels).tolist()
    if found != [0, 1]:
        raise InputError(
            "The 'images' parameter of evaluate must hold normal (label 0) and anomalous "
            f"(label 1) images. Got labels {found[:5]} instead."
        )
    assessment = detector.assess(images)
    labels = np.full(len(assessment.names), UNREADABLE, dtype=np.int64)
    labels[images.positions] = images.labels
    known = labels != UNREADABLE
    truth = labels[known]
    metrics = {
        **summary(truth, assessment.scores[known]),
        "components": _aurocs(truth, assessment.components, known),
        "variants": _aurocs(truth, assessment.variants, known),
        "at_threshold": _at_threshold(detector, truth, assessment.anomalous[known]),
        "n_unreadable": int((~known).sum()),
        "unreadable": [assessment.names[i] for i in np.flatnonzero(~known)],
        "data": images.source,
        **_record(detector),
    }
    return Evaluation(assessment, labels, metrics)


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


def _aurocs(
    truth: NDArray[np.int64], parts: dict[str, NDArray[np.float64]], known: NDArray[np.bool_]
) -> dict[str, float]:
    """Return the AUROC of each named score."""
    return {name: auroc(truth, values[known]) for name, values in parts.items()}


def _at_threshold(
    detector: Scorer, truth: NDArray[np.int64], flagged: NDArray[np.int64]
) -> dict[str, Any]:
    """Return what the threshold in force does on these images.

    ``fpr`` is None where `contamination` set the threshold, not a false-positive budget.
    """
    return {
        "fpr_budget": detector.fpr,
        "fpr": None if detector.fpr_ is None else float(detector.fpr_),
        "threshold": float(detector.threshold_),
        "false_positive_rate": float(np.mean(flagged[truth == 0] == 1)),
        "true_positive_rate": float(np.mean(flagged[truth == 1] == 1)),
        "n_calibration": int(detector.n_calibration_),
    }


def _record(detector: Scorer) -> dict[str, Any]:
    """Return what a reader needs to repeat the figures."""
    # Imported here so that the figures alone can be had without torch.
    from adcgan.detectors import DETECTORS
    from adcgan.training import resolve_device
    from adcgan.training.runlog import hardware, versions

    names = {kind.__name__: name for name, kind in DETECTORS.items()}
    name = names.get(detector.system, detector.system)
    return {
        "detector": f"{name} (ONNX)" if detector.is_export else name,
        "settings": detector.get_params(),
        "versions": versions(),
        "hardware": hardware(resolve_device(detector.device)),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
