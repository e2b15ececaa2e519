from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from adcgan.data import (
    ImageSet,
    Skipped,
    anomaly_labels,
    labelled_images,
    load_named,
    normal_images,
)
from adcgan.errors import InputError

CLASSES = ["cat", "dog", "frog"]


@pytest.mark.parametrize("wanted", ["dog", 1, "1"])
def test_one_normal_class_makes_the_others_anomalous(wanted):
    assert anomaly_labels([0, 1, 2, 1], CLASSES, normal=wanted).tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize("wanted", ["dog", 1, "1"])
def test_one_anomalous_class_makes_the_others_normal(wanted):
    assert anomaly_labels([0, 1, 2, 1], CLASSES, anomalous=wanted).tolist() == [0, 1, 0, 1]


def test_a_class_is_looked_for_by_name_before_number():
    assert anomaly_labels([0, 1], ["1", "0"], normal="0").tolist() == [1, 0]


def test_without_names_the_numbers_in_the_labels_are_the_classes():
    assert anomaly_labels([3, 7], normal=7).tolist() == [1, 0]
    with pytest.raises(InputError, match=r"one of 3, 7\. Got '5'"):
        anomaly_labels([3, 7], normal="5")


def test_an_unknown_class_is_refused_with_those_there_are():
    with pytest.raises(InputError, match=r"one of 0 \(cat\), 1 \(dog\), 2 \(frog\)"):
        anomaly_labels([0, 1], CLASSES, normal="bird")


@pytest.mark.parametrize("classes", [{}, {"normal": 0, "anomalous": 1}])
def test_exactly_one_of_the_two_ways_is_taken(classes):
    with pytest.raises(InputError, match="Exactly one"):
        anomaly_labels([0, 1], CLASSES, **classes)


def folder(*names: str) -> ImageSet:
    images = np.zeros((len(names), 1, 16, 16), np.uint8)
    lost = [Skipped(len(names), "lost.png", "truncated")]
    return ImageSet(images, list(names), np.arange(len(names)), skipped=lost, source="photos")


def test_normal_images_are_those_of_one_class_or_of_all_but_one() -> None:
    digits = load_named("digits", "train")
    zeros, others = normal_images(digits, normal=0), normal_images(digits, anomalous="0")
    assert set(zeros.labels) == {0}
    assert set(others.labels) == set(range(1, 10))
    assert len(zeros) + len(others) == len(digits)
    assert (zeros.source, others.source) == ("digits (train), only 0", "digits (train), without 0")


def test_what_could_not_be_read_stays_listed_after_the_normal_images() -> None:
    images = replace(folder("a.png", "b.png", "c.png"), labels=np.array([0, 1, 0]))
    chosen = normal_images(images, normal=0)
    assert chosen.names == ["a.png", "c.png"]
    assert [(item.position, item.name) for item in chosen.skipped] == [(2, "lost.png")]
    assert chosen.n_items == 3


def test_folders_called_normal_and_anomalous_are_labels() -> None:
    images = labelled_images(folder("normal/a.png", "anomalous/x/b.png", "normal/c.png"))
    assert images.labels is not None
    assert images.labels.tolist() == [0, 1, 0]
    with pytest.raises(InputError, match="has images in no folder, 'anomalous/', 'other/'"):
        labelled_images(folder("anomalous/a.png", "other/b.png", "c.png"))


def test_labels_of_0_and_1_are_taken_as_they_are_and_others_need_a_class() -> None:
    digits = load_named("digits", "test")
    with pytest.raises(InputError, match="Exactly one"):
        labelled_images(digits)
    images = labelled_images(digits, normal=4)
    assert images.labels is not None
    assert digits.labels is not None
    np.testing.assert_array_equal(images.labels, digits.labels != 4)
    assert images.class_names == ["normal", "anomalous"]


def test_a_class_is_refused_where_there_are_no_labels() -> None:
    for ask in (normal_images, labelled_images):
        with pytest.raises(InputError, match="'photos' has no labels"):
            ask(folder("a.png"), normal=1)
