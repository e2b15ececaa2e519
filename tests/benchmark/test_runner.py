from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import adcgan
from adcgan.benchmark import runner
from adcgan.benchmark.cells import Cell, make_detector, plan
from adcgan.benchmark.runner import attempt, cell_folder, commit, run_cell
from adcgan.data import load_named
from adcgan.detectors import DETECTORS, Detector, SelfSupervisedADCGAN
from adcgan.errors import InputError

PIXELS = Cell("digits", "one-vs-all", 3, "pixel-pca", (("n_components", 8),))
TINY = Cell(
    "digits",
    "one-vs-all",
    0,
    "adcgan",
    (("warmup_epochs", 1), ("width", 0.125)),
    max_train=40,
    epochs=1,
)
# Few images cannot support the usual budget, which is warned of and beside the point here.
pytestmark = pytest.mark.filterwarnings("ignore:A false-positive budget of")


def figures(row):
    """What must not depend on when, where or how often a cell is run."""
    moving = ("seconds", "date", "resumed", "commit", "threads")
    return {key: value for key, value in row.items() if key not in moving}


@pytest.fixture
def fitted_on(monkeypatch):
    """The images that detectors are fitted on, as the cells are run."""
    seen = []
    original = Detector.fitting

    def fitting(self, X, **options):
        seen.append(X)
        return original(self, X, **options)

    monkeypatch.setattr(Detector, "fitting", fitting)
    return seen


# -- cells ---------------------------------------------------------------------------------------


def test_the_key_of_a_cell_never_changes():
    assert PIXELS.key == "digits-one-vs-all-3-pixel-pca-0-1d4801cb22bf"


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": "mnist"},
        {"scheme": "all-vs-one"},
        {"class_": 4},
        {"detector": "pixel-knn"},
        {"settings": ()},
        {"seed": 1},
        {"protocol": "released"},
        {"split": "development"},
        {"max_train": 50},
        {"epochs": 3},
    ],
)
def test_whatever_decides_a_row_is_in_the_key(change):
    assert replace(PIXELS, **change).key != PIXELS.key


def asked(**changes):
    options = {
        "dataset": "digits",
        "scheme": "one-vs-all",
        "classes": [0, 2],
        "detectors": {"adcgan": {}, "pixel-pca": {}},
        "seeds": [0, 1],
    }
    return plan(**(options | changes))


def test_a_plan_has_a_cell_for_each_class_detector_and_seed():
    cells = asked()
    assert len(set(cells)) == len(cells) == 8
    assert [(c.seed, c.class_, c.detector) for c in cells[:3]] == [
        (0, 0, "adcgan"),
        (0, 0, "pixel-pca"),
        (0, 2, "adcgan"),
    ]
    assert len(asked(classes=None)) == 40


def test_what_the_protocol_does_anyway_is_no_setting():
    usual = {"width": 1.0, "min_steps": 0, "warmup_epochs": 15}
    spelled_out = asked(scheme="all-vs-one", detectors={"adcgan": usual}, epochs=35)
    assert spelled_out == asked(scheme="all-vs-one", detectors={"adcgan": {}})


def test_epochs_are_for_the_detectors_that_have_them():
    assert {cell.detector: cell.epochs for cell in asked(epochs=2)} == {
        "adcgan": 2,
        "pixel-pca": None,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "faces"}, "'dataset' parameter must be one of mnist"),
        ({"scheme": "some"}, "'scheme' parameter must be one of one-vs-all, all-vs-one"),
        ({"protocol": "mine"}, "'protocol' parameter"),
        ({"split": "train"}, "'split' parameter must be one of test, development"),
        ({"classes": [10]}, "from 0 to 9 for digits. Got 10"),
        ({"max_train": 0}, "'max_train' parameter must be at least 1"),
        ({"detectors": {"ganomaly": {}}}, "'detectors' parameter must be one of adcgan"),
        ({"detectors": {"adcgan": {"depth": 3}}}, "adcgan has no parameter 'depth'"),
        ({"detectors": {"adcgan": {"width": -1.0}}}, "'width' parameter"),
        (
            {"detectors": {"adcgan": {"random_state": 1}}},
            "'random_state' .* benchmark's 'seeds'",
        ),
        ({"detectors": {"pixel-pca": {}}, "epochs": 2}, "needs a detector with epochs"),
        ({"detectors": {"adcgan": {"epochs": 2}}, "epochs": 2}, "mean the same"),
        ({"protocol": "released"}, "supports only AD-CGAN .* Got detector 'pixel-pca'"),
        (
            {"protocol": "released", "split": "development", "detectors": {"adcgan": {}}},
            "split 'development'",
        ),
        (
            {"protocol": "released", "detectors": {"adcgan": {"latent": "none"}}},
            "needs the latent critic",
        ),
    ],
)
def test_a_plan_that_cannot_be_run_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        asked(**changes)


def test_the_detector_of_a_cell_follows_the_protocol():
    hard = make_detector(replace(TINY, scheme="all-vs-one", epochs=None, settings=(), seed=4))
    assert (hard.warmup_epochs, hard.epochs, hard.min_steps) == (15, 35, 0)
    assert (hard.random_state, hard.width, hard.latent) == (4, 1.0, "pair")
    assert make_detector(replace(TINY, protocol="released")).latent == "single"
    own = make_detector(replace(TINY, detector="adcgan-ss", epochs=None, settings=()))
    assert own.get_params() == SelfSupervisedADCGAN().get_params()


