"""Folders of photographs with defects through the benchmark, several categories at a time."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from adcgan import load_images
from adcgan.benchmark import formats
from adcgan.benchmark import sweep as sweep_module
from adcgan.benchmark.categories import find_categories
from adcgan.benchmark.cells import make_detector, plan_categories
from adcgan.benchmark.rows import read_rows
from adcgan.benchmark.runner import attempt
from adcgan.benchmark.tables import make_tables
from adcgan.cli import app
from adcgan.data import judging_listing
from adcgan.detectors import DETECTORS
from adcgan.errors import InputError
from adcgan.report import render, sweep_page

SETTINGS = ["--set", "image_size=16", "--set", "fpr=0.2"]
QUICK = ["--detectors", "pixel-pca", "--seeds", "0", "--device", "cpu", *SETTINGS]
FIGURES = ("auroc", "auroc_ci95", "defects", "pixels", "pixels_left_out", "at_threshold")


def write_category(root: Path, seed: int, n_train: int = 30) -> None:
    """Write noisy photographs, some with a bright square that a mask marks."""
    rng = np.random.default_rng(seed)
    for folder, n in (("train/good", n_train), ("test/good", 4), ("test/hole", 3), ("test/rip", 2)):
        (root / folder).mkdir(parents=True)
        for i in range(n):
            values = rng.integers(0, 120, (20, 24)).astype(np.uint8)
            kind = folder.split("/")[1]
            if kind != "good":
                mask = np.zeros((20, 24), np.uint8)
                mask[4:9, 6 : 6 + 3 * (i + 2)] = 255
                values[mask > 0] += 100
                there = root / "ground_truth" / kind
                there.mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(there / f"{i}_mask.png")
            Image.fromarray(values).save(root / folder / f"{i}.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a folder of two categories, and of one that is none."""
    folder = tmp_path / "parts"
    write_category(folder / "bolt", 0)
    write_category(folder / "nut", 1)
    (folder / "licence").mkdir()
    return folder


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Compute cells here, without processes; return their categories in the order of the work."""
    done = []

    def run(cells: Any, folder: Path, *_: Any) -> Iterator[Any]:
        for cell in cells:
            done.append(cell.class_name)
            yield cell, attempt(cell, folder, "cpu"), 0

    monkeypatch.setattr(sweep_module, "run_local", run)
    return done


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def done(*arguments: object) -> Result:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result


def refused(*arguments: object) -> str:
    """Run a command that must end with exit code 2, and return what it says: one line."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    line = result.stderr.splitlines()[-1]
    assert line.startswith("error: ")
    return line


# -- the command -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_process")
def test_every_category_has_the_figures_that_fit_and_evaluate_give(
    root: Path, tmp_path: Path
) -> None:
    result = done("benchmark", "--dataset", root, *QUICK, "--out", tmp_path / "R")
    assert "2 categories: bolt, nut; left out, without train/ and test/: licence" in result.stderr
    rows = read_rows(tmp_path / "R")
    assert [(row["dataset"], row["scheme"], row["class"]) for row in rows] == [
        ("parts", "defects", "bolt"),
        ("parts", "defects", "nut"),
    ]
    fast = ("--detector", "pixel-pca", "--image-size", 16, "--set", "fpr=0.2", "--device", "cpu")
    for row in rows:
        model, out = tmp_path / f"m-{row['class']}", tmp_path / f"e-{row['class']}"
        done("fit", root / row["class"], "--out", model, *fast)
        done("evaluate", model, root / row["class"], "--out", out)
        metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
        assert set(row["defects"]) == {"hole", "rip"}
        assert row["pixels"]["n_masks"] == 5
        for name in FIGURES:
            assert row[name] == metrics[name]
        assert (row["n_train"], row["n_test"], row["unreadable"]) == (30, 9, [])
        assert row["settings"] == {"fpr": 0.2, "image_size": 16}
        assert all(row[name] for name in ("commit", "device", "date", "versions", "parameters"))
        assert (row["data_source"], row["note"], row["error"]) == ("folder", "", None)
        # Rows are shared, and where a machine keeps its files is nobody's business.
        assert str(tmp_path) not in json.dumps(row)


