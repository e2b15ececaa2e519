"""Photographs with defects, as people who inspect parts have them, through the commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from adcgan.cli import app

FAST = ["--detector", "pixel-pca", "--image-size", "16", "--set", "fpr=0.2", "--device", "cpu"]
# Where the defect is, in photographs of 40×32 pixels: rows and columns.
DEFECTS = {"crack": (slice(4, 10), slice(5, 35)), "dent": (slice(20, 30), slice(8, 18))}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def done(*arguments: object) -> Result:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result


def refused(*arguments: object) -> str:
    """Run a command that must end with exit code 2, and return its last line."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    line = result.stderr.splitlines()[-1]
    assert line.startswith("error: ")
    return line


def write_part(path: Path, seed: int, defect: str | None = None) -> None:
    """Write a photograph of a part, and beside it in ``ground_truth/`` what is wrong with it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:32, :40]
    values = ((x - 20) ** 2 + (y - 16) ** 2 < 150) * 120 + rng.integers(0, 20, (32, 40))
    if defect is not None:
        mask = np.zeros((32, 40), np.uint8)
        mask[DEFECTS[defect]] = 255
        values = np.where(mask > 0, 255, values)
        there = path.parents[2] / "ground_truth" / defect / f"{path.stem}_mask.png"
        there.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(there)
    Image.fromarray(values.astype(np.uint8)).save(path)


def write_parts(root: Path) -> Path:
    """Write a set in the industrial layout."""
    for i in range(40):
        write_part(root / f"train/good/{i:02}.png", i)
    for i in range(6):
        write_part(root / f"test/good/{i:02}.png", 100 + i)
    for i in range(4):
        write_part(root / f"test/crack/{i:02}.png", 200 + i, "crack")
        write_part(root / f"test/dent/{i:02}.png", 300 + i, "dent")
    return root


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set that no test changes."""
    return write_parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """A set of a test's own."""
    return write_parts(tmp_path / "parts")


@pytest.fixture(scope="module")
def model(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "m"
    done("fit", shared, "--out", folder, *FAST)
    return folder


def evaluated(model: Path, data: object, out: Path, *more: str) -> dict[str, Any]:
    done("evaluate", model, data, "--out", out, *more)
    metrics: dict[str, Any] = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    return metrics


# -- folders -----------------------------------------------------------------------------------


def test_fit_takes_the_good_training_images_and_says_so(shared: Path, tmp_path: Path) -> None:
    result = done("fit", shared, "--out", tmp_path / "m", "--json", *FAST)
    made = json.loads(result.stdout)
    assert made["n_train"] + made["n_calibration"] == 40
    said = [line for line in result.stderr.splitlines() if line.startswith("layout ")]
    assert len(said) == 1
    assert "train/good/" in said[0]


def test_fit_takes_normal_beside_anomalous_and_evaluate_both(
    parts: Path, model: Path, tmp_path: Path
) -> None:
    root = tmp_path / "two"
    root.mkdir()
    (parts / "train/good").rename(root / "normal")
    (parts / "test/crack").rename(root / "anomalous")
    result = done("fit", root, "--out", tmp_path / "m", "--json", *FAST)
    made = json.loads(result.stdout)
    assert made["n_train"] + made["n_calibration"] == 40
    metrics = evaluated(model, root, tmp_path / "e")
    assert (metrics["n_normal"], metrics["n_anomalous"]) == (40, 4)


def test_a_flat_folder_is_learned_from_whole(shared: Path, tmp_path: Path) -> None:
    result = done("fit", shared / "train", "--out", tmp_path / "m", "--json", *FAST)
    assert "layout" not in result.stderr
    made = json.loads(result.stdout)
    assert made["n_train"] + made["n_calibration"] == 40


def test_score_takes_the_test_images_alone(shared: Path, model: Path, tmp_path: Path) -> None:
    done("score", model, shared, "--out", tmp_path / "scores.csv")
    lines = (tmp_path / "scores.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + 14
    assert all(line.startswith("test/") for line in lines[1:])


def test_evaluate_takes_good_for_normal_and_the_others_for_defects(
    shared: Path, model: Path, tmp_path: Path
) -> None:
    metrics = evaluated(model, shared, tmp_path / "e")
    assert (metrics["n_normal"], metrics["n_anomalous"]) == (6, 8)


def test_a_class_cannot_be_named_where_folders_say_what_is_normal(
    shared: Path, model: Path, tmp_path: Path
) -> None:
    line = refused("evaluate", model, shared, "--out", tmp_path / "e", "--normal", "good")
    assert "must be left out" in line
    line = refused("fit", shared, "--out", tmp_path / "m", "--anomalous", "crack", *FAST)
    assert "must be left out" in line
