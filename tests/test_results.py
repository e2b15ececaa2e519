"""The committed rows are whole, of one setting where one is claimed, and what the tables show."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from adcgan.cli import app
from adcgan.data import DATASETS
from adcgan.detectors import DETECTORS, SelfSupervisedADCGAN
from adcgan.detectors.effort import EFFORTS

RESULTS = Path(__file__).resolve().parents[1] / "results"
FILES = sorted(RESULTS.glob("*.jsonl"))


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_row_says_how_it_was_made(file: Path) -> None:
    listed = (RESULTS / "README.md").read_text()
    names = {file.name}
    for row in rows_of(file):
        assert row["error"] is None
        assert (row["split"], row["protocol"]) == ("test", "paper")
        assert re.fullmatch("[0-9a-f]{7,40}", row["commit"])
        assert all(row[key] for key in ("device", "date", "versions"))
        assert 0 <= row["auroc"] <= 1
        names.add(file.name.replace(row["dataset"], "SET"))
    assert any(name in listed for name in names)


def test_no_cell_stands_twice_in_the_tables_but_for_two_that_a_gpu_repeated() -> None:
    keys = Counter((row["key"], row["device"]) for file in FILES for row in rows_of(file))
    assert [key for key, times in keys.items() if times > 1] == []
    cells = Counter(key for key, _ in keys)
    twice = sorted(key.rpartition("-")[0] for key, times in cells.items() if times > 1)
    assert twice == ["fashion-mnist-one-vs-all-0-adcgan-0", "mnist-one-vs-all-4-adcgan-0"]


@pytest.mark.parametrize("name", ["adcgan-ss", "pretrained-knn", "pixel-pca", "pixel-knn"])
def test_no_setting_differs_by_class_or_set_but_through_the_size(name: str) -> None:
    usual = DETECTORS[name]().get_params()
    rows = ((file, row) for file in FILES for row in rows_of(file) if row["detector"] == name)
    for file, row in rows:
        expected = usual | {"random_state": row["seed"]}
        # The device and the precision say how a row was computed.
        how = ("device", "precision")
        given = {key: value for key, value in row["parameters"].items() if key not in how}
        if name == "adcgan-ss":
            # A file is of one effort, which its name says if it is not the default.
            effort = file.stem.rpartition("-")[2]
            effort = effort if effort in EFFORTS else "quick"
            expected |= {"effort": effort}
            standing = SelfSupervisedADCGAN(effort=effort).for_size(DATASETS[row["dataset"]].size)
            expected, given = (with_none_replaced(p, standing) for p in (expected, given))
        # A row can be older than a parameter.
        assert given.items() <= expected.items(), row["key"]


def with_none_replaced(parameters: dict[str, Any], standing: dict[str, Any]) -> dict[str, Any]:
    return {k: standing.get(k) if v is None else v for k, v in parameters.items()}


def test_the_tables_are_those_of_the_rows(tmp_path: Path) -> None:
    out = tmp_path / "tables.md"
    files = [str(file) for file in FILES]
    result = CliRunner().invoke(
        app, ["tables", *files, "--format", "markdown", "--out", str(out)], env={"COLUMNS": "100"}
    )
    assert result.exit_code == 0, result.output
    assert out.read_text() == (RESULTS / "tables.md").read_text()
