"""The parts of ``benchmarks/gpu.py`` that need no GPU."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture
def gpu(benchmark_script: Callable[[str], Any]) -> Any:
    """Return the script as a module."""
    return benchmark_script("gpu")


def run(gpu: Any, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", *arguments])
    gpu.main()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_ends_with_one_line_and_exit_code_2(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(gpu, monkeypatch)
    assert ended.value.code == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == "gpu.py needs a CUDA device, and 'cuda' is none here.\n"


def test_on_a_cpu_it_counts_eager_steps_alone_and_projects_nothing(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "gpu.json"
    short = ["--device", "cpu", "--sizes", "28", "--seconds", "0.2", "--threads", "1"]
    run(gpu, monkeypatch, *short, "--processes", "2", "--out", str(out))
    (row,) = json.loads(out.read_text())["rows"]
    assert (row["mode"], row["processes"], row["error"]) == ("eager", 2, None)
    assert row["steps_per_second"] == pytest.approx(sum(row["steps_per_second_each"]))
    assert (row["gpu_percent"], row["gpu_percent_by"]) == (None, "not measured")
    shown = capsys.readouterr().out
    assert "not measured" in shown
    run(gpu, monkeypatch, "--table", str(out))
    assert capsys.readouterr().out == shown


def test_a_mode_that_needs_a_gpu_is_refused_on_a_cpu(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(gpu, monkeypatch, "--device", "cpu", "--modes", "graphed")
    assert ended.value.code == 2
    assert capsys.readouterr().err == "--modes on cpu must be of eager.\n"


def test_a_process_that_ends_early_is_a_row_with_its_error(gpu: Any) -> None:
    settings = {"device": "cpu", "precision": "int2", "threads": 1, "size": 28, "width": 0.06}
    row = gpu.measured({**settings, "mode": "eager"}, 1, 0.1)
    assert row["error"] == "a process ended with status 1"


def test_the_steps_of_table_1_follow_from_the_sets(gpu: Any) -> None:
    steps = {(part.dataset, part.scheme): part.steps for part in gpu.TABLE_1}
    # 3 seeds of 10 classes, 20 epochs of ⌊5,400 / 32⌋ batches.
    assert steps["MNIST", "one-vs-all"] == 3 * 10 * 20 * 168
    assert steps["CIFAR-10", "all-vs-one"] == 3 * 10 * 50 * 1265
    assert steps["CatsVsDogs", "one-vs-all"] == 3 * 2 * 20 * 281


def test_the_projection_is_by_the_fewest_processes_that_nearly_reach_the_best(gpu: Any) -> None:
    def row(mode: str, processes: int, speed: float, error: str | None = None) -> dict[str, Any]:
        told = {"part": "steps", "size": 28, "width": 1.0, "mode": mode, "precision": "auto"}
        told |= {"processes": processes, "steps_per_second": speed, "error": error}
        return {**told, "gpu_percent": 50.0, "peak_gpu_mib": 900.0, "first_step_seconds": 1.0}

    rows = [
        *(row("eager", 1, 50), row("eager", 8, 300), row("graphed", 2, 390)),
        *(row("graphed", 4, 400), row("plain", 1, 1000), row("graphed", 8, 900, "out of memory")),
    ]
    projected = gpu.projection(rows)
    # Other sizes have no rows: 4 of 7 parts, and the table says so.
    assert {(part["mode"], part["processes"]) for part in projected} == {("graphed", 2)}
    assert projected[0]["seconds"] == pytest.approx(100_800 / 390)
    machine = {"name": "CPU", "cpus": 2, "threads": 1}
    told = {"date": "2026-11-23", "commit": "abc", "command": "python gpu.py", "hardware": machine}
    versions = {"torch": "2.13.0", "python": "3.11"}
    device = {"device": "cuda", "name": "Some GPU"}
    text = gpu.table({**told, "versions": versions, "device": device, "rows": rows + projected})
    assert "| 28 px, 1 | graphed, auto | 2 | 390 | 5.13 | 50% | 900 | 1.0 |" in text
    assert "| 28 px, 1 | graphed, auto | 8 | out of memory | – | – | – | – |" in text
    assert "| 4 of 7 parts | 1 |" in text
