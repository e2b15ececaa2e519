"""What the package does on a GPU that is at hand for minutes; run by ``scripts/gpu_check``.

    scripts/gpu_check OUT [--minutes 10] [--wheels DIR]
    scripts/gpu_check OUT --device cpu --minutes 2       # the code paths alone, tiny networks

In this order, each part in a process of its own that is ended when its time is up:

- tests: those marked ``cuda``
- steps: AD-CGAN's joint steps a second at 28, 32 and 64 px, captured or not, of one run and of
  several in turn on one device, with the kernels of a step and the device's memory
- scoring: images a second, and how far scores are from the CPU's, in float32 and in TF32
- thorough: adcgan-ss with ``effort="thorough"``, each class of CIFAR-10 and of CatsVsDogs normal
- rows: rows of the paper's Table 1 that are neither in ``results/`` nor in OUT, cheapest first

Everything is written to OUT as it is measured: ``circumstances.json``, ``tests.txt``,
``steps.jsonl``, ``scoring.jsonl``, ``thorough/`` and ``table-1/`` (a benchmark's folders, which the
same command goes on with) and, after each part, ``summary.md``. ``datasets`` and ``pytest``, where
they are missing, come from the wheels in ``--wheels``; without them their parts say so. Nothing is
installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from adcgan.benchmark.cells import Cell

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("tests", "steps", "scoring", "thorough", "rows")
# Of all the time at most; what a part leaves goes to those after it.
SHARES = {"tests": 0.2, "steps": 0.25, "scoring": 0.1, "thorough": 0.6, "rows": 1.0}
GRACE_SECONDS = 5.0
# What the tests, and images of named sets, need beside the package's own dependencies.
EXTRA = ("pytest", "datasets")

SIZES, SEEDS, BATCH, HELD_OUT = (28, 32, 64), 3, 32, 0.1
TRIAL_WIDTH = 0.06
# Captured or not, precision, runs in turn: what tells most comes first.
MODES = (
    ("graphed", "auto", 1),
    ("graphed", "auto", 8),
    ("graphed", "auto", 4),
    ("eager", "auto", 1),
    ("graphed", "float32", 1),
    ("graphed", "auto", 16),
    ("graphed", "auto", 2),
)
TRIAL_MODES = (("eager", "auto", 1), ("eager", "auto", 2))
# Steps of a run before it is timed: those before its capture, the capture, and a replay.
FIRST_STEPS, PROFILED_STEPS = 6, 4
# Images scored on both devices.
COMPARED = 128

Row = dict[str, Any]


class Part(NamedTuple):
    """Cells of the paper's Table 1 that cost the same.

    `images` are the normal training images of a cell, averaged over the classes, before a tenth is
    held out; `epochs` those of the warm-up and the joint ones.
    """

    dataset: str
    scheme: str
    size: int
    classes: int
    images: int
    epochs: int

    @property
    def cell_steps(self) -> int:
        """Steps of one cell; those of the warm-up are counted as joint ones."""
        trained = self.images - round(HELD_OUT * self.images)
        return self.epochs * (trained // BATCH)

    @property
    def steps(self) -> int:
        """Steps of all its cells, all seeds."""
        return SEEDS * self.classes * self.cell_steps


TABLE_1 = (
    Part("mnist", "one-vs-all", 28, classes=10, images=6_000, epochs=5 + 15),
    Part("fashion-mnist", "one-vs-all", 28, classes=10, images=6_000, epochs=5 + 15),
    Part("cifar10", "one-vs-all", 32, classes=10, images=5_000, epochs=5 + 15),
    # 80% of each class's images; the rest is tested on.
    Part("cats-vs-dogs", "one-vs-all", 64, classes=2, images=10_000, epochs=5 + 15),
    Part("mnist", "all-vs-one", 28, classes=10, images=54_000, epochs=15 + 35),
    Part("fashion-mnist", "all-vs-one", 28, classes=10, images=54_000, epochs=15 + 35),
    Part("cifar10", "all-vs-one", 32, classes=10, images=45_000, epochs=15 + 35),
)
TRIAL_TABLE = (Part("digits", "one-vs-all", 28, classes=1, images=143, epochs=1 + 1),)
# Sets, classes of each.
THOROUGH = {"cifar10": 10, "cats-vs-dogs": 2}
TRIAL_THOROUGH = {"digits": 1}


class Plan(NamedTuple):
    """What is measured: on a GPU all of it, on a CPU a trial."""

    device: str
    width: float
    sizes: Sequence[int]
    modes: Sequence[tuple[str, str, int]]
    seconds: float
    table: Sequence[Part]
    seeds: Sequence[int]
    settings: dict[str, Any]
    thorough: dict[str, int]
    thorough_settings: dict[str, Any]


def plan_for(device: str, minutes: float) -> Plan:
    """Return what is measured on `device` in so many minutes."""
    if device == "cpu":
        tiny = {"width": TRIAL_WIDTH, "warmup_epochs": 1, "epochs": 1}
        short = {"width": TRIAL_WIDTH, "epochs": 1, "min_steps": 4}
        return Plan(
            device="cpu",
            width=TRIAL_WIDTH,
            sizes=SIZES[:1],
            modes=TRIAL_MODES,
            seconds=0.2,
            table=TRIAL_TABLE,
            seeds=[0],
            settings=tiny,
            thorough=TRIAL_THOROUGH,
            thorough_settings=short,
        )
    measured = len(SIZES) * len(MODES)
    # Half of the time goes to starting and capturing.
    seconds = 0.5 * SHARES["steps"] * 60 * minutes / measured
    return Plan(
        device=device,
        width=1.0,
        sizes=SIZES,
        modes=MODES,
        seconds=seconds,
        table=TABLE_1,
        seeds=range(SEEDS),
        settings={},
        thorough=THOROUGH,
        thorough_settings={},
    )


# -- steps ---------------------------------------------------------------------------------------


def measure_steps(plan: Plan) -> Iterator[Row]:
    """Yield a row for each mode and size."""
    for mode, precision, at_once in plan.modes:
        for size in plan.sizes:
            told = {"size": size, "width": plan.width, "mode": mode, "precision": precision}
            yield guarded(
                {**told, "at_once": at_once},
                lambda: stepped(plan, size, mode, precision, at_once),  # noqa: B023
            )


def guarded(told: Row, measure: Callable[[], Row]) -> Row:
    """Return `told` with what was measured, or with the error that kept it from being."""
    try:
        return {**told, **measure(), "error": None}
    except Exception as error:
        traceback.print_exc()
        return {**told, "error": " ".join(f"{type(error).__name__}: {error}".split())}


def stepped(plan: Plan, size: int, mode: str, precision: str, at_once: int) -> Row:
    """Return the joint steps a second of `at_once` runs in turn, all of `adcgan.training.train`."""
    import torch

    device = torch.device(plan.device)
    on_cuda = device.type == "cuda"
    if on_cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    graphed = mode == "graphed"
    turns = [run_of(plan, size, precision, seed, graphed=graphed) for seed in range(at_once)]

    def round_of_steps() -> None:
        for steps in turns:
            next(steps)

    begun = time.perf_counter()
    for _ in range(FIRST_STEPS):
        round_of_steps()
    wait_for(device)
    first = time.perf_counter() - begun
    count, begun = 0, time.perf_counter()
    while time.perf_counter() < begun + plan.seconds:
        round_of_steps()
        count += at_once
    wait_for(device)
    seconds = time.perf_counter() - begun
    peak = torch.cuda.max_memory_reserved(device) / 2**20 if on_cuda else None
    kernels = kernels_of(turns[0], device) if at_once == 1 else None
    for steps in turns:
        steps.close()
    return {
        "steps_per_second": count / seconds,
        "steps": count,
        "seconds": seconds,
        "first_steps_seconds": first,
        "kernels_a_step": kernels,
        "peak_gpu_mib": peak,
    }


def run_of(plan: Plan, size: int, precision: str, seed: int, *, graphed: bool) -> Any:
    """Return a run of joint steps alone, without end, on random images."""
    import numpy as np
    from worker import shape_of

    from adcgan import ADCGAN
    from adcgan.data.prepare import split_held_out
    from adcgan.progress import silent
    from adcgan.training import RunLog, Session, make_accelerator, train

    shape = shape_of(size)
    images = np.random.default_rng(0).integers(0, 256, (1024, *shape), dtype=np.uint8)
    detector = ADCGAN(width=plan.width, precision=precision, device=plan.device, random_state=seed)
    accelerator = make_accelerator(plan.device, precision)
    model = detector.make_model(shape).to(accelerator.device)
    recipe = model.recipe(5000, accelerator)
    assert recipe is not None
    joint = replace(recipe.phases[-1], steps=10**9)
    session = Session(accelerator, RunLog(None), seed, silent, cuda_graphs=graphed)
    return train(replace(recipe, phases=[joint]), images, split_held_out(1024, 0.1, 0), session)


def kernels_of(steps: Iterator[None], device: Any) -> float | None:
    """Return how many kernels, copies and fills the device does for a step; None on a CPU."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    if device.type != "cuda":
        return None
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        for _ in range(PROFILED_STEPS):
            next(steps)
        wait_for(device)
    on_device = (e for e in seen.events() if e.device_type == torch.autograd.DeviceType.CUDA)
    return sum(1 for _ in on_device) / PROFILED_STEPS


