"""A system that looks at photographs at their own size: here is one, and every command takes it."""

from __future__ import annotations

import csv
import json
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

from adcgan import DETECTORS, Detector, load
from adcgan.cli import app
from adcgan.data.image_file import MAX_LONGEST, MIN_LONGEST, RESIZES
from adcgan.data.ragged import Ragged
from adcgan.detectors import Model
from adcgan.detectors.settings import maybe, one_of, setting, whole
from adcgan.scoring import Components, Scored, Shape
from adcgan.training import Optimizers, Phase, Recipe

if TYPE_CHECKING:
    from accelerate import Accelerator

SIDES = [(80, 110), (96, 70), (64, 64), (120, 90)]
CROP = 32


class LocalResidual(Detector):
    """What a convolution, trained on crops, cannot tell from the surroundings of a pixel."""

    name: ClassVar[str] = "local-residual"

    image_size: int | None = setting(
        None, maybe(whole(MIN_LONGEST, MAX_LONGEST)), "Longer side at most."
    )
    resize: str = setting("keep", one_of(*RESIZES), "How photographs are resized.")

    def make_model(self, shape: Shape) -> LocalResidualModel:
        return LocalResidualModel(shape)


class LocalResidualModel(Model):
    """One convolution that does not see the pixel it predicts."""

    seen: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.layer = nn.Conv2d(shape[0], shape[0], 3)
        seen = torch.ones(3, 3)
        seen[1, 1] = 0
        self.register_buffer("seen", seen)

    def predicted(self, x: Tensor) -> Tensor:
        weight = self.layer.weight * self.seen
        around = nn.functional.pad(x, [1] * 4, mode="replicate")
        return nn.functional.conv2d(around, weight, self.layer.bias)

    def forward(self, x: Tensor) -> Scored[Tensor]:
        x_hat = self.predicted(x).clamp(0, 1)
        heat = (x - x_hat).abs().sum(1)
        return Scored({"peak": heat.amax((1, 2))}, heat, x_hat)

    def combine(self, components: Components) -> NDArray[np.float64]:
        return components["peak"]

    def recipe(self, n_train: int, accelerator: Accelerator) -> Recipe:
        del n_train
        networks = {"predictor": list(self.layer.parameters())}
        optimizers = Optimizers(networks, {"predictor": 1e-2}, accelerator=accelerator)

        def step(x: Tensor, rng: torch.Generator) -> None:
            del rng
            assert x.shape[2:] == (CROP, CROP)
            optimizers.update("predictor", {"residual": (x - self.predicted(x)).square().mean()})

        return Recipe(self, optimizers, (Phase("joint", 60, step),), batch_size=8, crop=CROP)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DETECTORS, LocalResidual.name, LocalResidual)


def photograph(seed: int, *, broken: bool = False) -> NDArray[np.uint8]:
    """Return a smooth image (H, W) of one of four sizes, with or without a white dot."""
    rng = np.random.default_rng(seed)
    height, width = SIDES[seed % len(SIDES)]
    across = np.linspace(60, rng.integers(120, 200), width)
    pixels = np.tile(across, (height, 1)) + rng.normal(0, 2, (height, width))
    if broken:
        pixels[40:43, 50:53] = 255
    return pixels.clip(0, 255).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for kind, count in (("train", 20), ("test/normal", 8), ("test/anomalous", 8)):
        (tmp_path / kind).mkdir(parents=True)
        for i in range(count):
            pixels = photograph(i + 100 * (kind != "train"), broken=kind.endswith("anomalous"))
            Image.fromarray(pixels).save(tmp_path / kind / f"{i}.png")
    return tmp_path


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def scores(path: Path) -> NDArray[np.float64]:
    with open(path, newline="", encoding="utf-8") as file:
        return np.array([float(row["score"]) for row in csv.DictReader(file)])


def test_every_command_takes_it(folder: Path) -> None:
    pytest.importorskip("onnxruntime")
    model, export = folder / "model", folder / "model.onnx"
    fit = ("fit", folder / "train", "--detector", "local-residual", "--set", "fpr=0.5")
    run(*fit, "--out", model)
    run(*fit, "--out", model, "--resume")
    run("score", model, folder / "test", "--out", folder / "s.csv", "--heatmaps", folder / "maps")
    for i in range(8):
        height, width = SIDES[i % len(SIDES)]
        with Image.open(folder / "maps" / "anomalous" / f"{i}.png.png") as picture:
            assert picture.width / picture.height == pytest.approx(width / height)
    run("evaluate", model, folder / "test", "--out", folder / "evaluation")
    assert json.loads((folder / "evaluation" / "metrics.json").read_text())["auroc"] > 0.9
    run("report", model)
    run("export", model, "--out", export)
    run("score", export, folder / "test", "--out", folder / "exported.csv")
    np.testing.assert_allclose(scores(folder / "s.csv"), scores(folder / "exported.csv"), rtol=1e-4)


def test_maps_have_the_images_sizes_and_point_at_the_defect(folder: Path) -> None:
    detector = LocalResidual(fpr=0.5).fit(folder / "train")
    maps = detector.assess(folder / "test" / "anomalous", maps=True).maps
    assert isinstance(maps, Ragged)
    assert maps.shapes == [SIDES[i % len(SIDES)] for i in range(8)]
    for heat in maps:
        row, column = np.unravel_index(heat.argmax(), heat.shape)
        assert 39 <= row <= 43
        assert 49 <= column <= 53
    alone = detector.anomaly_map([photograph(0, broken=True)])
    assert alone.shape == (1, *SIDES[0])  # type: ignore[union-attr]


def test_a_saved_model_scores_images_of_sizes_it_has_not_seen(folder: Path) -> None:
    detector = LocalResidual(fpr=0.5).fit(folder / "train")
    detector.save(folder / "m")
    wide = [np.full((70, 300), 90, np.uint8), np.full((300, 70), 90, np.uint8)]
    expected = detector.decision_function(wide)
    np.testing.assert_array_equal(load(folder / "m").decision_function(wide), expected)
    one_by_one = [detector.decision_function([image])[0] for image in wide]
    np.testing.assert_array_equal(one_by_one, expected)


def test_the_service_answers_images_of_different_sizes_together(folder: Path) -> None:
    pytest.importorskip("fastapi")
    from adcgan.serve.model import Item, ServedModel

    detector = LocalResidual(fpr=0.5).fit(folder / "train")
    served = ServedModel(detector, max_pixels=10**6)
    served.warm_up(2)
    items = []
    for seed in (0, 1):
        buffer = BytesIO()
        Image.fromarray(photograph(seed, broken=True)).save(buffer, "PNG")
        image = served.decode(buffer.getvalue())
        assert not isinstance(image, str)
        items.append(Item(image.pixels, heatmap=True))
    answers = served.score(items)
    expected = detector.decision_function([photograph(seed, broken=True) for seed in (0, 1)])
    np.testing.assert_allclose([answer.score for answer in answers], expected, rtol=1e-6)
    assert [answer.heat.shape for answer in answers if answer.heat is not None] == SIDES[:2]
