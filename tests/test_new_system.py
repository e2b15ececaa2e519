"""A new system is one file and one line: here is the file, and every command takes it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from typer.testing import CliRunner

from adcgan import DETECTORS, Detector, load
from adcgan.cli import app
from adcgan.data.prepare import Split
from adcgan.detectors import Model
from adcgan.detectors.settings import real, setting
from adcgan.progress import Progress
from adcgan.scoring import Components, Scored, Shape

# -- the file --------------------------------------------------------------------------------------


class MeanImage(Detector):
    """Distance from the mean of the training images."""

    name: ClassVar[str] = "mean-image"

    power: float = setting(2.0, real(0, above=True), "Of the differences.")

    def make_model(self, shape: Shape) -> MeanImageModel:
        return MeanImageModel(self, shape)


class MeanImageModel(Model):
    """The mean image."""

    mean: Tensor  # (C, H, W) in [0, 1]

    def __init__(self, settings: MeanImage, shape: Shape) -> None:
        super().__init__(shape)
        self.settings = settings
        self.register_buffer("mean", torch.zeros(shape))

    def forward(self, x: Tensor) -> Scored[Tensor]:
        heat = ((x - self.mean).abs() ** self.settings.power).sum(1)
        return Scored({"distance": heat.mean((1, 2))}, heat, self.mean.expand_as(x))

    def combine(self, components: Components) -> NDArray[np.float64]:
        return components["distance"]

    def learn(self, images: NDArray[np.uint8], split: Split, progress: Progress) -> None:
        total = sum(x.sum(0) for x in self.batches(images, split.train, progress))
        self.mean = total / len(split.train)


# -- what follows ----------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DETECTORS, MeanImage.name, MeanImage)


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_every_command_takes_it(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model, export = tmp_path / "model", tmp_path / "model.onnx"
    assert {
        "name": "mean-image",
        "description": "Distance from the mean of the training images.",
    } in (json.loads(run("detectors", "--json")))
    fit = ("fit", "digits", "--normal", "0", "--detector", "mean-image", "--set", "power=1.5")
    run(*fit, "--set", "fpr=0.1", "--out", model)
    run(*fit, "--set", "fpr=0.1", "--out", model, "--resume")
    run("score", model, "digits", "--out", tmp_path / "s.csv", "--heatmaps", tmp_path / "maps")
    assert len(list((tmp_path / "maps").iterdir())) == 359
    run("evaluate", model, "digits", "--normal", "0", "--out", tmp_path / "evaluation")
    assert json.loads((tmp_path / "evaluation" / "metrics.json").read_text())["auroc"] > 0.9
    run("report", model)
    run("export", model, "--out", export)
    run("score", export, "digits", "--out", tmp_path / "exported.csv")
    scores = []
    for name in ("s.csv", "exported.csv"):
        with open(tmp_path / name, newline="") as file:
            scores.append([float(row["score"]) for row in csv.DictReader(file)])
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-5)


def test_its_settings_are_documented_checked_and_stored(tmp_path: Path) -> None:
    assert "power : float, default=2.0\n        Of the differences." in (MeanImage.__doc__ or "")
    images = np.random.default_rng(0).integers(0, 256, (20, 16, 16), dtype=np.uint8)
    with pytest.raises(ValueError, match="'power' parameter of MeanImage must be a number above 0"):
        MeanImage(power=0).fit(images)
    detector = MeanImage(power=1.0, fpr=0.5).fit(images)
    detector.save(tmp_path / "m")
    loaded = load(tmp_path / "m")
    assert isinstance(loaded, MeanImage)
    assert loaded.power == 1.0
    np.testing.assert_array_equal(loaded.anomaly_map(images), detector.anomaly_map(images))
