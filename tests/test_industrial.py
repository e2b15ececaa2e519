"""Photographs with defects, as people who inspect parts have them, through the commands."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from typer.testing import CliRunner

from adcgan import load, load_images, load_named
from adcgan.benchmark import evaluate
from adcgan.cli import app
from adcgan.data import judging_listing
from adcgan.report import evaluation_page, render

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


# -- figures for types of defects and over pixels --------------------------------------------------


def test_every_type_of_defect_has_its_own_figures_of_images(
    shared: Path, model: Path, tmp_path: Path
) -> None:
    metrics = evaluated(model, shared, tmp_path / "e")
    with open(tmp_path / "e/scores.csv", newline="", encoding="utf-8") as file:
        scores = {row["path"]: float(row["score"]) for row in csv.DictReader(file)}
    assert list(metrics["defects"]) == ["crack", "dent"]
    for kind, figures in metrics["defects"].items():
        values = {
            name: [score for path, score in scores.items() if path.startswith(f"test/{name}/")]
            for name in ("good", kind)
        }
        pairs = [(a > b) + (a == b) / 2 for a in values[kind] for b in values["good"]]
        assert figures["n"] == 4
        assert figures["auroc"] == pytest.approx(np.mean(pairs))
        assert figures["n_masks"] == 4


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
def test_figures_over_pixels_are_of_the_photographs_own_pixels(
    shared: Path, tmp_path: Path, resize: str
) -> None:
    done("fit", shared, "--out", tmp_path / "m", *FAST, "--set", f"resize={resize}")
    metrics = evaluated(tmp_path / "m", shared, tmp_path / "e")
    listing = judging_listing(shared)
    assert listing is not None
    images = load_images(listing, image_size=16, resize=resize)
    heat = load(tmp_path / "m").anomaly_map(images)
    # What a map of 16×16 covers of 40×32 pixels, worked out by hand.
    part = {"squash": (0, 0, 40, 32), "pad": (0, 0, 40, 32), "crop": (4, 0, 36, 32)}[resize]
    rows = slice(1, 14) if resize == "pad" else slice(None)
    truth, values, kinds = [], [], []
    for i, name in enumerate(images.names):
        kind = name.split("/")[1]
        mask = np.zeros((32, 40), bool)
        if kind != "good":
            mask[DEFECTS[kind]] = True
        shown = Image.fromarray(np.asarray(heat[i])[rows])
        size = (part[2] - part[0], part[3] - part[1])
        values.append(np.asarray(shown.resize(size, Image.Resampling.BILINEAR)))
        truth.append(mask[part[1] : part[3], part[0] : part[2]])
        kinds.append(kind)
    for kinds_judged, figures in [
        ({"good", "crack"}, metrics["defects"]["crack"]["pixels"]),
        ({"good", "dent"}, metrics["defects"]["dent"]["pixels"]),
        ({"good", "crack", "dent"}, metrics["pixels"]),
    ]:
        chosen = [i for i, kind in enumerate(kinds) if kind in kinds_judged]
        flat_truth = np.concatenate([truth[i].ravel() for i in chosen])
        flat = np.concatenate([values[i].ravel() for i in chosen])
        assert figures["n_pixels"] == len(flat)
        assert figures["n_defect_pixels"] == flat_truth.sum()
        assert figures["n_regions"] == 4 * (len(kinds_judged) - 1)
        assert figures["pixel_auroc"] == pytest.approx(roc_auc_score(flat_truth, flat))
        expected = average_precision_score(flat_truth, flat)
        assert figures["pixel_average_precision"] == pytest.approx(expected)
        flagged = flat > figures["pixel_best_f1_threshold_chosen_on_test"]
        assert figures["pixel_best_f1"] == pytest.approx(f1_score(flat_truth, flagged))
        assert figures["pro30"] > 0.5


def test_what_is_printed_and_reported_says_which_threshold_is_never_used(
    shared: Path, model: Path, tmp_path: Path
) -> None:
    result = done("evaluate", model, shared, "--out", tmp_path / "e")
    page = (tmp_path / "e/report.html").read_text(encoding="utf-8")
    for text in (" ".join(result.stdout.split()), " ".join(page.split())):
        assert "chosen on test data, never used" in text
        for word in ("crack", "dent", "all defects", "PRO to 30%", "Best F1"):
            assert word in text
    metrics = json.loads((tmp_path / "e/metrics.json").read_text(encoding="utf-8"))
    for figures in (metrics["pixels"], metrics["defects"]["dent"]["pixels"]):
        assert f"{figures['pixel_auroc']:.4f}" in result.stdout
        assert f"{figures['pro30']:.4f}" in page


def test_a_defect_folder_without_masks_has_figures_of_images_and_a_line_that_says_why(
    parts: Path, model: Path, tmp_path: Path
) -> None:
    shutil.rmtree(parts / "ground_truth/dent")
    result = done("evaluate", model, parts, "--out", tmp_path / "e")
    metrics = json.loads((tmp_path / "e/metrics.json").read_text(encoding="utf-8"))
    assert metrics["defects"]["dent"]["auroc"] > 0.5
    assert metrics["defects"]["dent"]["pixels"] is None
    assert metrics["pixels"] == metrics["defects"]["crack"]["pixels"] | {
        "n_masks": 4,
        "longest_side": 1024,
    }
    said = [line for line in result.stderr.splitlines() if line.startswith("pixels ")]
    assert len(said) == 1
    assert "4 anomalous images have none (dent 4)" in said[0]
    assert "dent 4" in (tmp_path / "e/report.html").read_text(encoding="utf-8")


def test_without_any_mask_the_figures_of_images_are_there(
    parts: Path, model: Path, tmp_path: Path
) -> None:
    shutil.rmtree(parts / "ground_truth")
    result = done("evaluate", model, parts, "--out", tmp_path / "e")
    metrics = json.loads((tmp_path / "e/metrics.json").read_text(encoding="utf-8"))
    assert metrics["pixels"] is None
    assert set(metrics["defects"]) == {"crack", "dent"}
    assert "8 anomalous images have none" in result.stderr
    assert "Best F1" not in result.stdout


def test_masks_that_mark_nothing_give_no_figures_over_pixels(
    parts: Path, model: Path, tmp_path: Path
) -> None:
    for path in (parts / "ground_truth/dent").iterdir():
        Image.new("L", (40, 32)).save(path)
    metrics = evaluated(model, parts, tmp_path / "e")
    assert metrics["defects"]["dent"]["pixels"] is None
    assert metrics["defects"]["crack"]["pixels"] is not None
    assert any("'dent'" in line and "empty" in line for line in metrics["pixels_left_out"])


def test_a_wrong_mask_ends_the_evaluation_with_one_line(
    parts: Path, model: Path, tmp_path: Path
) -> None:
    mask = parts / "ground_truth/crack/02_mask.png"
    Image.new("L", (16, 16)).save(mask)
    line = refused("evaluate", model, parts, "--out", tmp_path / "a")
    assert "02_mask.png" in line
    assert "40×32 pixels. Got 16×16 instead" in line
    mask.write_bytes(b"no image")
    line = refused("evaluate", model, parts, "--out", tmp_path / "b")
    assert "02_mask.png" in line
    assert "cannot be read" in line
    assert not (tmp_path / "b/metrics.json").exists()


def test_a_detector_without_maps_says_that_it_has_no_figures_over_pixels(
    shared: Path, tmp_path: Path
) -> None:
    done("fit", shared, "--out", tmp_path / "m", *FAST, "--detector", "pixel-iforest")
    metrics = evaluated(tmp_path / "m", shared, tmp_path / "e")
    assert metrics["pixels"] is None
    assert metrics["pixels_left_out"] == ["There are no pixel metrics: the detector makes no maps."]
    assert metrics["defects"]["crack"]["auroc"] > 0.5


def test_data_without_types_or_masks_has_no_table_of_defects(
    parts: Path, model: Path, tmp_path: Path
) -> None:
    root = tmp_path / "two"
    root.mkdir()
    (parts / "test/good").rename(root / "normal")
    (parts / "test/crack").rename(root / "anomalous")
    result = done("evaluate", model, root, "--out", tmp_path / "e")
    metrics = json.loads((tmp_path / "e/metrics.json").read_text(encoding="utf-8"))
    assert (metrics["defects"], metrics["pixels"], metrics["pixels_left_out"]) == ({}, None, [])
    assert "all defects" not in result.stdout
    assert "Types of defects" not in (tmp_path / "e/report.html").read_text(encoding="utf-8")


# -- a set by name ---------------------------------------------------------------------------------


def test_a_set_of_photographs_is_found_by_its_name(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/magnetic-tile").symlink_to(shared)
    monkeypatch.setenv("ADCGAN_DATA", str(tmp_path / "data"))
    done("fit", "magnetic-tile", "--out", tmp_path / "m", *FAST)
    metrics = evaluated(tmp_path / "m", "magnetic-tile", tmp_path / "e")
    assert metrics["data"] == "magnetic-tile (test)"
    assert metrics["pixels"] is not None
    done("score", tmp_path / "m", "magnetic-tile", "--out", tmp_path / "scores.csv")
    splits = json.loads(done("data", "prepare", "magnetic-tile", "--json").stdout)
    assert [split["n_images"] for split in splits] == [40, 14]
    listed = json.loads(done("data", "list", "--json").stdout)
    assert listed[-1]["name"] == "magnetic-tile"
    assert listed[-1]["in_adcgan_data"] is True
    assert "magnetic-tile" in done("data", "list").stdout


def test_a_set_of_photographs_that_is_not_there_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADCGAN_DATA", str(tmp_path))
    line = refused("fit", "magnetic-tile", "--out", tmp_path / "m", *FAST)
    assert str(tmp_path / "magnetic-tile") in line
    monkeypatch.delenv("ADCGAN_DATA")
    line = refused("fit", "magnetic-tile", "--out", tmp_path / "m", *FAST)
    assert "$ADCGAN_DATA is not set" in line


@pytest.mark.data
def test_magnetic_tile_is_judged_by_defect_and_by_pixel(tmp_path: Path) -> None:
    size = ["--image-size", "64", "--detector", "pixel-pca"]
    done("fit", "magnetic-tile", "--out", tmp_path / "m", *size)
    metrics = evaluated(tmp_path / "m", "magnetic-tile", tmp_path / "e")
    assert {kind: row["n"] for kind, row in metrics["defects"].items()} == {
        "blowhole": 115,
        "break": 85,
        "crack": 57,
    }
    assert (metrics["n_normal"], metrics["pixels"]["n_masks"]) == (120, 257)
    assert metrics["pixels_left_out"] == []
    for row in metrics["defects"].values():
        assert row["pixels"]["pixel_auroc"] > 0.7
    train = load_named("magnetic-tile", "train")
    assert len(train) == 480
    assert train.labels is not None
    assert not train.labels.any()


# -- manifests -------------------------------------------------------------------------------------


def write_manifest(root: Path) -> Path:
    """Write a manifest of a set in the industrial layout, beside it."""
    good = sorted((root / "train/good").iterdir())
    lines = [f"{path.relative_to(root.parent)},normal,,,train" for path in good]
    for path in sorted((root / "test").glob("*/*")):
        kind, name = path.parent.name, path.relative_to(root.parent)
        mask = f"{root.name}/ground_truth/{kind}/{path.stem}_mask.png"
        known = "normal,," if kind == "good" else f"anomalous,{kind},{mask}"
        lines.append(f"{name},{known},test")
    manifest = root.parent / "manifest.csv"
    text = "\n".join(["path,label,type,mask,split", *lines, ""])
    manifest.write_text(text, encoding="utf-8")
    return manifest


def test_a_manifest_gives_what_the_folder_gives(parts: Path, tmp_path: Path) -> None:
    manifest = write_manifest(parts)
    result = done("fit", manifest, "--out", tmp_path / "m", "--json", *FAST)
    assert json.loads(result.stdout)["n_train"] == 36
    assert "40 of 54 rows" in result.stderr
    by_manifest = evaluated(tmp_path / "m", manifest, tmp_path / "a")
    by_folder = evaluated(tmp_path / "m", parts, tmp_path / "b")
    assert by_manifest["pixels"]["n_masks"] == 8
    for key in ("auroc", "defects", "pixels", "at_threshold"):
        assert by_manifest[key] == by_folder[key]


def test_a_row_of_a_manifest_whose_file_is_missing_is_a_row_with_its_error(
    parts: Path, model: Path, tmp_path: Path
) -> None:
    manifest = write_manifest(parts)
    (parts / "test/crack/00.png").unlink()
    done("score", model, manifest, "--out", tmp_path / "scores.csv")
    with open(tmp_path / "scores.csv", newline="", encoding="utf-8") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    assert len(rows) == 54
    assert rows["parts/test/crack/00.png"]["error"] == "No such file or directory"
    assert rows["parts/test/crack/01.png"]["error"] == ""
    metrics = evaluated(model, manifest, tmp_path / "e")
    assert metrics["unreadable"] == ["parts/test/crack/00.png"]
    assert metrics["defects"]["crack"]["n"] == 3
    line = refused("evaluate", model, manifest, "--out", tmp_path / "f", "--strict")
    assert "parts/test/crack/00.png" in line


def test_a_manifest_without_paths_or_labels_is_one_line(
    parts: Path, model: Path, tmp_path: Path
) -> None:
    manifest = parts.parent / "manifest.csv"
    manifest.write_text("file\nparts/test/good/00.png\n", encoding="utf-8")
    line = refused("fit", manifest, "--out", tmp_path / "m", *FAST)
    assert "'path'" in line
    for command in ("score", "evaluate"):
        assert "'path'" in refused(command, model, manifest, "--out", tmp_path / "o")
    manifest.write_text("path\nparts/test/good/00.png\n", encoding="utf-8")
    line = refused("evaluate", model, manifest, "--out", tmp_path / "e")
    assert "'label'" in line


def test_a_mask_cannot_mark_defects_in_an_image_that_is_called_normal(
    parts: Path, model: Path, tmp_path: Path
) -> None:
    manifest = write_manifest(parts)
    text = manifest.read_text(encoding="utf-8")
    wrong = text.replace("crack/00.png,anomalous,crack", "crack/00.png,normal,")
    assert wrong != text
    manifest.write_text(wrong, encoding="utf-8")
    line = refused("evaluate", model, manifest, "--out", tmp_path / "e")
    assert "00_mask.png" in line
    assert "labelled normal" in line


# -- pictures in the report ------------------------------------------------------------------------


def pictures_of(page: str, name: str) -> dict[str, np.ndarray]:
    """Return the pictures of an image by what they show, as the page has them."""
    found = {}
    for address, label in re.findall(rf'<img src="(data:[^"]+)" alt="(\w+): {name}"', page):
        content = base64.b64decode(address.split(",")[1])
        found[label] = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)
    return found


def test_the_report_shows_photographs_at_their_own_size_with_defects_outlined(
    shared: Path, model: Path, tmp_path: Path
) -> None:
    evaluated(model, shared, tmp_path / "e")
    page = (tmp_path / "e/report.html").read_text(encoding="utf-8")
    assert "around what a mask calls a defect" in page
    shown = pictures_of(page, "test/dent/00.png")
    assert {picture.shape for picture in shown.values()} == {(32, 40, 3)}
    file = np.asarray(Image.open(shared / "test/dent/00.png").convert("RGB")).astype(int)
    assert np.abs(shown["image"] - file).mean() < 8
    # Blue without red: of no heatmap.
    line = (shown["heatmap"][..., 2] - shown["heatmap"][..., 0]) > 100
    mask = np.zeros((32, 40), bool)
    mask[DEFECTS["dent"]] = True
    around = np.zeros((32, 40), bool)
    around[18:32, 6:20] = True
    around &= ~mask
    assert line[around].mean() > 0.9
    assert line[~around].mean() < 0.02
    good = pictures_of(page, "test/good/00.png")["heatmap"]
    assert not ((good[..., 2] - good[..., 0]) > 100).any()


def test_the_report_outlines_thin_defects_of_large_photographs(model: Path, tmp_path: Path) -> None:
    root = write_parts(tmp_path / "parts")
    mask = np.zeros((1500, 2000), np.uint8)
    mask[700, 400:1600] = 255
    Image.new("L", (2000, 1500), 128).save(root / "test/crack/00.png")
    Image.fromarray(mask).save(root / "ground_truth/crack/00_mask.png")
    metrics = evaluated(model, root, tmp_path / "e")
    assert metrics["pixels"]["n_regions"] >= 7
    page = (tmp_path / "e/report.html").read_text(encoding="utf-8")
    heatmap = pictures_of(page, "test/crack/00.png")["heatmap"]
    assert heatmap.shape == (360, 480, 3)
    assert ((heatmap[..., 2] - heatmap[..., 0]) > 100).sum() > 600


def test_images_that_are_gone_are_shown_as_the_model_saw_them(parts: Path, model: Path) -> None:
    listing = judging_listing(parts)
    assert listing is not None
    detector = load(model)
    images = load_images(listing, image_size=16)
    evaluation = evaluate(detector, images)
    shutil.rmtree(parts)
    page = render(evaluation_page(detector, images, evaluation))
    assert pictures_of(page, "test/dent/00.png")["image"].shape == (16, 16, 3)
