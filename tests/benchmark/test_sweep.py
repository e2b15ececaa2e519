from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import replace
from queue import SimpleQueue

import psutil
import pytest
import torch
from typer.testing import CliRunner

from adcgan.benchmark import sweep as sweep_module
from adcgan.benchmark import workers
from adcgan.benchmark.cells import Cell, plan
from adcgan.benchmark.rows import RowsFile, latest, read_rows
from adcgan.benchmark.runner import attempt, cell_folder, error_row
from adcgan.benchmark.sweep import sweep
from adcgan.benchmark.workers import run_local
from adcgan.cli import app
from adcgan.cli.benchmark import numbers
from adcgan.errors import InputError, MissingExtraError

# Few images cannot support the usual budget, which is warned of and beside the point here.
pytestmark = pytest.mark.filterwarnings("ignore:A false-positive budget of")

PIXELS = Cell("digits", "one-vs-all", 0, "pixel-pca")
# Certain to be killed half-way.
ENDLESS = Cell(
    "digits",
    "one-vs-all",
    0,
    "adcgan",
    (("min_steps", 10**6), ("warmup_epochs", 1), ("width", 0.0625)),
    max_train=80,
    epochs=1,
)


def metrics(rows):
    """What must not depend on how a sweep was interrupted."""
    names = ("auroc", "average_precision", "fpr95", "components", "variants", "error")
    return {row["key"]: {name: row[name] for name in names} for row in rows}


@pytest.fixture
def in_process(monkeypatch):
    """Compute cells here, without processes; return the cells in the order they are done."""
    done = []

    def run(cells, folder, *_):
        for cell in cells:
            done.append(cell)
            yield cell, attempt(cell, folder), 0

    monkeypatch.setattr(sweep_module, "run_local", run)
    return done


def row(key, error=None, **fields):
    return {"key": key, "error": error, **fields}


# -- the file of rows ----------------------------------------------------------------------------


def test_rows_are_read_as_they_were_written(tmp_path):
    with RowsFile(tmp_path / "new") as file:
        file.append(row("a", auroc=0.5))
        file.append(row("b", note="ü\u2028"))
    assert read_rows(tmp_path / "new") == [row("a", auroc=0.5), row("b", note="ü\u2028")]
    assert read_rows(tmp_path) == []


def test_a_line_that_was_cut_short_is_dropped_and_the_next_row_is_whole(tmp_path):
    with RowsFile(tmp_path) as file:
        file.append(row("a"))
    with open(tmp_path / "rows.jsonl", "a") as file:
        file.write('{"key": "b", "err')
    assert read_rows(tmp_path) == [row("a")]
    with RowsFile(tmp_path) as file:
        file.append(row("c"))
    assert read_rows(tmp_path) == [row("a"), row("c")]


def test_a_line_that_is_no_row_is_named(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"key": "a", "error": null}\n[]\n')
    with pytest.raises(InputError, match=r"Line 2 of .* is not a row"):
        read_rows(tmp_path)


def test_two_sweeps_in_one_folder_are_refused(tmp_path):
    with (
        RowsFile(tmp_path),
        pytest.raises(InputError, match="Another benchmark is running"),
        RowsFile(tmp_path),
    ):
        pass
    with RowsFile(tmp_path) as file:  # the lock went with its holder
        file.append(row("a"))


def test_a_success_supersedes_failures_and_is_never_superseded_by_one():
    rows = [row("a", "x"), row("b"), row("a", "y"), row("b", "z"), row("c", "u"), row("a")]
    assert latest(rows) == [row("a"), row("b"), row("c", "u")]
    assert latest(rows[:3])[0] == row("a", "y")


# -- sweeps --------------------------------------------------------------------------------------


def test_finished_cells_are_skipped_and_their_runs_removed(tmp_path, in_process):
    cells = [replace(PIXELS, class_=c) for c in range(3)]
    first = sweep(cells[:2], tmp_path)
    assert (first.n_skipped, len(first.rows), first.failed) == (0, 2, [])
    second = sweep(cells, tmp_path)
    assert in_process == cells
    assert second.n_skipped == 2
    assert [r["class"] for r in second.rows] == [0, 1, 2]
    assert len(read_rows(tmp_path)) == 3
    assert not (tmp_path / "cells").exists()


def test_a_failure_is_a_row_stops_nothing_and_is_tried_again(tmp_path, in_process, monkeypatch):
    cells = [replace(PIXELS, class_=c) for c in range(2)]
    from adcgan.detectors import DETECTORS

    with monkeypatch.context() as patch:
        original = DETECTORS["pixel-pca"].fitting

        def fitting(self, X, **options):
            # Class 0 comes first, and alone fails.
            if len(in_process) == 1:
                raise InputError("too dark")
            return original(self, X, **options)

        patch.setattr(DETECTORS["pixel-pca"], "fitting", fitting)
        outcome = sweep(cells, tmp_path)
    assert [r["error"] for r in outcome.rows] == ["InputError: too dark", None]
    again = sweep(cells, tmp_path)
    assert (again.failed, again.n_skipped) == ([], 1)
    assert [r["error"] for r in read_rows(tmp_path)] == ["InputError: too dark", None, None]


