"""Evaluation of a fitted detector on labelled images."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from adcgan.benchmark.defects import defect_figures, read_truth
from adcgan.benchmark.metrics import auroc, summary
from adcgan.errors import InputError

if TYPE_CHECKING:
    from adcgan.data import ImageSet
    from adcgan.scoring import Assessment, Scorer

UNREADABLE = -1


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A detector's scores for every image, the labels and the resulting metrics.

    Parameters
    ----------
    assessment : Assessment
        One row per input, including unreadable ones.
    labels : ndarray of shape (n_items,), int64
        1 anomalous, 0 normal, -1 unreadable, in the order of `assessment`.
    metrics : dict
        JSON-compatible values; see `evaluate` for the keys.
    """

    assessment: Assessment
    labels: NDArray[np.int64]
    metrics: dict[str, Any]


def evaluate(detector: Scorer, images: ImageSet) -> Evaluation:
    """Score labelled images once and compute all metrics from those scores.

    Nothing is chosen or normalised on these images: the threshold is the detector's own, set on
    held-out normal training images.

    Parameters
    ----------
    detector : Scorer
        A fitted detector, or an exported one.
    images : ImageSet
        Images with labels: 1 anomalous, 0 normal. Unreadable images are counted and left out of
        the metrics. If there are defect types or masks, metrics per type or per pixel are added.

    Returns
    -------
    Evaluation
        Its `metrics` have the keys of `adcgan.benchmark.metrics.summary` and ``components``
        and ``variants`` (name to AUROC), ``at_threshold``, ``n_unreadable``, ``unreadable``
        (names), those of `adcgan.benchmark.defects.defect_figures`, ``data``, ``detector``,
        ``settings``, ``versions``, ``hardware``, ``date``.

    Raises
    ------
    InputError
        If the images have no labels or lack one of the two classes, or a mask is invalid.
    """
    if images.labels is None:
        raise InputError(
            "The 'images' parameter of evaluate must have labels (1 anomalous, 0 normal). "
            f"Got {images.source} without labels instead."
        )
    found = np.unique(images.labels).tolist()
    if found != [0, 1]:
        raise InputError(
            "The 'images' parameter of evaluate must contain normal (label 0) and anomalous "
            f"(label 1) images. Got labels {found[:5]} instead."
        )
    # Read the masks before scoring, which takes longer than finding an invalid mask.
    marked = None if images.masks is None else read_truth(images, detector.target_.resize)
    mapped = marked is not None and bool(marked.known[images.labels == 1].any()) and _maps(detector)
    assessment = detector.assess(images, maps=True) if mapped else detector.assess(images)
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
        **defect_figures(
            images,
            assessment.scores[known],
            assessment.anomalous[known] == 1,
            marked,
            assessment.maps,
        ),
        "data": images.source,
        **_record(detector),
    }
    return Evaluation(assessment, labels, metrics)


def _maps(detector: Scorer) -> bool:
    """Return whether a detector makes anomaly maps."""
    blank = np.zeros((1, *detector.image_shape_), np.uint8)
    return detector.backend.scored(blank).anomaly_map is not None


def _aurocs(
    truth: NDArray[np.int64], parts: dict[str, NDArray[np.float64]], known: NDArray[np.bool_]
) -> dict[str, float]:
    """Return the AUROC of each named score."""
    return {name: auroc(truth, values[known]) for name, values in parts.items()}


def _at_threshold(
    detector: Scorer, truth: NDArray[np.int64], flagged: NDArray[np.int64]
) -> dict[str, Any]:
    """Return the counts and rates at the detector's threshold.

    ``fpr`` is None if `contamination` set the threshold instead of a false-positive budget.
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
    """Return what is needed to reproduce the metrics."""
    # Imported here so that the metrics can be used without torch.
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