def wait_for(device: Any) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


# -- scoring -------------------------------------------------------------------------------------


def measure_scoring(plan: Plan) -> Iterator[Row]:
    """Yield a row for each size."""
    for size in plan.sizes:
        told = {"size": size, "width": plan.width, "device": plan.device}
        yield guarded(told, lambda: scored(plan, size))  # noqa: B023


def scored(plan: Plan, size: int) -> Row:
    """Return images a second, and how far scores are from the CPU's in float32 and in TF32."""
    import numpy as np
    import torch
    from worker import shape_of

    from adcgan import ADCGAN
    from adcgan.data.prepare import to_floats

    channels, height, width = shape_of(size)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (COMPARED, height, width, channels), dtype=np.uint8)
    detector = ADCGAN(
        width=plan.width, device=plan.device, warmup_epochs=1, epochs=1, min_steps=0, fpr=0.5
    ).fit(images)
    model, pixels = detector.model_, images.transpose(0, 3, 1, 2)
    # The batch is the one that scoring takes, repeated images or not.
    batch = np.ascontiguousarray(np.resize(pixels, (model.images_at_once, *pixels.shape[1:])))
    on_device = to_floats(torch.tensor(batch, device=model.device))

    def in_tf32() -> dict[str, Any]:
        with torch.no_grad():
            return {key: value.cpu() for key, value in model(on_device).components.items()}

    def in_float32() -> dict[str, Any]:
        return model.scored(batch).components

    twin = detector.model_on("cpu")
    exact = twin.combine(twin.scored(pixels).components)
    row: Row = {"batch": len(batch)}
    for name, score in (("float32", in_float32), ("tf32", in_tf32)):
        parts = {k: np.asarray(v, dtype=np.float64)[:COMPARED] for k, v in score().items()}
        n = min(len(batch), COMPARED)
        difference = np.abs(model.combine(parts) - exact[:n])
        row[f"{name}_images_per_second"] = len(batch) * calls_a_second(score, plan.seconds)
        row[f"{name}_difference_of_score"] = float((difference / np.abs(exact[:n])).max())
        row[f"{name}_difference_of_spread"] = float(difference.max() / exact.std())
    return row