@pytest.mark.usefixtures("in_process")
def test_models_are_kept_when_asked_for(tmp_path):
    sweep([PIXELS], tmp_path, keep_models=True)
    assert (cell_folder(PIXELS, tmp_path) / "manifest.json").exists()


def test_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(InputError, match=r"contains other files and no rows\.jsonl"):
        sweep([PIXELS], tmp_path)
    with pytest.raises(InputError, match="is a file"):
        sweep([PIXELS], tmp_path / "thesis.tex")


def test_no_workers_or_no_such_device_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"'workers' parameter must be at least 1\. Got 0"):
        sweep([PIXELS], tmp_path, workers=0)
    with pytest.raises(InputError, match="'device' parameter"):
        sweep([PIXELS], tmp_path, device="abacus")
    assert not any(tmp_path.iterdir())


@pytest.mark.usefixtures("in_process")
def test_progress_counts_cells_running_and_failed(tmp_path):
    reports = []

    class Seen:
        def start(self, description, total):
            reports.append((description, total))

        def advance(self, n=1, **figures):
            reports.append((n, figures))

        def finish(self):
            reports.append("finished")

    cells = [replace(PIXELS, class_=c, max_train=m) for c, m in ((0, None), (1, 2))]
    sweep(cells, tmp_path, progress=Seen())
    assert reports == [
        ("Benchmark", 2),
        (1, {"running": 0, "failed": 0}),
        (1, {"running": 0, "failed": 1}),
        "finished",
    ]


# -- processes -----------------------------------------------------------------------------------


def kill_workers():
    """Kill the processes that this one has started."""
    for process in psutil.Process().children():
        process.kill()


def kill_once_begun(cell, folder):
    """Kill the processes as soon as the training of a cell has left its first trace."""
    deadline = time.monotonic() + 120
    while not (cell_folder(cell, folder) / "stats.jsonl").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    kill_workers()


def test_killed_processes_cost_attempts_at_their_cell_and_nothing_else(tmp_path):
    killer = threading.Thread(target=kill_once_begun, args=(ENDLESS, tmp_path))
    killer.start()
    rows = run_local([ENDLESS, PIXELS], tmp_path, 1, "cpu")
    # The cell whose process was killed goes to the end of the line.
    cell, row, running = next(rows)
    killer.join()
    assert (cell, row["error"], running) == (PIXELS, None, 1)
    kill_workers()
    cell, row, running = next(rows)
    assert (cell, running) == (ENDLESS, 0)
    assert row["error"] == "its process was killed 2 times, possibly for lack of memory"
    assert row["auroc"] is None
    assert next(rows, None) is None


def test_no_process_outlives_a_sweep_that_is_left(tmp_path):
    with closing(run_local([PIXELS, ENDLESS], tmp_path, 2, "cpu")) as rows:
        next(rows)
        children = psutil.Process().children()
        assert len(children) == 2
    assert not any(child.is_running() for child in children)


@pytest.mark.parametrize("path", ["there", b"there"])
def test_a_system_error_keeps_its_kind_and_path_on_its_way_from_a_worker(path):
    worker = workers._Worker(b"", 1, SimpleQueue())
    answer = workers._bytes(failure=(errno.EACCES, "Permission denied", path))
    with pytest.raises(PermissionError, match="there") as raised:
        worker.finished(answer)
    assert (raised.value.errno, raised.value.filename) == (errno.EACCES, "there")


def test_cells_are_spread_over_all_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert workers._devices("auto") == ["cuda:0", "cuda:1"]
    assert workers._devices("cuda:1") == ["cuda:1"]
    assert workers.default_workers(2) == 4
    assert workers.default_workers(2, captured=True) == 2


def test_more_workers_than_gpus_share_them_in_turn(tmp_path, monkeypatch):
    made = []

    class Child:
        def __init__(self, _, first, *__):
            made.append(json.loads(first))

        def send(self, message):
            raise InterruptedError(workers._cell(**json.loads(message)).key)

        def kill(self):
            pass

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(workers, "Child", Child)
    cells = [replace(PIXELS, class_=c) for c in range(5)]
    with pytest.raises(InterruptedError, match=PIXELS.key):
        next(run_local(cells, tmp_path, 5, "auto", True))
    # Three processes at most share a device's memory.
    assert [message["device"] for message in made] == [f"cuda:{i}" for i in (0, 1, 0, 1, 0)]
    assert {message["neighbours"] for message in made} == {3}


# -- the command, killed -------------------------------------------------------------------------

