"""``benchmarks/left_out.py``: the same class judged where it is new and where it is normal."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from adcgan import load_named
from adcgan.benchmark.metrics import auroc
from adcgan.cli import app
from adcgan.detectors import PixelKNN


@pytest.fixture
def left_out(benchmark_script: Callable[[str], Any]) -> Any:
    """Return the script as a module."""
    return benchmark_script("left_out")


def test_a_class_gains_by_being_new(
    left_out: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sweep, out = tmp_path / "sweep", tmp_path / "rows.jsonl"
    asked = ["--dataset", "digits", "--scheme", "all-vs-one", "--detectors", "pixel-knn"]
    asked += ["--classes", "0,1,2", "--seeds", "0", "--split", "development"]
    done = CliRunner().invoke(app, ["benchmark", *asked, "--keep-models", "--out", str(sweep)])
    assert done.exit_code == 0, done.output
    monkeypatch.setattr(sys, "argv", ["left_out.py", str(sweep), "--out", str(out)])
    left_out.main()
    shown = capsys.readouterr().out
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(r["class"], r["other"]) for r in rows] == [
        (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)
    ]  # fmt: skip
    gains = [row["left_out"]["score"] - row["normal"]["score"] for row in rows]
    assert min(gains) > 5
    assert "| mean | score | 9" in shown
    assert shown.rstrip("\n").splitlines()[-2].endswith(f" {np.mean(gains):.1f} |")
    monkeypatch.setattr(sys, "argv", ["left_out.py", "--table", str(out)])
    left_out.main()
    assert capsys.readouterr().out == shown


def test_the_figures_are_those_of_detectors_that_saw_it_or_did_not(left_out: Any) -> None:
    images = load_named("digits", "train")
    assert images.labels is not None
    judgements = []
    for class_ in (3, 8):
        part = left_out.development_partition(images.labels, scheme="all-vs-one", class_=class_)
        detector = PixelKNN(random_state=0).fit(images.select(part.train))
        judged = images.select(part.evaluation)
        assert judged.labels is not None
        scores = {"score": detector.decision_function(judged)}
        judgements.append(left_out.Judgement(class_, judged.labels, scores))
        assert class_ not in images.labels[part.train]
    first, second = left_out.compare(judgements)
    for row, new, old in ((first, *judgements), (second, *judgements[::-1])):
        for key, judgement in (("left_out", new), ("normal", old)):
            labels, values = judgement.classes, judgement.scores["score"]
            of_class = values[labels == row["class"]]
            others = values[(labels != 3) & (labels != 8)]
            expected = auroc(
                np.repeat([1, 0], [len(of_class), len(others)]), np.append(of_class, others)
            )
            assert row[key]["score"] == pytest.approx(100 * expected)
            assert row["n"][key] == len(of_class) > 0


def test_rows_of_another_split_are_refused(
    left_out: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    row = {"key": "k", "error": None, "split": "test", "scheme": "all-vs-one"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    for arguments in ([], [str(tmp_path)], [str(tmp_path / "none")]):
        monkeypatch.setattr(sys, "argv", ["left_out.py", *arguments])
        with pytest.raises(SystemExit):
            left_out.main()
        assert "--split development" in capsys.readouterr().err


def test_one_class_alone_is_refused(
    left_out: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    row = {"error": None, "split": "development", "scheme": "all-vs-one", "dataset": "digits"}
    row |= {"detector": "pixel-knn", "settings": {}, "seed": 0}
    # Two classes, but detectors that learnt from different numbers of images.
    kinds = [{"key": "a", "class": 0, "max_train": 9}, {"key": "b", "class": 1, "max_train": None}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row | k) + "\n" for k in kinds))
    monkeypatch.setattr(sys, "argv", ["left_out.py", str(tmp_path)])
    with pytest.raises(SystemExit):
        left_out.main()
    assert "two classes at least" in capsys.readouterr().err