def calls_a_second(function: Callable[[], object], seconds: float) -> float:
    """Return how often a function that waits for its result is done in a second."""
    count, begun = 0, time.perf_counter()
    while time.perf_counter() < begun + seconds:
        function()
        count += 1
    return count / (time.perf_counter() - begun)


# -- rows of adcgan-ss at its best, and of Table 1 -----------------------------------------------


def missing_cells(plan: Plan, part: Part, out: Path) -> list[Cell]:
    """Return the cells of a part of Table 1 that have no row in ``results/`` or OUT."""
    from adcgan.benchmark.cells import plan as planned

    cells = planned(
        dataset=part.dataset,
        scheme=part.scheme,
        classes=range(part.classes),
        detectors={"adcgan": plan.settings},
        seeds=plan.seeds,
    )
    return without_row(cells, out / "table-1")


def without_row(cells: Sequence[Cell], folder: Path) -> list[Cell]:
    """Return the cells that have no row in ``results/`` or in the folder of a benchmark."""
    from adcgan.benchmark.rows import read_rows

    files = [*sorted((ROOT / "results").glob("*.jsonl")), folder]
    rows = [row for file in files for row in read_rows(file)]
    done = {row["key"] for row in rows if row["error"] is None}
    return [cell for cell in cells if cell.key not in done]


def compute_thorough(plan: Plan, out: Path) -> None:
    """Compute the rows of adcgan-ss with ``effort="thorough"``, seed 0."""
    from adcgan.benchmark.cells import plan as planned
    from adcgan.benchmark.sweep import sweep

    for dataset, classes in plan.thorough.items():
        cells = planned(
            dataset=dataset,
            scheme="one-vs-all",
            classes=range(classes),
            detectors={"adcgan-ss": {"effort": "thorough", **plan.thorough_settings}},
            seeds=[0],
        )
        sweep(without_row(cells, out / "thorough"), out / "thorough", device=plan.device)


