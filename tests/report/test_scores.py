from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest

from adcgan.report import write_scores
from adcgan.scoring import Assessment, Verdict

NAMES = ["a,b.png", 'q"uote.png', "new\nline.png", "odd\udcff.png", "broken.png"]


def assessment():
    scores = np.array([0.1, 1 / 3, 2.0, 3.0, np.nan])
    return Assessment(
        names=NAMES,
        scores=scores,
        p_values=scores / 4,
        anomalous=np.array([0, 0, 1, 1, -1]),
        components={"residual": scores * 2},
        variants={},
        errors=["", "", "", "", "truncated, or worse"],
        verdict=Verdict(1.0, None, np.arange(3.0)),
    )


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_each_input_has_one_row_whatever_its_name(tmp_path):
    write_scores(tmp_path / "new" / "scores.csv", assessment())
    found = rows(tmp_path / "new" / "scores.csv")
    assert list(found[0]) == ["path", "score", "p_value", "anomalous", "residual", "error"]
    assert [row["path"] for row in found] == [*NAMES[:3], r"odd\udcff.png", NAMES[4]]


def test_figures_keep_every_digit(tmp_path):
    write_scores(tmp_path / "scores.csv", assessment())
    row = rows(tmp_path / "scores.csv")[1]
    assert float(row["score"]) == 1 / 3
    assert float(row["residual"]) == 2 / 3
    assert (row["anomalous"], row["error"]) == ("0", "")


def test_an_unreadable_image_has_its_error_and_nothing_else(tmp_path):
    write_scores(tmp_path / "scores.csv", assessment())
    assert rows(tmp_path / "scores.csv")[4] == {
        "path": "broken.png",
        "score": "",
        "p_value": "",
        "anomalous": "",
        "residual": "",
        "error": "truncated, or worse",
    }


def test_a_failure_leaves_the_old_table_and_no_scrap(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("old")
    with pytest.raises(IndexError):
        write_scores(path, replace(assessment(), anomalous=np.array([1])))
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["scores.csv"]
