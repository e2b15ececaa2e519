"""From a fitted detector to regions: in Python, as masks and as a table, of models and exports."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_dilation
from typer.testing import CliRunner

from adcgan import DETECTORS, InputError, load
from adcgan.cli import app

SIDE = 48
SQUARE = (12, 30, 8)  # row, column, side


def photograph(seed: int, *, broken: bool = False) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    pixels = np.linspace(80, 140, SIDE)[None, :] + rng.normal(0, 4, (SIDE, SIDE))
    if broken:
        row, column, side = SQUARE
        pixels[row : row + side, column : column + side] = 250
    return pixels.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("regions")
    for kind, count in (("train", 60), ("new/fine", 5), ("new/broken", 5)):
        (root / kind).mkdir(parents=True)
        for i in range(count):
            pixels = photograph(i + 1000 * (kind != "train"), broken=kind.endswith("broken"))
            # Twice the size that the model sees: what is written is in pixels of the photograph.
            picture = Image.fromarray(pixels).resize((2 * SIDE, 2 * SIDE), Image.Resampling.NEAREST)
            picture.save(root / kind / f"{i}.png")
    run("fit", root / "train", "--detector", "pixel-pca", "--image-size", SIDE, "--out", root / "m",
        "--set", "fpr=0.2", "--set", "validation_fraction=0.3")  # fmt: skip
    return root


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.stderr if code else result.stdout


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_masks_and_regions_lie_where_the_photograph_is_broken(folder: Path) -> None:
    table, masks = folder / "out" / "regions.csv", folder / "masks"
    out = run("score", folder / "m", folder / "new", "--out", folder / "s.csv", "--json",
              "--masks", masks, "--regions", table)  # fmt: skip
    found = rows(table)
    assert json.loads(out)["n_regions"] == len(found)
    row, column, side = (2 * value for value in SQUARE)
    for i in range(5):
        first = next(line for line in found if line["path"] == f"broken/{i}.png")
        assert first["region"] == "1"
        assert row <= int(first["peak_row"]) < row + side
        assert column <= int(first["peak_column"]) < column + side
        with Image.open(masks / "broken" / f"{i}.png.png") as picture:
            mask = np.asarray(picture)
        assert mask.shape == (2 * SIDE, 2 * SIDE)
        assert (mask[row + 2 : row + side - 2, column + 2 : column + side - 2] == 255).all()
        left, top = int(first["left"]), int(first["top"])
        assert left <= int(first["peak_column"]) < left + int(first["width"])
        assert top <= int(first["peak_row"]) < top + int(first["height"])
        assert set(np.unique(mask)) == {0, 255}
        areas = [int(line["area"]) for line in found if line["path"] == f"broken/{i}.png"]
        assert sum(areas) == (mask == 255).sum()
    # A fifth of new normal images may have a region; of five, not all.
    assert len({line["path"] for line in found if line["path"].startswith("fine")}) < 5
    assert (masks / "fine" / "0.png.png").is_file()


def test_of_a_centre_square_they_are_still_in_pixels_of_the_photograph(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "wide").mkdir()
    wide = np.full((2 * SIDE, 4 * SIDE), 255, np.uint8)
    square = np.asarray(Image.open(folder / "new" / "broken" / "0.png"))
    wide[:, SIDE : 3 * SIDE] = square
    Image.fromarray(wide).save(tmp_path / "wide" / "0.png")
    run("fit", folder / "train", "--detector", "pixel-pca", "--image-size", SIDE, "--out",
        tmp_path / "m", "--set", "resize=crop", "--set", "fpr=0.2",
        "--set", "validation_fraction=0.3")  # fmt: skip
    run("score", tmp_path / "m", tmp_path / "wide", "--out", tmp_path / "s.csv",
        "--masks", tmp_path / "masks", "--regions", tmp_path / "r.csv")  # fmt: skip
    first = rows(tmp_path / "r.csv")[0]
    row, column, side = (2 * value for value in SQUARE)
    assert row <= int(first["peak_row"]) < row + side
    assert SIDE + column <= int(first["peak_column"]) < SIDE + column + side
    with Image.open(tmp_path / "masks" / "0.png.png") as picture:
        mask = np.asarray(picture)
    assert mask.shape == wide.shape
    assert not mask[:, :SIDE].any()
    assert not mask[:, 3 * SIDE :].any()
    assert mask[row + 2 : row + side - 2, SIDE + column + 2 : SIDE + column + side - 2].all()


def test_the_report_of_an_evaluation_outlines_the_regions(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "new" / "fine", tmp_path / "parts" / "normal")
    shutil.copytree(folder / "new" / "broken", tmp_path / "parts" / "anomalous")
    run("evaluate", folder / "m", tmp_path / "parts", "--out", tmp_path / "e")
    page = (tmp_path / "e" / "report.html").read_text(encoding="utf-8")
    assert "around regions above the threshold for pixels" in page
    assert "around what a mask calls a defect" not in page
    address = re.findall(r'<img src="data:[^,]+,([^"]+)" alt="heatmap: anomalous/0.png"', page)[0]
    with Image.open(io.BytesIO(base64.b64decode(address))) as picture:
        red, green, blue = np.moveaxis(np.asarray(picture.convert("RGB")).astype(int), 2, 0)
    # Of no heatmap: red and blue without green.
    line = (red > 200) & (blue > 200) & (green < 170)
    run("score", folder / "m", tmp_path / "parts", "--out", tmp_path / "s.csv",
        "--masks", tmp_path / "masks")  # fmt: skip
    with Image.open(tmp_path / "masks" / "anomalous" / "0.png.png") as picture:
        mask = np.asarray(picture) > 0
    around = binary_dilation(mask, np.ones((3, 3)), iterations=2) & ~mask
    border = np.ones_like(mask)
    border[2:-2, 2:-2] = False
    around |= mask & border
    assert around.sum() > 40
    # But for JPEG's blur.
    assert (line == around).mean() > 0.97


def test_regions_in_python_are_those_of_a_loaded_model(folder: Path) -> None:
    detector = load(folder / "m")
    found = detector.regions(folder / "new" / "broken")
    assert [len(regions) >= 1 for regions in found] == [True] * 5
    row, column, side = SQUARE
    for regions in found:
        assert row <= regions[0].peak_row < row + side
        assert column <= regions[0].peak_column < column + side
    strict = detector.pixel_verdict(0.1)
    assert strict.threshold >= detector.pixel_verdict().threshold


def test_an_exported_file_knows_the_threshold_too(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    quick = {"width": 0.06, "epochs": 1, "min_steps": 0, "warmup_epochs": 1, "fpr": 0.2}
    detector = DETECTORS["aegan"](**{k: v for k, v in quick.items() if k != "warmup_epochs"})
    detector.fit(np.stack([photograph(i) for i in range(60)])[:, :32, :32])
    from adcgan import export_onnx

    export_onnx(detector, tmp_path / "m.onnx")
    exported = load(tmp_path / "m.onnx")
    assert exported.pixel_verdict().threshold == detector.pixel_verdict().threshold


def test_a_detector_without_maps_is_refused_before_any_work(folder: Path) -> None:
    run("fit", folder / "train", "--detector", "pixel-iforest", "--image-size", SIDE,
        "--out", folder / "forest", "--set", "fpr=0.2")  # fmt: skip
    told = run("score", folder / "forest", folder / "new", "--out", folder / "none.csv",
               "--masks", folder / "none", code=2)  # fmt: skip
    assert "no threshold for pixels" in told
    assert len(told.strip().splitlines()) == 1
    assert not (folder / "none.csv").exists()
    assert not (folder / "none").exists()


def test_a_model_of_before_is_told_to_be_fitted_again(folder: Path) -> None:
    detector = load(folder / "m")
    detector.calibration_peaks_ = None
    with pytest.raises(InputError, match="fit it again"):
        detector.regions(folder / "new")


def test_a_cluster_writes_no_masks(folder: Path) -> None:
    told = run("score", folder / "m", folder / "new", "--out", folder / "shards",
               "--ray", "local", "--masks", folder / "none", code=2)  # fmt: skip
    assert "--masks cannot be combined with --ray" in told