def how_many(part: Part, rows: Sequence[Row], seconds: float) -> tuple[int, int | None]:
    """Return how many cells of a part can be done in the time, and how many of them at once.

    By the steps a second that were measured; if none were, all, as many at once as usual.
    """
    speeds = {
        row["at_once"]: row["steps_per_second"]
        for row in rows
        if row["size"] == part.size
        and row["error"] is None
        and (row["mode"], row["precision"]) == ("graphed", "auto")
    }
    if not speeds:
        return sys.maxsize, None
    # Several at once are done at the same moment, so that as many have to be done in the time.
    can = {k: k * int(seconds * speed / (k * part.cell_steps)) for k, speed in speeds.items()}
    most = max(can, key=lambda k: (can[k], k))
    return can[most], most


def compute_rows(plan: Plan, out: Path, deadline: float) -> None:
    """Compute what is missing of Table 1, as much as can be done before `deadline`."""
    from adcgan.benchmark.sweep import sweep

    steps = rows_of(out / "steps.jsonl")
    for part in plan.table:
        # A fifth is for starting, scoring and what was estimated wrongly.
        number, at_once = how_many(part, steps, 0.8 * (deadline - time.time()))
        cells = missing_cells(plan, part, out)[:number]
        if cells:
            print(f"{part.dataset}, {part.scheme}: {len(cells)} cells", flush=True)
            sweep(cells, out / "table-1", device=plan.device, cells_at_once=at_once)


# -- the parts -----------------------------------------------------------------------------------


def run_part(name: str, options: argparse.Namespace) -> None:
    """Do one part, in this process."""
    plan, out = plan_for(options.device, options.minutes), options.out
    if name == "tests":
        import pytest

        os.chdir(ROOT)
        # Without the options that need more than pytest itself.
        few = ["-o", "addopts=--import-mode=importlib --strict-markers", "-p", "no:cacheprovider"]
        files = [
            str(file)
            for file in Path("tests").rglob("test_*.py")
            if "mark.cuda" in file.read_text()
        ]
        sys.exit(pytest.main([*few, "-q", "-ra", "-m", "cuda", *sorted(files)]))
    elif name == "thorough":
        compute_thorough(plan, out)
    elif name == "rows":
        compute_rows(plan, out, options.deadline)
    else:
        measure = {"steps": measure_steps, "scoring": measure_scoring}[name]
        for row in measure(plan):
            with (out / f"{name}.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def end_with_parent() -> None:
    """Wait until the process at the other end of standard input is gone, and end as well."""
    # Not by `sys.stdin`, whose lock Python wants when it ends.
    while os.read(0, 1):
        pass
    os._exit(1)


def part_in_time(name: str, options: argparse.Namespace, seconds: float) -> str:
    """Do one part in a process of its own; return how it ended."""
    command = [sys.executable, __file__, str(options.out), "--part", name]
    command += ["--device", options.device, "--minutes", str(options.minutes)]
    command += ["--deadline", str(time.time() + seconds)]
    path = os.pathsep.join([str(ROOT / "src"), *options.packages, *_path()])
    log = options.out / ("tests.txt" if name == "tests" else "log.txt")
    begun = time.monotonic()
    with log.open("a", encoding="utf-8") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": path},
        )
        try:
            status = process.wait(timeout=seconds)
            ended = "done" if status == 0 else f"ended with status {status}; see {log.name}"
        except subprocess.TimeoutExpired:
            ended = "its time was up"
        finally:
            process.kill()
            process.communicate()
    return f"{name}: {ended} ({time.monotonic() - begun:.0f} s)"


def _path() -> list[str]:
    return [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]


def take_wheels(options: argparse.Namespace) -> list[str]:
    """Unpack what is missing of `EXTRA` from the folder of wheels; return where it then lies."""
    lacking = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if not lacking or options.wheels is None:
        return []
    place = options.out / "packages"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index"]
    command += ["--find-links", str(options.wheels), "--target", str(place), *lacking]
    if subprocess.run(command, check=False).returncode:
        print(f"{' and '.join(lacking)} could not be taken from {options.wheels}", flush=True)
    return [str(place)]


# -- what is printed -----------------------------------------------------------------------------


