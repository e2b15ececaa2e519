from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from adcgan import InputError, load
from adcgan.cli import app
from adcgan.detectors import PixelKNN, RobustAutoencoder
from adcgan.detectors import load as load_folder

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def discs(n: int, seed: int, *, bar: bool = False) -> np.ndarray:
    """Return grey discs on noise (n, 16, 16), with a bright bar across if asked."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:16, :16]
    images = ((x - 8) ** 2 + (y - 8) ** 2 < 20) * 180 + rng.integers(0, 20, (n, 16, 16))
    if bar:
        images[:, 6:9] = 255
    return images.astype(np.uint8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings: dict[str, Any] = {"width": 0.06, "epochs": 1, "min_steps": 0, "device": "cpu"}
    folder = tmp_path_factory.mktemp("models") / "m"
    RobustAutoencoder(**settings, fpr=0.2).fit(discs(50, 0)).save(folder)
    return folder


@pytest.fixture(scope="module")
def exported(model: Path) -> Path:
    path = model.parent / "m.onnx"
    result = run("export", model, "--out", path)
    assert result.exit_code == 0, result.output
    return path


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    for name, images in {"normal": discs(9, 1), "anomalous": discs(7, 2, bar=True)}.items():
        (tmp_path / "test" / name).mkdir(parents=True)
        for i, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / "test" / name / f"{i}.png")
    return tmp_path / "test"


def test_export_says_how_large_how_equal_and_what_next(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "m.onnx"
    result = run("export", model, "--out", out)
    assert result.exit_code == 0, result.output
    size, command, python = result.stdout.splitlines()
    assert f"{out}: {out.stat().st_size / 1e6:.1f} MB" in size
    assert "over 38 images" in size
    assert f"adcgan score {out} DATA --out scores.csv" in command
    assert f'adcgan.load("{out}")' in python
    assert result.stderr.count("\n") == 1


def test_export_as_json(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.onnx"
    made = json.loads(run("export", model, "--out", out, "--json").stdout)
    assert made.pop("parity") < 1e-4
    assert made == {"path": str(out), "bytes": out.stat().st_size, "images_checked": 38}


def test_what_cannot_be_exported_is_one_line(model: Path, exported: Path, tmp_path: Path) -> None:
    PixelKNN(fpr=0.2).fit(discs(50, 0)).save(tmp_path / "knn")
    for source, out, words in [
        (tmp_path / "knn", tmp_path / "m.onnx", "PixelKNN cannot be exported: it compares"),
        (exported, tmp_path / "m.onnx", "m.onnx is a file, not a model folder"),
        (tmp_path / "nothing", tmp_path / "m.onnx", "no model folder"),
        (model, tmp_path, "--out must be a file"),
    ]:
        result = run("export", source, "--out", out)
        assert result.exit_code == 2, result.output
        assert words in result.stderr.splitlines()[-1]
        assert not (tmp_path / "m.onnx").exists()


def test_score_gives_the_same_table_of_file_and_folder(
    model: Path, exported: Path, labelled: Path, tmp_path: Path
) -> None:
    tables = []
    for source in (model, exported):
        out = tmp_path / f"{source.name}.csv"
        result = run("score", source, labelled, "--out", out, "--heatmaps", tmp_path / source.name)
        assert result.exit_code == 0, result.output
        with open(out, newline="", encoding="utf-8") as file:
            tables.append(list(csv.DictReader(file)))
    of_folder, of_file = tables
    assert len(of_file) == 16
    for a, b in zip(of_folder, of_file, strict=True):
        assert float(b.pop("score")) == pytest.approx(float(a.pop("score")), rel=1e-4)
        assert float(b.pop("residual")) == pytest.approx(float(a.pop("residual")), rel=1e-4)
        assert a == b
    heatmaps = {p.relative_to(tmp_path / "m.onnx") for p in (tmp_path / "m.onnx").rglob("*.png")}
    assert len(heatmaps) == 16
    assert heatmaps == {p.relative_to(tmp_path / "m") for p in (tmp_path / "m").rglob("*.png")}


def test_evaluate_gives_the_same_figures_of_file_and_folder(
    model: Path, exported: Path, labelled: Path, tmp_path: Path
) -> None:
    results = {}
    for source in (model, exported):
        out = tmp_path / "results" / source.name
        result = run("evaluate", source, labelled, "--out", out)
        assert result.exit_code == 0, result.output
        assert (out / "report.html").stat().st_size > 10_000
        results[source] = json.loads((out / "metrics.json").read_text())
        assert results[source]["settings"].pop("device") == ("auto" if source == model else "cpu")
    of_folder, of_file = results[model], results[exported]
    for metric in ("auroc", "average_precision", "components", "at_threshold", "settings"):
        assert of_file[metric] == of_folder[metric], metric
    assert of_file["detector"] == "rda (ONNX)"


def test_what_takes_a_model_folder_says_so_of_a_file(exported: Path) -> None:
    result = run("report", exported)
    assert result.exit_code == 2
    assert "m.onnx is a file, not a model folder. 'adcgan fit' makes" in result.stderr
    with pytest.raises(InputError, match="not a model folder"):
        load_folder(exported)


def test_an_exported_model_has_no_generator(exported: Path) -> None:
    with pytest.raises(InputError, match=r"RobustAutoencoder in m\.onnx does not generate images"):
        load(exported).generate()