def test_a_sweep_goes_on_with_the_categories_that_are_not_done(
    root: Path, tmp_path: Path, in_process: list[str]
) -> None:
    command = ("benchmark", "--dataset", root, *QUICK, "--out", tmp_path / "R")
    done(*command, "--classes", "nut")
    assert in_process == ["nut"]
    result = done(*command)
    assert in_process == ["nut", "bolt"]
    assert "2 cells, 1 of them already done" in result.stderr
    # Another image makes another set of it, whose figures are to be computed.
    shutil.copy(root / "bolt/train/good/0.png", root / "bolt/train/good/new.png")
    assert "2 cells, 1 of them already done" in done(*command).stderr
    assert in_process == ["nut", "bolt", "bolt"]


def test_a_category_that_fails_is_a_row_and_stops_no_other(
    root: Path, tmp_path: Path, in_process: list[str]
) -> None:
    shutil.rmtree(root / "bolt")
    write_category(root / "bolt", 0, n_train=1)
    result = run("benchmark", "--dataset", root, *QUICK, "--out", tmp_path / "R")
    assert result.exit_code == 1
    assert in_process == ["bolt", "nut"]
    failed, whole = read_rows(tmp_path / "R")
    assert failed["error"].startswith("InputError: PixelPCA needs at least")
    assert set(failed) == set(whole)
    assert failed["pixels"] is None
    shown = done("tables", tmp_path / "R").stdout
    assert "missing" in shown
    assert "1 of 2 categories" in shown
    assert "Cells that failed: 1." in shown


