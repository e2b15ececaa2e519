"""Several cells in one process: each ends as it would alone, whatever the others do."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from adcgan.benchmark import runner, workers
from adcgan.benchmark.cells import Cell, make_detector
from adcgan.benchmark.rows import Row
from adcgan.benchmark.runner import cell_folder, run_cell
from adcgan.benchmark.sweep import sweep
from adcgan.benchmark.turns import MOST, Turns, cells_that_fit
from adcgan.benchmark.workers import run_local
from adcgan.detectors import ADCGAN
from adcgan.errors import DivergedError, InputError
from adcgan.progress import SilentProgress

# Few images cannot support the usual budget, which is warned of and beside the point here.
pytestmark = pytest.mark.filterwarnings("ignore:A false-positive budget of")

TINY = Cell(
    "digits",
    "one-vs-all",
    0,
    "adcgan",
    (("warmup_epochs", 1), ("width", 0.06)),
    max_train=64,
    epochs=3,
)
HALF = replace(TINY, settings=(("precision", "bf16"), *TINY.settings))
# A different number of steps each, in both precisions.
CELLS = [TINY, HALF, replace(TINY, seed=1, epochs=1), replace(HALF, class_=1, epochs=2)]
MOVING = ("seconds", "date", "resumed", "cells_at_once")


def figures(row: Row) -> Row:
    return {key: value for key, value in row.items() if key not in MOVING}


def weights(cell: Cell, folder: Path) -> dict[str, torch.Tensor]:
    (file,) = cell_folder(cell, folder).glob("*.safetensors")
    return load_file(file)


def taken(turns: Turns) -> Iterator[tuple[Cell, Any]]:
    """Take steps until every cell has ended."""
    while turns:
        yield from turns.take()


def test_cells_in_turn_end_with_the_bytes_of_cells_one_after_another(tmp_path: Path) -> None:
    alone = {cell: run_cell(cell, tmp_path / "alone", device="cpu") for cell in CELLS}
    turns = Turns(tmp_path / "turns", "cpu")
    for cell in CELLS:
        turns.begin(cell)
    state = torch.get_rng_state()
    done = dict(taken(turns))
    assert torch.equal(torch.get_rng_state(), state)
    # The cell with the fewest steps is done first: they did take turns.
    assert next(iter(done)) == CELLS[2]
    for cell in CELLS:
        assert done[cell]["cells_at_once"] == len(CELLS)
        assert figures(done[cell]) == figures(alone[cell])
        expected = weights(cell, tmp_path / "alone")
        found = weights(cell, tmp_path / "turns")
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert torch.equal(found[key], value), key


def test_between_turns_nothing_is_left_set(tmp_path: Path) -> None:
    tiny = torch.tensor([1e-40])
    turns = Turns(tmp_path, "cpu")
    for cell in CELLS[:2]:
        turns.begin(cell)
    for _ in range(3):
        assert not list(turns.take())
        assert float(tiny * 1.0) != 0.0
        assert not torch.is_autocast_enabled("cpu")
        assert torch.is_grad_enabled()
    list(taken(turns))


def test_a_cell_that_diverges_or_fails_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitting = ADCGAN.fitting
    errors = {1: DivergedError("loss"), 2: InputError("too dark"), 3: ZeroDivisionError("oh")}

    def failing(self: ADCGAN, X: Any, **options: Any) -> Iterator[None]:
        steps = fitting(self, X, **options)
        yield next(steps)
        if self.random_state in errors:
            raise errors[self.random_state]
        yield from steps

    monkeypatch.setattr(ADCGAN, "fitting", failing)
    turns = Turns(tmp_path, "cpu")
    for seed in range(4):
        turns.begin(replace(TINY, seed=seed))
    found = {cell.seed: row["error"] for cell, row in taken(turns)}
    assert found.pop(0) is None
    assert found == {
        1: "DivergedError: loss",
        2: "InputError: too dark",
        3: "ZeroDivisionError: oh",
    }


def test_a_cell_that_lacks_memory_beside_others_is_to_be_tried_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(*_: Any, **__: Any) -> Iterator[None]:
        yield
        raise torch.OutOfMemoryError("too much")

    monkeypatch.setattr(ADCGAN, "fitting", short)
    turns = Turns(tmp_path, "cpu")
    turns.begin(TINY)
    turns.begin(replace(TINY, seed=1))
    found = [row for _, row in taken(turns)]
    assert found[0] is None
    assert found[1]["error"] == "OutOfMemoryError: too much"


def test_seeds_of_a_class_share_its_images_while_they_are_under_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded = []
    load = runner._material
    monkeypatch.setattr(runner, "_material", lambda *args: (loaded.append(args), load(*args))[1])
    some = replace(TINY, class_=7)
    whole = [replace(some, max_train=None, seed=seed) for seed in range(3)]
    found = [runner.material_of(cell, make_detector(cell)) for cell in whole]
    assert len(loaded) == 1
    assert all(one is found[0] for one in found)
    # Another class has others, and so has another seed where it draws them.
    others = [replace(whole[0], class_=8), some, replace(some, seed=1)]
    kept = [runner.material_of(cell, make_detector(cell)) for cell in others]
    assert len(loaded) == 1 + len(kept)
    del found
    runner.material_of(whole[0], make_detector(whole[0]))
    assert len(loaded) == 2 + len(kept)


# -- how many, and which -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free", "each", "expected"),
    [(100, 10, 7), (100, 20, 3), (100, 90, 1), (100, 900, 1), (10**9, 1, MOST)],
)
def test_as_many_cells_are_under_way_as_the_free_memory_holds_with_a_margin(
    free: int, each: int, expected: int
) -> None:
    assert cells_that_fit(free, each) == expected


def test_on_a_cpu_cells_come_one_by_one_unless_told_otherwise(tmp_path: Path) -> None:
    assert Turns(tmp_path, "cpu").room(TINY) == 1
    assert Turns(tmp_path, "cpu", at_once=3).room(TINY) == 3


class Idle:
    """What the choice of a cell looks at."""

    def __init__(self, room: int, *cells: Cell) -> None:
        self.room, self.cells = room, list(cells)

    def start(self, cell: Cell) -> None:
        self.cells.append(cell)


def test_a_process_takes_the_other_seeds_of_a_class_first_and_no_other_kind_of_cell() -> None:
    whole = replace(TINY, max_train=None)
    seeds = [
        replace(whole, class_=c, seed=s, detector=d)
        for s in range(2)
        for c in range(2)
        for d in ("adcgan", "alad")
    ]
    pool = [Idle(4)]
    waiting = deque(seeds)
    while workers._begin(waiting, pool, Counter()):  # type: ignore[arg-type]
        pass
    assert [(c.detector, c.class_, c.seed) for c in pool[0].cells] == [
        ("adcgan", 0, 0),
        ("adcgan", 0, 1),
        ("adcgan", 1, 0),
        ("adcgan", 1, 1),
    ]
    assert {cell.detector for cell in waiting} == {"alad"}


def test_processes_share_the_cells_fairly() -> None:
    pool = [Idle(8), Idle(8)]
    waiting = deque(replace(TINY, class_=c) for c in range(5))
    while workers._begin(waiting, pool, Counter()):  # type: ignore[arg-type]
        pass
    assert sorted(len(worker.cells) for worker in pool) == [2, 3]


def test_a_cell_whose_process_was_killed_is_alone() -> None:
    tried = Counter({TINY: 1})
    for waiting, pool in (
        (deque([HALF]), [Idle(4, TINY)]),
        (deque([TINY]), [Idle(4, replace(TINY, seed=1))]),
    ):
        assert not workers._begin(waiting, pool, tried)  # type: ignore[arg-type]
    pool = [Idle(4)]
    assert workers._begin(deque([TINY]), pool, tried)  # type: ignore[arg-type]


class StopAfter(SilentProgress):
    """Stops a training after so many steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def advance(self, n: int = 1, **_: float) -> None:
        self.left -= n
        if self.left < 0:
            raise KeyboardInterrupt