# -- leakage -------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["one-vs-all", "all-vs-one"])
@pytest.mark.parametrize("split", ["test", "development"])
def test_training_sees_normal_images_only_and_no_label(fitted_on, tmp_path, scheme, split):
    run_cell(replace(PIXELS, scheme=scheme, split=split), tmp_path)
    (images,) = fitted_on
    assert images.labels is None
    assert images.class_names is None
    train = load_named("digits", "train")
    class_of = dict(zip(train.names, train.labels.tolist(), strict=True))
    classes = {class_of[name] for name in images.names}
    assert classes == ({3} if scheme == "one-vs-all" else set(range(10)) - {3})


@pytest.mark.parametrize("split", ["test", "development"])
def test_no_image_is_both_trained_on_and_judged(fitted_on, monkeypatch, tmp_path, split):
    judged = []
    original = runner.evaluate
    monkeypatch.setattr(
        runner, "evaluate", lambda *args: (judged.append(args[1]), original(*args))[1]
    )
    run_cell(replace(PIXELS, split=split), tmp_path)
    # The names of digits are the rows of one table that both splits are drawn from.
    assert not set(fitted_on[0].names) & set(judged[0].names)


def test_the_development_split_never_opens_the_test_images(monkeypatch, tmp_path):
    opened = []
    monkeypatch.setattr(
        runner,
        "load_named",
        lambda *args, **kw: (opened.append(args[1]), load_named(*args, **kw))[1],
    )
    row = run_cell(replace(PIXELS, split="development"), tmp_path)
    assert opened == ["train"]
    assert row["split"] == "development"


def test_every_detector_trains_on_the_same_images(fitted_on, tmp_path):
    for name in ("pixel-pca", "pixel-knn", "adcgan"):
        cell = replace(TINY, detector=name, settings=(), epochs=None, seed=5)
        if name == "adcgan":
            cell = replace(TINY, seed=5)
        run_cell(cell, tmp_path)
    names = [images.names for images in fitted_on]
    assert len(names[0]) == 40
    assert names[0] == names[1] == names[2]


# -- rows ----------------------------------------------------------------------------------------


def test_a_row_says_what_was_done_and_what_came_out(tmp_path):
    row = run_cell(TINY, tmp_path)
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    assert (row["dataset"], row["scheme"], row["class"]) == ("digits", "one-vs-all", 0)
    assert (row["detector"], row["seed"], row["protocol"]) == ("adcgan", 0, "paper")
    assert row["settings"] == {"epochs": 1, "warmup_epochs": 1, "width": 0.125}
    assert (row["epochs"], row["max_train"], row["n_train"], row["n_test"]) == (1, 40, 40, 359)
    assert 0 <= row["auroc"] <= 1
    assert 0 <= row["average_precision"] <= 1
    assert 0 <= row["fpr95"] <= 1
    assert set(row["components"]) == {"discrimination", "residual", "encoded", "latent"}
    assert row["variants"]["GF"] == row["auroc"]
    assert row["parameters"]["min_steps"] == 0
    assert row["seconds"] > 0
    assert row["device"].startswith("cpu (")
    assert row["commit"] == commit()
    assert row["versions"]["adcgan"] == adcgan.__version__
    assert (row["data_source"], row["note"], row["error"]) == ("scikit-learn", "", None)


def test_a_cell_gives_the_same_figures_every_time_and_from_its_finished_run(tmp_path):
    first = run_cell(TINY, tmp_path / "a")
    again = run_cell(TINY, tmp_path / "b")
    # The process died after training and before the row was written.
    from_model = run_cell(TINY, tmp_path / "a")
    assert figures(first) == figures(again) == figures(from_model)
    assert (first["resumed"], from_model["resumed"]) == (False, True)


def test_what_goes_wrong_becomes_a_row_with_the_error(tmp_path, monkeypatch):
    too_few = attempt(replace(TINY, max_train=2), tmp_path)
    assert too_few["error"].startswith("InputError: ADCGAN needs at least 3 readable images")
    assert too_few["auroc"] is None
    assert too_few["traceback"] is None
    assert set(too_few) == set(run_cell(PIXELS, tmp_path))
    monkeypatch.setattr(DETECTORS["pixel-pca"], "fitting", lambda *_, **__: 1 / 0)
    bug = attempt(PIXELS, tmp_path)
    assert bug["error"] == "ZeroDivisionError: division by zero"
    assert "lambda" in bug["traceback"]


def test_a_released_row_says_that_it_leaks_and_counts_the_training_anomalies(tmp_path):
    row = run_cell(replace(TINY, protocol="released"), tmp_path)
    assert row["note"] == "leaks labels; for audit only"
    assert row["protocol"] == "released"
    assert set(row["variants"]) == {"LG", "LFE", "LFL", "GF"}
    train, test = load_named("digits", "train"), load_named("digits", "test")
    assert row["n_test"] == len(test) + np.sum(train.labels != 0)


def test_the_run_lies_in_a_folder_named_by_the_key(tmp_path):
    run_cell(PIXELS, tmp_path)
    assert cell_folder(PIXELS, tmp_path) == tmp_path / "cells" / PIXELS.key
    assert (tmp_path / "cells" / PIXELS.key / "manifest.json").exists()


def test_figures_from_a_local_copy_of_cifar10_say_so(monkeypatch):
    cell = replace(PIXELS, dataset="cifar10")
    monkeypatch.setenv("ADCGAN_DATA", "somewhere")
    assert runner._remarks(cell)["data_source"] == "$ADCGAN_DATA"
    assert "may be re-encoded" in runner._remarks(cell)["note"]
    monkeypatch.delenv("ADCGAN_DATA")
    assert runner._remarks(cell) == {"data_source": "hub", "note": ""}