@pytest.mark.usefixtures("in_process")
def test_training_sees_good_training_images_alone_and_no_label(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, seen = DETECTORS["pixel-pca"], []
    original = kind.fitting

    def fitting(self: Any, X: Any, **options: Any) -> Any:
        seen.append(X)
        return original(self, X, **options)

    monkeypatch.setattr(kind, "fitting", fitting)
    more = ("--classes", "nut", "--max-train", 25, "--set", "validation_fraction=0.2")
    done("benchmark", "--dataset", root, *QUICK, *more, "--out", tmp_path / "R")
    (images,) = seen
    assert (images.labels, images.types, images.masks) == (None, None, None)
    assert len(images) == 25
    assert all(name.startswith("train/good/") for name in images.names)
    assert read_rows(tmp_path / "R")[0]["max_train"] == 25


@pytest.mark.usefixtures("in_process")
def test_a_set_known_by_name_is_one_category(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "magnetic-tile").symlink_to(root / "nut")
    monkeypatch.setenv("ADCGAN_DATA", str(tmp_path))
    out = tmp_path / "R"
    done("benchmark", "--dataset", "magnetic-tile", *QUICK, "--out", out)
    (row,) = read_rows(out)
    assert (row["dataset"], row["class"]) == ("magnetic-tile", "magnetic-tile")
    # By its path it is the same set, and done.
    again = done("benchmark", "--dataset", tmp_path / "magnetic-tile", *QUICK, "--out", out)
    assert "1 cell, 1 of them already done" in again.stderr


@pytest.mark.usefixtures("in_process")
def test_what_no_figure_covers_is_said_and_in_the_row(root: Path, tmp_path: Path) -> None:
    shutil.rmtree(root / "bolt/ground_truth/rip")
    (root / "bolt/test/hole/0.png").write_bytes(b"no image")
    (root / "bolt/train/good/0.png").write_bytes(b"")
    out = tmp_path / "R"
    seeds = ("--seeds", "0-1")
    result = done("benchmark", "--dataset", root / "bolt", *QUICK, *seeds, "--out", out)
    lines = result.stderr.splitlines()
    assert [line for line in lines if line.startswith("left out ")] == [
        "left out   bolt: Pixel metrics leave out images without a mask: "
        "2 anomalous images have none (rip 2).",
        "left out   bolt: 2 images could not be read and are left out; the first: "
        "train/good/0.png.",
    ]
    row = read_rows(out)[0]
    assert row["unreadable"] == ["train/good/0.png", "test/hole/0.png"]
    assert (row["defects"]["rip"]["pixels"], row["pixels"]["n_masks"]) == (None, 2)
    shown = " ".join(done("tables", out).stdout.split())
    assert "2 anomalous images have none (rip 2)" in shown
    assert "2 images could not be read" in shown


# -- what cannot be meant --------------------------------------------------------------------------


def test_a_wrong_mask_ends_the_command_before_any_training(
    root: Path, tmp_path: Path, in_process: list[str]
) -> None:
    Image.new("L", (8, 8)).save(root / "nut/ground_truth/rip/1_mask.png")
    line = refused("benchmark", "--dataset", root, *QUICK, "--out", tmp_path / "R")
    assert "1_mask.png" in line
    assert "24×20 pixels. Got 8×8 instead" in line
    assert in_process == []
    assert read_rows(tmp_path / "R") == []


def remove(*inside: str) -> Any:
    def spoil(root: Path) -> None:
        for path in inside:
            shutil.rmtree(root / path)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove("bolt", "nut"), "must contain train/good/ and test/, or folders"),
        (remove("nut/train/good"), "nut' must have train/good/ to learn from"),
        (remove("nut/train/good", "nut/test/good"), "It has no train/good/."),
        (remove("nut/test/good"), "nut' must have test/good/ beside train/good/"),
        (remove("nut/test/hole", "nut/test/rip"), "has none in folders of defects in test/"),
        (lambda root: [file.unlink() for file in (root / "nut/test/good").iterdir()], "test/good/"),
    ],
    ids=["no category", "no train/good", "no good", "no test/good", "no defect", "no good image"],
)
def test_a_folder_that_cannot_be_benchmarked_is_one_line(
    root: Path, tmp_path: Path, spoil: Any, message: str
) -> None:
    spoil(root)
    assert message in refused("benchmark", "--dataset", root, *QUICK, "--out", tmp_path / "R")
    assert not (tmp_path / "R").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--classes", "bolt,screw"], "must be among bolt, nut, the categories of"),
        (["--classes", "0"], "Got '0' instead"),
        (["--scheme", "one-vs-all"], "--scheme must be left out if --dataset is a folder"),
        (["--split", "development"], "--split must be left out"),
        (["--protocol", "released"], "--protocol must be left out"),
        (["--set", "depth=3"], "PixelPCA has no parameter 'depth'"),
        (["--epochs", "3"], "needs a detector with epochs"),
    ],
)
def test_options_that_folders_have_no_use_for_are_one_line(
    root: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    line = refused("benchmark", "--dataset", root, *QUICK, "--out", tmp_path / "R", *arguments)
    assert message in line
    assert not (tmp_path / "R").exists()


def test_a_set_that_is_neither_known_nor_a_folder_is_one_line(tmp_path: Path) -> None:
    line = refused("benchmark", "--dataset", tmp_path / "lost", *QUICK, "--out", tmp_path / "R")
    assert "must be one of mnist" in line
    assert "or a folder" in line


@pytest.mark.usefixtures("in_process")
def test_a_model_is_of_one_category(root: Path, tmp_path: Path) -> None:
    fast = ("--detector", "pixel-pca", "--image-size", 16, "--set", "fpr=0.2", "--device", "cpu")
    done("fit", root / "nut", "--out", tmp_path / "m", *fast)
    for line in (
        refused("fit", root, "--out", tmp_path / "n", *fast),
        refused("evaluate", tmp_path / "m", root, "--out", tmp_path / "e"),
        refused("score", tmp_path / "m", root, "--out", tmp_path / "s.csv"),
    ):
        assert "holds categories (bolt, nut), but a model is for one" in line
        assert repr(str(root / "bolt")) in line
        assert f"adcgan benchmark --dataset {root}" in line


def test_masks_are_not_prepared_as_if_they_were_images(root: Path) -> None:
    parts = json.loads(done("data", "prepare", root, "--json").stdout)
    assert [part["n_images"] for part in parts] == [30, 9, 30, 9]
    parts = json.loads(done("data", "prepare", root / "nut", "--json").stdout)
    assert [Path(part["data"]).name for part in parts] == ["good", "test"]
    assert "licence" not in done("data", "prepare", root).stdout


# -- cells -----------------------------------------------------------------------------------------


def planned(folder: Path, **changes: Any) -> list[Any]:
    options: dict[str, Any] = {"detectors": {"adcgan": {}, "pixel-pca": {}}, "seeds": [0, 1]}
    return plan_categories(find_categories(str(folder)), **(options | changes))


def test_a_cell_has_one_key_wherever_its_folder_is(root: Path, tmp_path: Path) -> None:
    cells = planned(root)
    assert len({cell.key for cell in cells}) == len(cells) == 8
    shutil.copytree(root, tmp_path / "other/parts")
    assert [cell.key for cell in planned(tmp_path / "other/parts")] == [c.key for c in cells]
    (root / "nut/test/rip/0.png").unlink()
    changed = [a.class_name for a, b in zip(cells, planned(root), strict=True) if a.key != b.key]
    assert set(changed) == {"nut"}


def test_keys_are_names_of_files_whatever_the_category_is_called(root: Path) -> None:
    (root / "nut").rename(root / "M4 nüts; 'b'")
    assert all(set(cell.key) <= set("._-") | ALPHANUMERIC for cell in planned(root))


ALPHANUMERIC = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")


def test_the_detector_of_a_cell_is_the_one_that_fit_makes(root: Path) -> None:
    usual = DETECTORS["adcgan"]().get_params()
    asked = {"min_steps": usual["min_steps"]}
    cell = planned(root, detectors={"adcgan": asked}, seeds=[3])[0]
    assert make_detector(cell).get_params() == usual | {"random_state": 3}
    assert cell.settings == ()


def test_two_categories_of_one_link_are_read_through_it(root: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "a").symlink_to(root / "nut")
    (linked / "b").symlink_to(root / "nut")
    assert [category.name for category in find_categories(str(linked))] == ["a", "b"]
    with pytest.raises(InputError, match="'classes' parameter must be among a, b"):
        find_categories(str(linked), ["nut"])
    listing = judging_listing(linked / "a")
    assert listing is not None
    assert len(load_images(listing, image_size=16)) == 9


# -- tables ----------------------------------------------------------------------------------------


def row(category: str, auroc: float | None = 0.9, seed: int = 0, **changes: Any) -> dict[str, Any]:
    pixels = None if auroc is None else {"pixel_auroc": auroc - 0.1, "pro30": auroc - 0.2}
    made: dict[str, Any] = {
        "dataset": "parts",
        "scheme": "defects",
        "class": category,
        "images": "abc",
        "detector": "pixel-pca",
        "settings": {},
        "seed": seed,
        "protocol": "paper",
        "split": "test",
        "max_train": None,
        "auroc": auroc,
        "variants": {},
        "defects": auroc and {"hole": {"auroc": auroc}, "rip": {"auroc": auroc - 0.3}},
        "pixels": pixels,
        "pixels_left_out": [],
        "unreadable": [],
        "seconds": 1.0,
        "device": "cpu (x)",
        "commit": "abc",
        "versions": {"adcgan": "0.1.0"},
        "date": "2026-11-23T10:00:00+00:00",
        "note": "",
        "error": None if auroc is not None else "InputError: no",
    } | changes
    names = ("dataset", "class", "images", "detector", "settings", "seed")
    return {"key": "-".join(str(made[name]) for name in names), **made}


def grids(rows: list[dict[str, Any]]) -> dict[str, list[list[str]]]:
    """Return the rows of each table of categories, its columns first, by title."""
    made = [table for table in make_tables(rows) if table.figure]
    return {table.title: [columns, *cells] for table in made for columns, cells in [grid(table)]}


def grid(table: Any) -> tuple[list[str], list[list[str]]]:
    columns, cells = formats.grid(table)
    assert {tuple(cell[:2]) for cell in cells} == {("parts", "defects")}
    return columns[2:], [cell[2:] for cell in cells]


def test_a_table_has_a_row_for_each_category_and_a_column_for_each_detector() -> None:
    rows = [row("nut", 0.8), row("nut", 0.9, 1), row("bolt", 0.6), row("bolt", 0.7, 1)]
    rows += [row("bolt", 0.95, detector="patch-pca"), row("nut", 0.7, settings={"fpr": 0.2})]
    made = grids(rows)
    assert list(made) == [
        "Image AUROC (%) of every category",
        "Pixel AUROC (%) of every category",
        "PRO to 30% of false positives (%) of every category",
        "Image AUROC (%) of every type of defect",
    ]
    assert made["Image AUROC (%) of every category"] == [
        ["category", "pixel-pca", "pixel-pca (fpr=0.2)", "patch-pca"],
        ["bolt", "65.0 ± 7.1", "missing", "95.0"],
        ["nut", "85.0 ± 7.1", "70.0", "missing"],
        ["average", "75.0 ± 7.1", "1 of 2 categories", "1 of 2 categories"],
    ]
    assert made["Pixel AUROC (%) of every category"][1][1] == "55.0 ± 7.1"
    assert made["PRO to 30% of false positives (%) of every category"][3][1] == "55.0 ± 7.1"
    by_type = made["Image AUROC (%) of every type of defect"]
    assert [cells[0] for cells in by_type[1:]] == [
        "bolt, hole",
        "bolt, rip",
        "nut, hole",
        "nut, rip",
    ]
    assert by_type[2][1] == "35.0 ± 7.1"


def test_figures_that_no_row_has_are_no_table_and_a_row_without_one_is_missing() -> None:
    assert list(grids([row("nut", pixels=None)])) == [
        "Image AUROC (%) of every category",
        "Image AUROC (%) of every type of defect",
    ]
    made = grids([row("nut"), row("bolt", pixels=None)])
    pixels = made["Pixel AUROC (%) of every category"]
    assert pixels[1:] == [["bolt", "missing"], ["nut", "80.0"], ["average", "1 of 2 categories"]]


def test_rows_of_other_images_never_stand_in_one_mean() -> None:
    rows = [row("nut", 0.8), row("nut", 0.9, 1, images="def")]
    made = grids(rows)["Image AUROC (%) of every category"]
    assert made[1:3] == [["nut (abc)", "80.0"], ["nut (def)", "90.0"]]


def test_a_category_may_be_called_average() -> None:
    made = grids([row("average", 0.8), row("nut", 0.9)])["Image AUROC (%) of every category"]
    assert made[1:] == [["average (abc)", "80.0"], ["nut", "90.0"], ["average", "85.0"]]


def of_class(auroc: float, **changes: Any) -> dict[str, Any]:
    given = {"dataset": "digits", "scheme": "one-vs-all", "class": 0} | changes
    made = row("0", auroc, **given)
    return {name: made[name] for name in made if name not in ("images", "pixels", "defects")}


def test_categories_have_tables_of_their_own_beside_the_papers() -> None:
    alone, mixed = make_tables([of_class(0.8)]), make_tables([row("nut"), of_class(0.8)])
    assert mixed[:3] == alone
    assert all(table.figure for table in mixed[3:])
    assert all(table.figure for table in make_tables([row("nut")]))


def test_the_notes_name_the_detectors_that_a_line_does_not_hold_for_all_of() -> None:
    rows = [row("nut", pixels_left_out=["No mask."]), row("nut", detector="patch-pca")]
    rows[1]["pixels_left_out"] = ["No mask.", "No maps."]
    notes = make_tables(rows)[0].notes
    assert {"nut: No mask.", "nut, patch-pca: No maps."} <= set(notes)


def test_pretrained_detectors_have_tables_of_their_own() -> None:
    titles = list(grids([row("nut"), row("nut", 0.95, detector="pretrained-patch")]))
    assert titles[4] == (
        "Pretrained on ImageNet: a separate league. Image AUROC (%) of every category"
    )
    assert len(titles) == 8


def test_every_format_and_the_page_take_categories(tmp_path: Path) -> None:
    rows = [
        row("nut", 0.8, dataset="my parts"),
        row("bolt", 0.6, dataset="my parts"),
        row("nut", 0.95, detector="pretrained-patch", dataset="my parts"),
        row("tile", 0.7, dataset="tiles"),
        of_class(0.5),
    ]
    tables = make_tables(rows)
    assert formats.markdown(tables).count("| bolt | 60.0 |") == 1
    assert r"60.0 \\" in formats.latex(tables)
    lines = list(csv.DictReader(io.StringIO(formats.comma_separated(tables))))
    (pro,) = [x for x in lines if x["table"] == "pro30" and x["subject"] == "bolt"]
    assert (pro["dataset"], pro["scheme"], pro["seeds"], pro["ours"]) == (
        "my parts",
        "defects",
        "0",
        "40.0000",
    )
    page = render(sweep_page(rows, "mine"))
    anchors = [part.split('"')[0] for part in page.split(' id="')[1:]]
    assert len(anchors) == len(set(anchors))
    assert not any(" " in anchor for anchor in anchors)
    assert "PRO to 30% of false positives (%) of every category; my parts, defects" in page
    own = " ".join(render(sweep_page(rows[:2], "mine")).split())
    assert "Mean AUROC over categories, in percent: pixel-pca on my parts defects 70.0." in own
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows[:4]))
    result = done("tables", tmp_path, "--plots", tmp_path / "plots")
    assert "my parts, defects" in result.stdout
    assert "Table 1" not in result.stdout
    assert "no plot of averages" in result.stderr
