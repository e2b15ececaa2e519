"""Every detector through every command: real commands, nothing replaced.

Over whatever `adcgan.DETECTORS` holds, so that a detector added there is in it. On digits in every
run; on photographs, killed half way, and as a service under the marker ``matrix``.
"""

from __future__ import annotations

import csv
import http.client
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from sklearn.datasets import load_sample_image
from typer.testing import CliRunner

from adcgan import DETECTORS
from adcgan.cli import app

# Small and quick; a detector takes those of these settings that it has.
QUICK: dict[str, Any] = {
    "width": 0.06,
    "batch_size": 16,
    "warmup_epochs": 1,
    "epochs": 1,
    "min_steps": 0,
    "warmup_steps": 2,
    "search_steps": 2,
    "restarts": 2,
    "feature_size": 32,
    "fpr": 0.2,
}
KINDS = ("digits", "photographs")
N_NORMAL, N_ANOMALOUS = 24, 6


def marked(name: str) -> Any:
    """Return the name, marked and skipped where the packages of an extra are missing."""
    packages = DETECTORS[name].packages
    missing = any(find_spec(package) is None for package in packages)
    marks = [pytest.mark.peers, pytest.mark.skipif(missing, reason="needs an extra")]
    return pytest.param(name, marks=marks if packages else ())


every_detector = pytest.mark.parametrize("name", [marked(name) for name in DETECTORS])
on_every_kind = pytest.mark.parametrize(
    "kind", ["digits", pytest.param("photographs", marks=pytest.mark.matrix)]
)


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def done(*arguments: object) -> Result:
    """Run a command that must succeed and say nothing of a traceback."""
    result = invoke(*arguments)
    assert result.exit_code == 0, f"{arguments}: {result.output}"
    assert "Traceback" not in result.output
    return result


def refused(*arguments: object) -> str:
    """Run a command that must end with exit code 2 and one line; return the line."""
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert result.stderr.splitlines()[-1] == lines[0]
    assert "Traceback" not in result.output
    return lines[0]


def quick(name: str, **settings: Any) -> list[str]:
    """Return the options that make a detector small and quick."""
    known = DETECTORS[name].rules()
    chosen = {key: value for key, value in {**QUICK, **settings}.items() if key in known}
    return [part for key, value in chosen.items() for part in ("--set", f"{key}={value}")]


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def weights(model: Path) -> bytes:
    return (model / "weights.safetensors").read_bytes()