COMMAND = ["--dataset", "digits", "--workers", "2", "--max-train", "64", "--device", "cpu"]
SMALL = [*COMMAND, "--detectors", "pixel-pca", "--classes", "0-3", "--seeds", "0"]
TWELVE = [
    *(*COMMAND, "--detectors", "adcgan,pixel-pca", "--classes", "0-2", "--seeds", "0-1"),
    *("--epochs", "1", "--set", "warmup_epochs=1", "--set", "width=0.0625"),
    *("--set", "min_steps=300"),
]


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def start(arguments, folder):
    """Start the benchmark in a group of processes of its own."""
    command = [sys.executable, "-m", "adcgan", "benchmark", *arguments, "--out", str(folder)]
    return subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def kill_when(process, condition):
    """Kill the whole group once `condition` holds; return False if it ended before."""
    while process.poll() is None:
        if condition():
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return True
        time.sleep(0.01)
    process.communicate()
    return False


def test_a_sweep_that_was_killed_ends_with_the_rows_of_one_that_was_not(tmp_path, in_process):
    folder = tmp_path / "killed"
    assert kill_when(start(SMALL, folder), lambda: read_rows(folder))
    before = len(read_rows(folder))
    assert run("benchmark", *SMALL, "--out", folder).exit_code == 0
    assert len(in_process) == 4 - before
    rows = read_rows(folder)
    run("benchmark", *SMALL, "--out", tmp_path / "whole")
    assert len(rows) == len(metrics(rows)) == 4
    assert metrics(rows) == metrics(read_rows(tmp_path / "whole"))


@pytest.mark.slow
def test_a_sweep_killed_at_random_three_times_ends_with_twelve_rows(tmp_path):
    folder, rng = tmp_path / "killed", random.Random(0)
    kills = 0
    for _ in range(3):
        # From the first sign of work on, after a while that chance decides.
        begun = len(read_rows(folder))
        process, due = start(TWELVE, folder), []

        def is_due(begun=begun, due=due):
            working = (folder / "cells").exists() and any((folder / "cells").iterdir())
            if not due and (working or len(read_rows(folder)) > begun):
                due.append(time.monotonic() + rng.uniform(0, 8))
            return bool(due) and time.monotonic() > due[0]

        kills += kill_when(process, is_due)
    assert kills == 3
    last = start(TWELVE, folder)
    assert (last.communicate(), last.returncode)[1] == 0
    whole = start(TWELVE, tmp_path / "whole")
    assert (whole.communicate(), whole.returncode)[1] == 0
    rows = read_rows(folder)
    assert len(rows) == len(metrics(rows)) == 12
    assert metrics(rows) == metrics(read_rows(tmp_path / "whole"))
    assert not (folder / "cells").exists()


# -- the command ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_process")
def test_the_command_prints_rows_as_json(tmp_path):
    result = run("benchmark", *SMALL, "--out", tmp_path / "R", "--json")
    assert result.exit_code == 0
    rows = json.loads(result.stdout)
    assert [row["class"] for row in rows] == [0, 1, 2, 3]
    assert "next       adcgan tables" in result.stderr


def test_failed_cells_end_the_command_with_1_and_diverged_ones_with_3(tmp_path, monkeypatch):
    def failing(error):
        def run(cells, *_):
            for cell in cells:
                yield cell, error_row(cell, error), 0

        return run

    for error, code in (("InputError: no", 1), ("DivergedError: loss", 3)):
        monkeypatch.setattr(sweep_module, "run_local", failing(error))
        result = run("benchmark", *SMALL, "--out", tmp_path / str(code))
        assert result.exit_code == code
        assert result.stderr.count(f": {error}") == 4


def test_settings_go_to_the_detector_that_is_named_or_to_all_that_have_them(tmp_path, monkeypatch):
    planned = []
    monkeypatch.setattr(
        "adcgan.benchmark.cells.plan", lambda **kw: planned.append(kw) or plan(**kw)
    )
    monkeypatch.setattr("adcgan.benchmark.sweep.sweep", lambda *_, **__: 1 / 0)
    both = ("--dataset", "digits", "--detectors", "adcgan,pixel-pca", "--out", tmp_path)
    run("benchmark", *both, "--set", "width=0.5", "--set", "pixel-pca.n_components=4")
    assert planned[0]["detectors"] == {"adcgan": {"width": 0.5}, "pixel-pca": {"n_components": 4}}
    assert planned[0]["classes"] is None
    assert planned[0]["seeds"] == [0, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--detectors", "adcgan,magic"], "--detectors must be among adcgan"),
        (["--set", "depth=3"], "ADCGAN has no parameter 'depth'"),
        (["--set", "alad.width=1"], "'alad' must be one of --detectors (adcgan)"),
        (["--set", "width"], "key=value"),
        (["--classes", "0-"], "--classes must be numbers and ranges"),
        (["--seeds", "2-0"], "--seeds: the range '2-0' runs backwards"),
        (["--classes", "12"], "from 0 to 9 for digits"),
    ],
)
def test_what_cannot_be_meant_is_one_line_and_exit_code_2(tmp_path, arguments, message):
    result = run("benchmark", "--dataset", "digits", "--out", tmp_path / "R", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "R").exists()


def test_numbers_and_ranges_are_read_once_each():
    assert numbers("--classes", "0-2, 5,1") == [0, 1, 2, 5]


def test_without_ray_a_line_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'adcgan\[ray\]'"):
        sweep([PIXELS], tmp_path, ray="auto")
