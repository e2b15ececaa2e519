from __future__ import annotations

import time

import numpy as np
import pytest
from sklearn.metrics import auc, roc_auc_score

from adcgan.benchmark import metrics
from adcgan.errors import InputError

LABELS = [0, 0, 0, 0, 1, 1]
SCORES = [0.1, 0.2, 0.3, 0.8, 0.3, 0.9]


def random_scores(n_normal=60, n_anomalous=40, seed=0, digits=None):
    rng = np.random.default_rng(seed)
    scores = np.concatenate([rng.normal(0, 1, n_normal), rng.normal(1, 1, n_anomalous)])
    labels = np.repeat([0, 1], [n_normal, n_anomalous])
    return labels, scores if digits is None else scores.round(digits)


def test_auroc_is_the_share_of_pairs_in_order_with_ties_counting_half():
    pairs = [(a > b) + (a == b) / 2 for a in SCORES[4:] for b in SCORES[:4]]
    assert metrics.auroc(LABELS, SCORES) == pytest.approx(np.mean(pairs))


def test_auroc_is_never_flipped():
    labels, scores = random_scores()
    assert metrics.auroc(labels, -scores) == pytest.approx(1 - metrics.auroc(labels, scores))
    assert metrics.auroc(labels, -scores) < 0.5


def test_average_precision_is_the_mean_precision_where_an_anomalous_image_is_found():
    assert metrics.average_precision([0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4]) == pytest.approx(
        (1 / 1 + 2 / 3) / 2
    )


def test_fpr95_is_the_share_of_normal_images_above_the_score_that_catches_95_percent():
    labels = np.repeat([0, 1], [10, 20])
    scores = np.concatenate([np.arange(10) + 0.5, np.arange(20)])
    # 19 of 20 are caught at a score of 1 and above, where 9 of 10 normal images are.
    assert metrics.fpr_at_tpr(labels, scores) == pytest.approx(0.9)
    assert metrics.fpr_at_tpr(labels, scores, tpr=0.5) == 0.0
    assert metrics.fpr_at_tpr(labels, scores, tpr=1.0) == 1.0


@pytest.mark.parametrize("tpr", [0.0, -0.1, 1.5])
def test_fpr_at_tpr_refuses_a_rate_that_cannot_be(tpr):
    with pytest.raises(InputError, match="'tpr'"):
        metrics.fpr_at_tpr(LABELS, SCORES, tpr=tpr)


@pytest.mark.parametrize("digits", [None, 1])
def test_interval_equals_a_slow_bootstrap_of_the_same_draws(digits):
    labels, scores = random_scores(digits=digits)
    levels, level = np.unique(scores, return_inverse=True)
    rng = np.random.default_rng(3)
    drawn = [rng.integers(60, size=(200, 60)), rng.integers(40, size=(200, 40))]
    slow = [
        roc_auc_score(labels, levels[np.concatenate([level[:60][a], level[60:][b]])])
        for a, b in zip(*drawn, strict=True)
    ]
    expected = np.quantile(slow, [0.05, 0.95])
    found = metrics.auroc_interval(labels, scores, confidence=0.9, n_bootstrap=200, seed=3)
    assert found == pytest.approx(expected)


def test_interval_does_not_depend_on_how_many_resamples_are_held_at_a_time(monkeypatch):
    labels, scores = random_scores(5000, 5000)
    whole = metrics.auroc_interval(labels, scores, n_bootstrap=300)
    monkeypatch.setattr(metrics, "_CHUNK", 10_000)
    parts = metrics.auroc_interval(labels, scores, n_bootstrap=300)
    assert parts == pytest.approx(whole, abs=0.002)


def test_interval_covers_the_auroc_and_narrows_with_more_images():
    labels, scores = random_scores(2000, 2000)
    low, high = metrics.auroc_interval(labels, scores)
    assert low < metrics.auroc(labels, scores) < high
    few_low, few_high = metrics.auroc_interval(*random_scores(40, 40))
    assert high - low < (few_high - few_low) / 4


def test_interval_of_ten_thousand_images_takes_a_moment():
    labels, scores = random_scores(1000, 9000)
    start = time.process_time()
    metrics.auroc_interval(labels, scores)
    assert time.process_time() - start < 5


def test_interval_of_a_perfect_separation_is_one():
    assert metrics.auroc_interval([0, 0, 1, 1], [1, 2, 3, 4]) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("argument", "value"), [("confidence", 0), ("confidence", 1), ("n_bootstrap", 0)]
)
def test_interval_refuses_what_is_out_of_range(argument, value):
    with pytest.raises(InputError, match=argument):
        metrics.auroc_interval(LABELS, SCORES, **{argument: value})


def test_summary_has_every_figure_and_the_counts():
    found = metrics.summary(LABELS, SCORES)
    assert found["auroc"] == metrics.auroc(LABELS, SCORES)
    assert found["auroc_ci95"] == list(metrics.auroc_interval(LABELS, SCORES))
    assert found["average_precision"] == metrics.average_precision(LABELS, SCORES)
    assert found["fpr95"] == metrics.fpr_at_tpr(LABELS, SCORES)
    assert (found["n_normal"], found["n_anomalous"]) == (4, 2)


def test_curves_run_from_corner_to_corner_and_enclose_the_auroc():
    labels, scores = random_scores()
    false, true = metrics.roc_points(labels, scores)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert auc(false, true) == pytest.approx(metrics.auroc(labels, scores))
    precision, recall = metrics.precision_recall_points(labels, scores)
    assert recall[0] == 1
    assert (precision[-1], recall[-1]) == (1, 0)


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([0, 0], [1, 2], "only 0"),
        ([1, 1], [1, 2], "only 1"),
        ([], [], "none"),
        ([0, 2], [1, 2], "only 0 .normal. and 1 .anomalous."),
        ([0, 1], [np.nan, 2], "finite"),
        ([0, 1], [np.inf, 2], "finite"),
        ([0, 1, 1], [1, 2], "equally long"),
        ([[0, 1]], [[1, 2]], "one-dimensional"),
    ],
)
@pytest.mark.parametrize("figure", [metrics.auroc, metrics.summary, metrics.fpr_at_tpr])
def test_figures_refuse_what_they_are_not_defined_for(figure, labels, scores, message):
    with pytest.raises(InputError, match=message):
        figure(labels, scores)
