from __future__ import annotations

import numpy as np
import pytest

from adcgan.benchmark import protocol
from adcgan.benchmark.protocol import (
    DEVELOPMENT_CAP,
    SCHEMES,
    development_partition,
    is_anomalous,
    official_partition,
    protocol_settings,
)
from adcgan.detectors import DETECTORS
from adcgan.errors import InputError

TRAIN = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0])
TEST = np.array([2, 1, 0, 0])
MANY = np.random.default_rng(0).integers(0, 10, 3000)


def test_one_vs_all_learns_one_class_and_is_judged_on_the_whole_test_split():
    part = official_partition(TRAIN, TEST, scheme="one-vs-all", class_=1)
    assert part.train.tolist() == [1, 4, 7]
    assert part.source == "test"
    assert part.evaluation.tolist() == [0, 1, 2, 3]
    assert part.labels.tolist() == [1, 0, 1, 1]


def test_all_vs_one_learns_all_other_classes():
    part = official_partition(TRAIN, TEST, scheme="all-vs-one", class_=1)
    assert part.train.tolist() == [0, 2, 3, 5, 6, 8, 9]
    assert part.evaluation.tolist() == [0, 1, 2, 3]
    assert part.labels.tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("class_", [0, 7])
def test_nothing_of_the_development_split_is_trained_on(scheme, class_):
    part = development_partition(MANY, scheme=scheme, class_=class_)
    assert part.source == "train"
    assert not set(part.train) & set(part.evaluation)
    assert (is_anomalous(MANY, scheme, class_)[part.train] == 0).all()
    assert (is_anomalous(MANY, scheme, class_)[part.evaluation] == part.labels).all()
    normal = np.flatnonzero(is_anomalous(MANY, scheme, class_) == 0)
    held_out = part.evaluation[part.labels == 0]
    assert len(held_out) == round(0.2 * len(normal))
    assert sorted([*part.train, *held_out]) == normal.tolist()


def test_of_two_classes_a_fifth_of_one_and_images_of_the_other_are_the_development_split():
    # As many as CatsVsDogs has to train on.
    labels = np.repeat([0, 1], 9999)
    part = development_partition(labels, scheme="one-vs-all", class_=1)
    assert set(labels[part.train]) == {1}
    assert (len(part.train), np.bincount(part.labels).tolist()) == (7999, [2000, 5000])
    assert (labels[part.evaluation] == 1 - part.labels).all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_development_split_is_the_same_for_every_seed(scheme):
    first = development_partition(MANY, scheme=scheme, class_=3, max_train=50, seed=0)
    other = development_partition(MANY, scheme=scheme, class_=3, max_train=50, seed=1)
    assert first.evaluation.tolist() == other.evaluation.tolist()
    assert first.train.tolist() != other.train.tolist()


def test_the_development_split_is_capped(monkeypatch):
    assert DEVELOPMENT_CAP == 5000
    monkeypatch.setattr(protocol, "DEVELOPMENT_CAP", 40)
    part = development_partition(MANY, scheme="all-vs-one", class_=3)
    assert np.bincount(part.labels).tolist() == [40, 40]
    assert len(part.train) == (MANY != 3).sum() - 40


def test_fewer_training_images_are_among_more_of_the_same_seed():
    def train(most, seed):
        return set(
            official_partition(
                MANY, TEST, scheme="one-vs-all", class_=2, max_train=most, seed=seed
            ).train.tolist()
        )

    assert len(train(20, 0)) == 20
    assert train(20, 0) < train(60, 0)
    assert train(20, 0) != train(20, 1)
    assert train(100_000, 0) == set(np.flatnonzero(MANY == 2).tolist())


def test_the_training_images_come_in_order():
    part = official_partition(MANY, TEST, scheme="all-vs-one", class_=2, max_train=100)
    assert (np.diff(part.train) > 0).all()


def test_the_paper_trains_longer_where_many_classes_are_normal():
    longer = {"warmup_epochs": 15, "epochs": 35, "min_steps": 0}
    assert protocol_settings(DETECTORS["adcgan"], "all-vs-one", "paper") == longer
    assert protocol_settings(DETECTORS["alad"], "all-vs-one", "paper") == {"min_steps": 0}


def test_a_benchmark_trains_the_stated_epochs_however_few_the_images():
    assert protocol_settings(DETECTORS["alad"], "one-vs-all", "paper") == {"min_steps": 0}
    assert protocol_settings(DETECTORS["adcgan-ss"], "one-vs-all", "paper") == {}
    assert protocol_settings(DETECTORS["pixel-pca"], "one-vs-all", "paper") == {}
    released = protocol_settings(DETECTORS["adcgan"], "one-vs-all", "released")
    assert released == {"min_steps": 0, "latent": "single"}


def test_an_unknown_scheme_or_class_is_refused():
    with pytest.raises(InputError, match="'scheme' parameter must be one of one-vs-all"):
        is_anomalous(TRAIN, "one-vs-one", 0)
    with pytest.raises(InputError, match=r"must be one of 0, 1, 2\. Got 5"):
        is_anomalous(TRAIN, "one-vs-all", 5)