def test_a_sweep_by_turns_has_the_rows_of_cells_one_after_another_and_goes_on_after_a_kill(
    tmp_path: Path,
) -> None:
    cells = [replace(TINY, seed=seed, epochs=1) for seed in range(3)]
    alone = [figures(run_cell(cell, tmp_path / "alone", device="cpu")) for cell in cells]
    # One that was killed on its way has left a run to go on with.
    with pytest.raises(KeyboardInterrupt):
        run_cell(cells[1], tmp_path / "turns", device="cpu", progress=StopAfter(1))
    (tmp_path / "turns" / "rows.jsonl").touch()
    turns = sweep(cells, tmp_path / "turns", workers=1, device="cpu", cells_at_once=3)
    assert not turns.failed
    assert [figures(row) for row in turns.rows] == alone
    assert [row["resumed"] for row in turns.rows] == [False, True, False]
    assert max(row["cells_at_once"] for row in turns.rows) > 1
    assert not (tmp_path / "turns" / "cells").exists()


@pytest.mark.slow
def test_cells_whose_process_was_killed_are_done_one_by_one(tmp_path: Path) -> None:
    settings = (("min_steps", 120), *TINY.settings)
    cells = [replace(TINY, settings=settings, seed=seed) for seed in range(2)]

    def kill_once_begun() -> None:
        while not all((cell_folder(cell, tmp_path) / "stats.jsonl").exists() for cell in cells):
            time.sleep(0.02)
        for process in psutil.Process().children():
            process.kill()

    threading.Thread(target=kill_once_begun, daemon=True).start()
    found = [row for _, row, _ in run_local(cells, tmp_path, 1, "cpu", cells_at_once=2)]
    assert [(row["seed"], row["error"], row["cells_at_once"]) for row in found] == [
        (0, None, 1),
        (1, None, 1),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cells_at_once": 0}, "'cells_at_once' parameter must be at least 1. Got 0"),
        ({"cells_at_once": 2, "ray": "auto"}, "must be None on a Ray cluster"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        sweep([TINY], tmp_path, **options)
    assert not any(tmp_path.iterdir())