# -- what the commands are given -------------------------------------------------------------------


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder: normal/ and anomalous/ under test, of mixed sizes and formats, and train."""
    folder = tmp_path_factory.mktemp("photographs")
    flower, rng = load_sample_image("flower.jpg"), np.random.default_rng(0)

    def piece(path: Path, *, broken: bool = False) -> None:
        height, width = rng.integers(60, 120, 2)
        y, x = rng.integers(0, 300), rng.integers(0, 500)
        pixels = flower[y : y + height, x : x + width].copy()
        if broken:
            pixels[10:40, 15:45] = (255, 0, 255)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)

    for i in range(40):
        piece(folder / "train" / f"{i}.{'jpg' if i % 2 else 'png'}")
    for i in range(N_NORMAL):
        piece(folder / "test" / "normal" / f"{i}.jpg")
    for i in range(N_ANOMALOUS):
        piece(folder / "test" / "anomalous" / f"{i}.png", broken=True)
    return folder


Given = Callable[[str, str], tuple[Path, list[object], list[object]]]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory, photographs: Path) -> Given:
    """Return a function: detector and kind -> model folder, fit's data and test data.

    The model is fitted when first asked for.
    """

    @cache
    def fitted(name: str, kind: str) -> tuple[Path, list[object], list[object]]:
        model = tmp_path_factory.mktemp(f"{name}-{kind}") / "model"
        if kind == "digits":
            learned, tested = ["digits", "--normal", "0"], ["digits", "--normal", "0"]
        else:
            side = "64" if DETECTORS[name].resize == "keep" else "32"
            learned = [photographs / "train", "--image-size", side]
            tested = [photographs / "test"]
        fit = ["fit", *learned, "--detector", name, *quick(name), "--out", model]
        result = done(*fit, "--json")
        said = json.loads(result.stdout)
        assert said["detector"] == name
        # A quarter of the held-out images may be what scales are measured on.
        n = 142 if kind == "digits" else 40
        assert 0.9 * n <= said["n_train"] + said["n_calibration"] <= n
        return model, fit, tested

    return fitted


def n_tested(kind: str) -> int:
    return 359 if kind == "digits" else N_NORMAL + N_ANOMALOUS


# -- the matrix ------------------------------------------------------------------------------------


@on_every_kind
@every_detector
def test_fit_resume_score_evaluate_report_and_export(
    name: str, kind: str, given: Given, tmp_path: Path
) -> None:
    model, fit, tested = given(name, kind)

    before = weights(model)
    again = json.loads(done(*fit, "--resume", "--json").stdout)
    assert again["already_finished"]
    assert weights(model) == before
    assert "files in it" in refused(*fit)

    scored = json.loads(
        done("score", model, tested[0], "--out", tmp_path / "s.csv", "--json").stdout
    )
    found = rows(tmp_path / "s.csv")
    assert len(found) == scored["n_scored"] == n_tested(kind)
    assert all(np.isfinite(float(row["score"])) for row in found)
    assert all(0 < float(row["p_value"]) <= 1 and row["error"] == "" for row in found)
    assert sum(int(row["anomalous"]) for row in found) == scored["n_anomalous"]

    strict = ("score", model, tested[0], "--out", tmp_path / "f.csv", "--fpr", "0.5", "--json")
    assert json.loads(done(*strict).stdout)["n_anomalous"] >= scored["n_anomalous"]

    maps, options = (
        tmp_path / "maps",
        ("--out", tmp_path / "h.csv", "--heatmaps", tmp_path / "maps"),
    )
    result = invoke("score", model, tested[0], *options)
    if result.exit_code == 0:
        assert len(list(maps.rglob("*.png"))) == n_tested(kind)
        assert rows(tmp_path / "h.csv") == found
    else:
        assert "does not make anomaly maps" in refused("score", model, tested[0], *options)
        assert not (tmp_path / "h.csv").exists()

    done("evaluate", model, *tested, "--out", tmp_path / "e")
    metrics = json.loads((tmp_path / "e" / "metrics.json").read_text())
    assert metrics["detector"] == name
    assert 0 <= metrics["auroc"] <= 1
    assert metrics["n_normal"] + metrics["n_anomalous"] == n_tested(kind)
    assert (tmp_path / "e" / "report.html").stat().st_size > 10_000

    done("report", model, "--out", tmp_path / "r.html")
    assert name in (tmp_path / "r.html").read_text(encoding="utf-8")

    file = tmp_path / "m.onnx"
    if DETECTORS[name].not_exported:
        into = tmp_path / "new" / "m.onnx"
        assert DETECTORS[name].not_exported in refused("export", model, "--out", into)
        assert "exporting" not in invoke("export", model, "--out", into).stderr
        assert not into.parent.exists()
        return
    done("export", model, "--out", file)
    done("score", file, tested[0], "--out", tmp_path / "o.csv")
    exported = [float(row["score"]) for row in rows(tmp_path / "o.csv")]
    scores = np.array([float(row["score"]) for row in found])
    np.testing.assert_allclose(exported, scores, rtol=1e-3, atol=1e-3 * np.abs(scores).max())


def test_one_cell_of_a_benchmark_for_each(tmp_path: Path) -> None:
    names = [
        name
        for name, kind in DETECTORS.items()
        if all(find_spec(package) is not None for package in kind.packages)
    ]
    common = [part for key in ("fpr", "width") for part in ("--set", f"{key}={QUICK[key]}")]
    own = [
        part
        for name in names
        for key, value in QUICK.items()
        if key in DETECTORS[name].rules() and key not in ("fpr", "width")
        for part in ("--set", f"{name}.{key}={value}")
    ]
    out = tmp_path / "sweep"
    asked = ("--dataset", "digits", "--classes", "0", "--seeds", "0", "--workers", "1")
    done("benchmark", *asked, "--detectors", ",".join(names), *common, *own, "--out", out)
    results = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    assert sorted(row["detector"] for row in results) == sorted(names)
    assert [row["error"] for row in results] == [None] * len(names)
    assert all(0 <= row["auroc"] <= 1 for row in results)
    assert all(name in done("tables", out).stdout for name in names)
    done("report", out)
    assert (out / "report.html").stat().st_size > 10_000


@pytest.mark.matrix
@every_detector
def test_a_run_that_is_killed_goes_on_to_the_same_bytes(name: str, tmp_path: Path) -> None:
    if "batch_size" not in DETECTORS[name].rules():
        pytest.skip("takes no steps that a kill could interrupt")
    settings = quick(name, min_steps=300, warmup_steps=100, warmup_epochs=5, epochs=30)
    fit = [
        "fit",
        "digits",
        "--normal",
        "0",
        "--detector",
        name,
        *settings,
        "--checkpoint-every",
        "7",
    ]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    command = [sys.executable, "-m", "adcgan", *fit, "--out", str(killed)]
    with open(tmp_path / "said", "w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
    deadline = time.monotonic() + 120
    while not (killed / "checkpoint.safetensors").exists():
        assert process.poll() is None, (tmp_path / "said").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (killed / "manifest.json").exists()
    done(*fit, "--out", killed, "--resume")
    done(*fit, "--out", whole)
    assert weights(killed) == weights(whole)


@pytest.mark.matrix
@every_detector
def test_the_service_answers_an_image(name: str, given: Given, photographs: Path) -> None:
    pytest.importorskip("fastapi")
    model, _, _ = given(name, "photographs")
    process = subprocess.Popen(
        [sys.executable, "-m", "adcgan", "serve", str(model), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        found = re.search(r"http://127\.0\.0\.1:(\d+)", process.stdout.readline())
        assert found is not None, process.stderr.read()
        image = photographs / "test" / "anomalous" / "0.png"
        connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=60)
        connection.request("POST", "/v1/score", image.read_bytes(), {"Content-Type": "image/png"})
        answer = connection.getresponse()
        body = json.load(answer)
        assert answer.status == 200, body
        connection.close()
    finally:
        process.kill()
        process.communicate()
    (row,) = body["images"]
    assert np.isfinite(row["score"])
    assert row["error"] is None
    assert row["anomalous"] == (row["score"] > body["threshold"])
