"""``scripts/gpu_check`` without a GPU: a trial of every part, and what decides the order."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "gpu_check"

# Few images cannot support the usual budget, which is warned of and beside the point here.
pytestmark = pytest.mark.filterwarnings("ignore:A false-positive budget of")


@pytest.fixture
def gpu(benchmark_script: Callable[[str], Any]) -> Any:
    """Return the script's module."""
    return benchmark_script("gpu")


def script(*arguments: Any) -> subprocess.CompletedProcess[str]:
    """Run the script with the Python that runs the tests."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        [SCRIPT, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": path},
    )


def options(out: Path) -> argparse.Namespace:
    told: dict[str, Any] = {"minutes": 10.0, "deadline": 4e9, "packages": [], "wheels": None}
    return argparse.Namespace(out=out, device="cpu", **told)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_without_a_gpu_it_ends_with_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = script(tmp_path / "out", "--device", "cuda:77")
    assert done.returncode == 2
    assert done.stderr == "gpu_check needs a CUDA device, and 'cuda:77' is none here.\n"
    assert not (tmp_path / "out").exists()


def test_a_trial_on_a_cpu_measures_every_part(gpu: Any, tmp_path: Path) -> None:
    for part in ("steps", "scoring", "thorough", "rows"):
        gpu.run_part(part, options(tmp_path))
    steps = rows(tmp_path / "steps.jsonl")
    assert [(row["mode"], row["at_once"], row["error"]) for row in steps] == [
        ("eager", 1, None),
        ("eager", 2, None),
    ]
    assert all(row["steps_per_second"] > 0 for row in steps)
    (scoring,) = rows(tmp_path / "scoring.jsonl")
    assert scoring["error"] is None
    assert scoring["float32_difference_of_score"] < 1e-5
    table = rows(tmp_path / "table-1" / "rows.jsonl")
    assert [(row["class"], row["seed"], row["error"]) for row in table] == [(0, 0, None)]
    best = rows(tmp_path / "thorough" / "rows.jsonl")
    assert [(row["detector"], row["class"], row["error"]) for row in best] == [
        ("adcgan-ss", 0, None)
    ]
    assert best[0]["settings"]["effort"] == "thorough"
    # The same again computes no row a second time.
    for part in ("thorough", "rows"):
        gpu.run_part(part, options(tmp_path))
    assert rows(tmp_path / "table-1" / "rows.jsonl") == table
    assert rows(tmp_path / "thorough" / "rows.jsonl") == best
    text = gpu.summary(tmp_path, ["steps: done (1 s)"])
    assert text.startswith("- steps: done (1 s)\n")
    assert "| 28 px, 0.06 | eager | auto | 2 |" in text
    for row in (*best, *table):
        assert f"- {row['key']}: {row['auroc']}\n" in text


def test_a_part_is_ended_when_its_time_is_up(gpu: Any, tmp_path: Path) -> None:
    assert gpu.part_in_time("steps", options(tmp_path), 0.2).startswith("steps: its time was up")


def test_what_fails_is_a_row_with_its_error_and_a_cut_line_is_left_out(
    gpu: Any, tmp_path: Path
) -> None:
    row = gpu.guarded({"size": 28}, lambda: 1 / 0)
    assert row == {"size": 28, "error": "ZeroDivisionError: division by zero"}
    path = tmp_path / "steps.jsonl"
    path.write_text('{"size": 28}\n{"siz')
    assert gpu.rows_of(path) == [{"size": 28}]


def test_the_steps_of_table_1_follow_from_the_sets(gpu: Any) -> None:
    steps = {(part.dataset, part.scheme): part.steps for part in gpu.TABLE_1}
    # 3 seeds of 10 classes, 20 epochs of ⌊5,400 / 32⌋ batches.
    assert steps["mnist", "one-vs-all"] == 3 * 10 * 20 * 168
    assert steps["cifar10", "all-vs-one"] == 3 * 10 * 50 * 1265
    assert steps["cats-vs-dogs", "one-vs-all"] == 3 * 2 * 20 * 281


def test_rows_that_the_results_or_out_have_are_not_computed_again(gpu: Any, tmp_path: Path) -> None:
    plan, part = gpu.plan_for("cuda", 10), gpu.TABLE_1[0]
    cells = gpu.missing_cells(plan, part, tmp_path)
    known = rows(ROOT / "results" / "adcgan-mnist-width-1.jsonl")
    assert len(known) >= 6
    assert not {row["key"] for row in known} & {cell.key for cell in cells}
    done, failed = cells[:2]
    (tmp_path / "table-1").mkdir()
    (tmp_path / "table-1" / "rows.jsonl").write_text(
        json.dumps({"key": done.key, "error": None})
        + "\n"
        + json.dumps({"key": failed.key, "error": "DivergedError: loss"})
        + "\n"
    )
    assert gpu.missing_cells(plan, part, tmp_path) == [failed, *cells[2:]]


def speed(at_once: int, steps_per_second: float, **changed: Any) -> dict[str, Any]:
    told = {"size": 28, "width": 1.0, "mode": "graphed", "precision": "auto", "error": None}
    return {**told, "at_once": at_once, "steps_per_second": steps_per_second, **changed}


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        # A cell has 3,360 steps: eight take 27 s at 1,000 steps a second together, one 17 at 200.
        (60, (16, 8)),
        (30, (8, 8)),
        (20, (1, 1)),
        (10, (0, 8)),
    ],
)
def test_as_many_cells_are_begun_as_can_be_done(
    gpu: Any, seconds: float, expected: tuple[int, int]
) -> None:
    others = [speed(8, 9e9, error="OutOfMemoryError"), speed(8, 9e9, size=32)]
    others += [speed(8, 9e9, mode="eager"), speed(8, 9e9, precision="float32")]
    measured = [*others, speed(1, 200), speed(8, 1000)]
    assert gpu.how_many(gpu.TABLE_1[0], measured, seconds) == expected
    assert gpu.how_many(gpu.TABLE_1[0], others, seconds)[1] is None


def test_the_projection_is_by_the_best_throughput_of_each_size(gpu: Any) -> None:
    assert "no projection" in gpu.projection([speed(8, 1000)])
    measured = [speed(8, 1000), speed(1, 200), *(speed(8, 500, size=size) for size in (32, 64))]
    text = gpu.projection(measured)
    assert "| mnist, one-vs-all | 100,800 | 0.028 |" in text
    assert f"| all | {sum(part.steps for part in gpu.TABLE_1):,} |" in text


@pytest.mark.slow
def test_the_whole_script_runs_on_a_cpu(tmp_path: Path) -> None:
    done = script(tmp_path, "--device", "cpu", "--minutes", "20")
    assert done.returncode == 0, done.stderr
    told = (tmp_path / "summary.md").read_text()
    for part in ("tests", "steps", "scoring", "thorough", "rows"):
        assert f"- {part}: done" in told
    assert "skipped" in (tmp_path / "tests.txt").read_text()
    assert (tmp_path / "circumstances.json").exists()
