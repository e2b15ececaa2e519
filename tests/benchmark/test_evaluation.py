from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from adcgan.benchmark import evaluate, summary
from adcgan.data.imageset import ImageSet, Skipped
from adcgan.errors import InputError
from adcgan.scoring import Assessment, Verdict


def image_set(labels):
    """Five inputs of which the second cannot be read."""
    images = np.zeros((4, 1, 16, 16), np.uint8)
    return ImageSet(
        images=images,
        names=["a.png", "c.png", "d.png", "e.png"],
        positions=np.array([0, 2, 3, 4]),
        skipped=[Skipped(1, "b.png", "truncated")],
        labels=labels,
        source="photos",
    )


def detector(**changes):
    """Something with the parts of a fitted detector that an evaluation reads."""
    scores = np.array([1.0, np.nan, 3.0, 2.0, 4.0])
    assessment = Assessment(
        names=["a.png", "b.png", "c.png", "d.png", "e.png"],
        scores=scores,
        p_values=scores / 10,
        anomalous=np.array([0, -1, 1, 0, 1]),
        components={"residual": scores, "latent": -scores},
        variants={"LG": 2 * scores},
        errors=["", "truncated", "", "", ""],
        verdict=Verdict(2.5, 0.1, np.arange(9.0)),
    )
    parts = {
        "assess": lambda _: assessment,
        "fpr": 0.01,
        "fpr_": 0.1,
        "threshold_": 2.5,
        "n_calibration_": 9,
        "device": "cpu",
        "system": "ADCGAN",
        "is_export": False,
        "get_params": lambda: {"width": 0.5},
    }
    return SimpleNamespace(**(parts | changes))


LABELS = np.array([0, 0, 1, 1])


def test_unreadable_images_are_counted_and_left_out_of_the_figures():
    evaluation = evaluate(detector(), image_set(LABELS))
    metrics = evaluation.metrics
    assert evaluation.labels.tolist() == [0, -1, 0, 1, 1]
    assert (metrics["n_unreadable"], metrics["unreadable"]) == (1, ["b.png"])
    expected = summary([0, 0, 1, 1], [1.0, 3.0, 2.0, 4.0])
    assert {key: metrics[key] for key in expected} == expected


def test_components_and_variants_have_their_own_auroc_unflipped():
    metrics = evaluate(detector(), image_set(LABELS)).metrics
    assert metrics["components"] == {"residual": 0.75, "latent": 0.25}
    assert metrics["variants"] == {"LG": 0.75}


def test_the_threshold_in_force_is_judged_as_it_is():
    metrics = evaluate(detector(), image_set(LABELS)).metrics
    assert metrics["at_threshold"] == {
        "fpr_budget": 0.01,
        "fpr": 0.1,
        "threshold": 2.5,
        "false_positive_rate": 0.5,
        "true_positive_rate": 0.5,
        "n_calibration": 9,
    }


def test_a_threshold_from_contamination_has_no_budget():
    metrics = evaluate(detector(fpr_=None), image_set(LABELS)).metrics
    assert metrics["at_threshold"]["fpr"] is None


def test_the_record_says_how_to_repeat_it_and_is_json():
    metrics = evaluate(detector(), image_set(LABELS)).metrics
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    assert metrics["settings"] == {"width": 0.5}
    assert metrics["data"] == "photos"
    assert metrics["hardware"]["device"] == "cpu"
    assert {"adcgan", "torch", "numpy", "scikit-learn", "python"} <= metrics["versions"].keys()
    assert metrics["date"].endswith("+00:00")


@pytest.mark.parametrize("labels", [None, np.zeros(4, int), np.array([0, 1, 2, 3])])
def test_labels_must_be_there_and_of_both_classes(labels):
    with pytest.raises(InputError, match="'images' parameter of evaluate"):
        evaluate(detector(), image_set(labels))