def rows_of(path: Path) -> list[Row]:
    """Return the rows of a file of JSON lines, without one that was cut short."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def summary(out: Path, ended: Sequence[str]) -> str:
    """Return all that OUT holds as Markdown."""
    text = "".join(f"- {line}\n" for line in ended) + "\n"
    steps = rows_of(out / "steps.jsonl")
    text += _heading("size", "", "precision", "runs", "steps/s", "kernels a step", "peak GPU MiB")
    text += "".join(map(_step_line, steps)) + "\n"
    text += _heading("size", "", "images/s", "difference ÷ score", "÷ spread of scores")
    for row in rows_of(out / "scoring.jsonl"):
        text += "".join(_scoring_line(row, name) for name in ("float32", "tf32"))
    text += "\n" + projection(steps)
    for folder in ("thorough", "table-1"):
        for row in rows_of(out / folder / "rows.jsonl"):
            text += f"- {row['key']}: {row['error'] or row['auroc']}\n"
    return text


def projection(steps: Sequence[Row]) -> str:
    """Return the hours of Table 1 with three seeds at the best throughput of each size."""
    best: dict[int, float] = {}
    for row in steps:
        if row["error"] is None and row["width"] == 1.0:
            best[row["size"]] = max(best.get(row["size"], 0.0), row["steps_per_second"])
    if not {part.size for part in TABLE_1} <= best.keys():
        return "Not every size was measured at width 1, so there is no projection of Table 1.\n\n"
    text = _heading("Table 1", "steps, 3 seeds", "hours")
    hours = {part: part.steps / best[part.size] / 3600 for part in TABLE_1}
    for part, time_of_it in hours.items():
        text += f"| {part.dataset}, {part.scheme} | {part.steps:,} | {time_of_it:.3g} |\n"
    total = sum(part.steps for part in TABLE_1)
    return text + f"| all | {total:,} | {sum(hours.values()):.3g} |\n\n"


def _heading(*names: str) -> str:
    return "| " + " | ".join(names) + " |\n" + "|---" * len(names) + "|\n"


def _step_line(row: Row) -> str:
    cells = [f"{row['size']} px, {row['width']:g}", row["mode"], row["precision"]]
    cells.append(str(row["at_once"]))
    if row["error"] is not None:
        return "| " + " | ".join([*cells, row["error"], "–", "–"]) + " |\n"
    kernels, peak = row["kernels_a_step"], row["peak_gpu_mib"]
    cells.append(f"{row['steps_per_second']:.4g}")
    cells += ["–" if value is None else f"{value:.0f}" for value in (kernels, peak)]
    return "| " + " | ".join(cells) + " |\n"


def _scoring_line(row: Row, name: str) -> str:
    cells = [f"{row['size']} px, {row['width']:g}", name]
    if row["error"] is not None:
        return "| " + " | ".join([*cells, row["error"], "–", "–"]) + " |\n"
    cells.append(f"{row[f'{name}_images_per_second']:.4g}")
    cells += [f"{row[f'{name}_difference_of_{what}']:.1e}" for what in ("score", "spread")]
    return "| " + " | ".join(cells) + " |\n"


# -- the command ---------------------------------------------------------------------------------


def check_device(device: str) -> str | None:
    """Return why nothing can be measured on `device`, if so."""
    if device == "cpu":
        return None
    import torch

    if not device.startswith("cuda") or not torch.cuda.is_available():
        return f"gpu_check needs a CUDA device, and {device!r} is none here."
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Do all parts, one after another, in the time given."""
    begun = time.monotonic()
    parser = argparse.ArgumentParser(prog="gpu_check", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the folder for all that is measured")
    parser.add_argument("--minutes", type=float, default=10, help="all there are; 10 if not given")
    parser.add_argument("--device", default="cuda", help="a CUDA device, or cpu for a trial")
    parser.add_argument("--parts", default=",".join(PARTS), help="of " + ",".join(PARTS))
    parser.add_argument("--wheels", type=Path, help="a folder of wheels for what is missing")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--deadline", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.part:
        threading.Thread(target=end_with_parent, daemon=True).start()
        run_part(options.part, options)
        return 0
    chosen = options.parts.split(",")
    if set(chosen) - set(PARTS):
        parser.error(f"--parts must be of {','.join(PARTS)}")
    sys.path.insert(0, str(ROOT / "src"))
    refused = check_device(options.device)
    if refused:
        parser.exit(2, f"{refused}\n")
    options.out = options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    options.packages = take_wheels(options)
    write_circumstances(options)
    ended: list[str] = []
    for name in [part for part in PARTS if part in chosen]:
        left = 60 * options.minutes - GRACE_SECONDS - (time.monotonic() - begun)
        seconds = min(left, SHARES[name] * 60 * options.minutes)
        ended.append(
            part_in_time(name, options, seconds) if seconds > 1 else f"{name}: no time was left"
        )
        print(ended[-1], flush=True)
        (options.out / "summary.md").write_text(summary(options.out, ended), encoding="utf-8")
    return 0


def write_circumstances(options: argparse.Namespace) -> None:
    """Write what everything is measured on."""
    import torch
    from circumstances import circumstances

    from adcgan.files import write_json
    from adcgan.training.runlog import hardware

    told = {**circumstances(), "device": hardware(torch.device(options.device))}
    write_json(options.out / "circumstances.json", told)


if __name__ == "__main__":
    sys.exit(main())
