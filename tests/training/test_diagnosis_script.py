"""``benchmarks/diagnosis.py``: it watches the training that ``fit`` does, and changes nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from adcgan import ADCGAN
from adcgan.benchmark.metrics import auroc

NAMES = ("discrimination", "residual", "encoded", "latent")
QUICK = ["width=0.06", "warmup_epochs=1", "epochs=2", "min_steps=0", "batch_size=16"]


@pytest.fixture
def diagnosis(benchmark_script: Callable[[str], Any]) -> Any:
    """Return the script as a module."""
    return benchmark_script("diagnosis")


def test_each_epoch_is_judged_with_both_statistics(
    diagnosis: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "rows.jsonl"
    asked = [word for setting in QUICK for word in ("--set", setting)]
    arguments = ["--dataset", "digits", "--classes", "4", *asked, "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["diagnosis.py", *arguments])
    diagnosis.main()
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    seen = [(row["epoch"], row["phase"], row["statistics"]) for row in rows]
    assert seen == [
        (epoch, phase, statistics)
        for epoch, phase in ((1, "warm-up"), (2, "joint"), (3, "joint"))
        for statistics in ("running", "recomputed")
    ]
    assert set(rows[0]["auroc"]) == {"score", *NAMES}
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["diagnosis.py", "--table", str(out)])
    diagnosis.main()
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(rows)


def test_what_it_judges_at_the_end_is_what_fit_makes(diagnosis: Any) -> None:
    data = diagnosis.material("digits", 4)
    options: dict[str, Any] = {
        "width": 0.06,
        "warmup_epochs": 1,
        "epochs": 2,
        "min_steps": 0,
        "batch_size": 16,
        "fpr": 0.5,
        "device": "cpu",
        "precision": "float32",
    }
    watched = ADCGAN(**options)
    *_, last = diagnosis.epochs(watched, data.train)
    assert last == (3, "joint", "recomputed")
    fitted = ADCGAN(**options).fit(data.train.transpose(0, 2, 3, 1))
    learned = watched.model_.state_dict()
    for name, weights in fitted.model_.state_dict().items():
        assert torch.equal(weights, learned[name]), name
    found = diagnosis.figures(watched, data)["auroc"]["score"]
    judged = data.judged.transpose(0, 2, 3, 1)
    expected = auroc(data.labels, fitted.decision_function(judged))
    assert found == pytest.approx(100 * expected, abs=0.02)


def test_material_is_of_the_development_split_alone(
    diagnosis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    load = diagnosis.load_named

    def watched(name: str, split: str) -> Any:
        loaded.append(split)
        return load(name, split)

    monkeypatch.setattr(diagnosis, "load_named", watched)
    data = diagnosis.material("digits", 4)
    assert loaded == ["train"]
    assert set(data.labels.tolist()) == {0, 1}
    trained = {image.tobytes() for image in data.train}
    normal = {image.tobytes() for image in data.judged[data.labels == 0]}
    assert not trained & normal
