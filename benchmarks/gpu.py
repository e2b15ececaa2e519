"""How fast AD-CGAN trains on a GPU, and how many trainings at a time it takes to fill one.

For each size: joint steps a second of the package's step as it is (eager) and captured as a CUDA
graph (graphed), and of `plain.py`, the same networks in plain PyTorch, as they are (plain) and by
``torch.compile`` (compiled; the package's own layers write into buffers, which breaks the compiled
graph, and torch's do not). The package's steps by 1, 2, 4 and 8 processes that share the GPU, with
the GPU's utilisation meanwhile. From the best of these the time of the paper's Table 1.

    python benchmarks/gpu.py --out benchmarks/results/gpu-DATE.json
    python benchmarks/gpu.py --sizes 28 --modes eager,graphed --processes 1,4
    python benchmarks/gpu.py --table benchmarks/results/gpu-DATE.json
    python benchmarks/gpu.py --device cpu --seconds 1      # the code path alone, tiny networks

Steps alone are timed, with the seeding that training does before each: no log, no checkpoint, no
scoring. Without a CUDA device it ends with exit code 2.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from worker import shape_of

# The package's own steps, and the reference's.
OURS, REFERENCE = ("eager", "graphed"), ("plain", "compiled")
CPU_WIDTH = 0.06
# Steps between two looks at the clock, each of which waits for the device.
CHUNK = {"cpu": 1, "cuda": 20}
# The least number of processes with this share of the best throughput is called enough.
ENOUGH = 0.95

SEEDS, BATCH, HELD_OUT = 3, 32, 0.1

Row = dict[str, Any]


class Part(NamedTuple):
    """Cells of the paper's Table 1 that cost the same.

    `images` are the normal training images of a cell, averaged over the classes, before a tenth is
    held out; `epochs` those of the warm-up and the joint ones.
    """

    dataset: str
    scheme: str
    size: int
    cells: int
    images: int
    epochs: int

    @property
    def steps(self) -> int:
        """Steps of all its cells, all seeds; those of the warm-up are counted as joint ones."""
        trained = self.images - round(HELD_OUT * self.images)
        return SEEDS * self.cells * self.epochs * (trained // BATCH)


TABLE_1 = (
    Part("MNIST", "one-vs-all", 28, cells=10, images=6_000, epochs=5 + 15),
    Part("MNIST", "all-vs-one", 28, cells=10, images=54_000, epochs=15 + 35),
    Part("Fashion-MNIST", "one-vs-all", 28, cells=10, images=6_000, epochs=5 + 15),
    Part("Fashion-MNIST", "all-vs-one", 28, cells=10, images=54_000, epochs=15 + 35),
    Part("CIFAR-10", "one-vs-all", 32, cells=10, images=5_000, epochs=5 + 15),
    Part("CIFAR-10", "all-vs-one", 32, cells=10, images=45_000, epochs=15 + 35),
    # 80% of each class's images; the rest is tested on.
    Part("CatsVsDogs", "one-vs-all", 64, cells=2, images=10_000, epochs=5 + 15),
)


# -- a process that takes steps ------------------------------------------------------------------


def run_worker(settings: Row) -> None:
    """Take steps for some seconds for every line on standard input, the seconds."""
    import torch

    torch.set_num_threads(settings["threads"])
    with contextlib.ExitStack() as stack:
        step = prepared(settings, stack)
        device = torch.device(settings["device"])
        begun = time.perf_counter()
        step()
        wait_for(device)
        say(first_step_seconds=time.perf_counter() - begun)
        for line in sys.stdin:
            say(**stepped(step, device, float(line)))


def say(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


def stepped(step: Callable[[], None], device: Any, seconds: float) -> Row:
    """Take steps for about `seconds`; return how many, in what time, and the device's memory."""
    import torch

    count, begun = 0, time.perf_counter()
    while time.perf_counter() < begun + seconds:
        for _ in range(CHUNK[device.type]):
            step()
        wait_for(device)
        count += CHUNK[device.type]
    peak = torch.cuda.max_memory_reserved(device) / 2**20 if device.type == "cuda" else None
    return {"steps": count, "seconds": time.perf_counter() - begun, "peak_gpu_mib": peak}


def wait_for(device: Any) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def prepared(settings: Row, stack: contextlib.ExitStack) -> Callable[[], None]:
    """Return a joint step in the mode asked for, on one batch of random images."""
    import torch

    from adcgan import ADCGAN
    from adcgan.training import make_accelerator
    from adcgan.training.graphs import GraphedSteps

    detector = ADCGAN(**{key: settings[key] for key in ("width", "precision", "device")})
    shape, mode = shape_of(settings["size"]), settings["mode"]
    accelerator = make_accelerator(detector.device, detector.precision)
    device = accelerator.device
    torch.manual_seed(0)
    model = detector.make_model(shape).train()
    rng = torch.Generator(device).manual_seed(0)
    x = torch.rand(BATCH, *shape, device=device, generator=rng)
    take: Callable[[], object]
    if mode in REFERENCE:
        take = reference_step(model, x, rng, compiled=mode == "compiled")
    else:
        recipe = model.to(device).recipe(5000, accelerator)
        joint = recipe.phases[1].step
        take = lambda: joint(x, rng)  # noqa: E731
        if mode == "graphed":
            graphs = GraphedSteps(recipe.optimizers, rng, accelerator.autocast)
            stack.enter_context(graphs.stream())
            take = lambda: graphs.take(joint, x)  # noqa: E731

    number = 0

    def step() -> None:
        nonlocal number
        number += 1
        torch.manual_seed(number)
        rng.manual_seed(number)
        with contextlib.nullcontext() if mode == "graphed" else accelerator.autocast():
            take()

    return step


def reference_step(model: Any, x: Any, rng: Any, *, compiled: bool) -> Callable[[], object]:
    """Return the step of `plain.py` on images `x`."""
    from plain import PlainStep, plain_model

    twin = plain_model(model).to(x.device).train()
    for network in (twin.encoder, twin.generator, twin.critic) if compiled else ():
        network.compile()
    step = PlainStep(twin)
    return lambda: step(x, rng)


# -- the process that measures -------------------------------------------------------------------


class EndedEarlyError(Exception):
    """A worker is gone; what it said is above, on standard error."""


class Stepper:
    """A worker process, seen from the process that measures."""

    def __init__(self, settings: Row) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--worker", json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def read(self) -> Row:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise EndedEarlyError(f"a process ended with status {self._process.wait()}")
        answer: Row = json.loads(line)
        return answer

    def begin(self, seconds: float) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{seconds}\n")
            self._process.stdin.flush()

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


class Utilisation:
    """The share of time, in percent, in which the GPU ran any kernel, looked at twice a second."""

    def __init__(self, device: str) -> None:
        self._device, self._over = device, threading.Event()
        self._seen: list[float] = []
        self.means, self._look = utilisation_reader(device)

    def __enter__(self) -> Utilisation:
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while self._look is not None and not self._over.wait(0.5):
            self._seen.append(self._look())

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def percent(self) -> float | None:
        return statistics.mean(self._seen) if self._seen else None


def utilisation_reader(device: str) -> tuple[str, Callable[[], float] | None]:
    """Return how the utilisation is read here, and what reads it: None where nothing does."""
    import torch

    def by_torch() -> float:
        return float(torch.cuda.utilization(device))

    def by_command() -> float:
        index = torch.device(device).index or 0
        query = ["--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        command = ["nvidia-smi", f"--id={index}", *query]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=10)
        return float(done.stdout.strip())

    means = {"torch.cuda.utilization": by_torch, "nvidia-smi": by_command}
    for name, read in means.items() if device.startswith("cuda") else ():
        # Whatever is missing: the package, the command, the right to ask.
        with contextlib.suppress(Exception):
            read()
            return name, read
    return "not measured", None


def measured(settings: Row, processes: int, seconds: float) -> Row:
    """Return the steps a second of some processes at once, or the error that kept them from it."""
    row: Row = {"part": "steps", **settings, "processes": processes, "error": None}
    steppers = [Stepper(settings) for _ in range(processes)]
    try:
        first = [stepper.read()["first_step_seconds"] for stepper in steppers]
        # The first round is not counted: it captures, and settles what the first step did not.
        for round_seconds in (min(2.0, seconds), seconds):
            for stepper in steppers:
                stepper.begin(round_seconds)
            with Utilisation(settings["device"]) as used:
                told = [stepper.read() for stepper in steppers]
    except EndedEarlyError as error:
        return {**row, "error": str(error)}
    finally:
        for stepper in steppers:
            stepper.end()
    speeds = [one["steps"] / one["seconds"] for one in told]
    return {
        **row,
        "steps_per_second": sum(speeds),
        "steps_per_second_each": speeds,
        "gpu_percent": used.percent,
        "gpu_percent_by": used.means,
        "peak_gpu_mib": told[0]["peak_gpu_mib"],
        "first_step_seconds": max(first),
    }


def measure_steps(options: argparse.Namespace) -> Iterator[Row]:
    """Yield a row for each size, width, mode and number of processes."""
    names = ("device", "precision", "threads")
    common = {name: getattr(options, name) for name in names}
    for size in options.sizes:
        for width in options.widths:
            for mode in options.modes:
                for processes in options.processes if mode in OURS else (1,):
                    what = f"{size} px, width {width:g}, {mode}, {processes} at a time"
                    print(f"{what} …", file=sys.stderr, flush=True)
                    settings = {**common, "size": size, "width": width, "mode": mode}
                    yield measured(settings, processes, options.seconds)


def best(rows: list[Row], size: int, width: float) -> Row | None:
    """Return the fastest of the package's rows of a size that fills the GPU with fewest processes.

    That is the least number of processes with nearly the best throughput.
    """
    ours = [
        row
        for row in rows
        if (row["size"], row["width"]) == (size, width)
        and row["mode"] in OURS
        and row["error"] is None
    ]
    most = max((row["steps_per_second"] for row in ours), default=0.0)
    enough = [row for row in ours if row["steps_per_second"] >= ENOUGH * most]
    return min(enough, key=lambda row: (row["processes"], -row["steps_per_second"]), default=None)


def projection(rows: list[Row]) -> list[Row]:
    """Return the time of each part of Table 1 at the best throughput of its size and width."""
    found = []
    for width in sorted({row["width"] for row in rows}, reverse=True):
        for part in TABLE_1:
            fastest = best(rows, part.size, width)
            if fastest is not None:
                seconds = part.steps / fastest["steps_per_second"]
                modes = {key: fastest[key] for key in ("mode", "processes")}
                told = {**part._asdict(), "steps": part.steps, "seeds": SEEDS}
                found.append(
                    {"part": "table 1", "width": width, **told, **modes, "seconds": seconds}
                )
    return found


def measure(options: argparse.Namespace) -> Row:
    """Return everything asked for, with what it was measured on."""
    import torch
    from circumstances import circumstances

    from adcgan.training.runlog import hardware

    begun = time.perf_counter()
    rows = list(measure_steps(options))
    told = {
        **circumstances(),
        "device": hardware(torch.device(options.device)),
        "seconds": time.perf_counter() - begun,
    }
    # What steps on a CPU take says nothing about a GPU.
    rows += projection(rows) if options.device != "cpu" else []
    return {**told, "command": " ".join(["python", *sys.argv]), "rows": rows}


# -- what is printed -----------------------------------------------------------------------------


def table(result: Row) -> str:
    """Return the result as Markdown."""
    from circumstances import sentence

    device = result["device"]
    text = f"Steps on {device['device']} ({device['name']}). {sentence(result)}\n\n"
    text += _heading(
        *("size, width", "", "processes", "steps/s", "ms a step", "GPU busy", "peak GPU MiB each"),
        "first step, s",
    )
    text += "".join(_line(row) for row in result["rows"] if row["part"] == "steps") + "\n"
    parts = [row for row in result["rows"] if row["part"] == "table 1"]
    if parts:
        text += _heading("Table 1", "width", "steps, 3 seeds", "by", "hours")
        text += "".join(map(_projected_line, parts))
        for width in dict.fromkeys(row["width"] for row in parts):
            some = [row for row in parts if row["width"] == width]
            total = sum(row["seconds"] for row in some) / 3600
            whole = "all" if len(some) == len(TABLE_1) else f"{len(some)} of {len(TABLE_1)} parts"
            text += f"| {whole} | {width:g} | {sum(r['steps'] for r in some):,} | | {total:.3g} |\n"
    return text


def _heading(*names: str) -> str:
    return "| " + " | ".join(names) + " |\n" + "|---" * len(names) + "|\n"


def _line(row: Row) -> str:
    start = (f"{row['size']} px, {row['width']:g}", f"{row['mode']}, {row['precision']}")
    if row["error"] is not None:
        cells = (*start, f"{row['processes']}", row["error"], *("–",) * 4)
        return "| " + " | ".join(cells) + " |\n"
    percent, peak = row["gpu_percent"], row["peak_gpu_mib"]
    cells = (
        *start,
        f"{row['processes']}",
        f"{row['steps_per_second']:.3g}",
        f"{1000 * row['processes'] / row['steps_per_second']:.3g}",
        "not measured" if percent is None else f"{percent:.0f}%",
        "–" if peak is None else f"{peak:.0f}",
        f"{row['first_step_seconds']:.1f}",
    )
    return "| " + " | ".join(cells) + " |\n"


def _projected_line(row: Row) -> str:
    cells = (
        f"{row['dataset']}, {row['scheme']}",
        f"{row['width']:g}",
        f"{row['steps']:,}",
        f"{row['mode']}, {row['processes']} at a time",
        f"{row['seconds'] / 3600:.3g}",
    )
    return "| " + " | ".join(cells) + " |\n"


# -- the command ---------------------------------------------------------------------------------


def _numbers(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    return lambda text: [kind(part) for part in text.split(",")]


def check_device(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Set what depends on the device, or end with one line and exit code 2."""
    from adcgan import InputError
    from adcgan.training import resolve_device

    try:
        kind = resolve_device(options.device).type
    except InputError:
        kind = "none"
    on_cpu = options.device == "cpu"
    if kind != "cuda" and not on_cpu:
        parser.exit(2, f"gpu.py needs a CUDA device, and {options.device!r} is none here.\n")
    allowed = ("eager",) if on_cpu else OURS + REFERENCE
    unknown = set(options.modes or ()) - set(allowed)
    if unknown:
        parser.exit(2, f"--modes on {options.device} must be of {','.join(allowed)}.\n")
    options.modes = options.modes or list(allowed)
    options.widths = options.widths or [CPU_WIDTH if on_cpu else 1.0]
    options.processes = options.processes or ([1] if on_cpu else [1, 2, 4, 8])


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] == "--worker":
        run_worker(json.loads(sys.argv[2]))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="a CUDA device, or cpu for a trial")
    parser.add_argument("--modes", type=_numbers(str), help="of eager,graphed,plain,compiled")
    parser.add_argument("--sizes", type=_numbers(int), default=[28, 32, 64])
    parser.add_argument("--widths", type=_numbers(float), help="1 if not given")
    parser.add_argument("--processes", type=_numbers(int), help="1,2,4,8 if not given")
    parser.add_argument("--precision", default="auto", help="auto, float32 or bf16")
    parser.add_argument("--seconds", type=float, default=10, help="for one table row")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--out", type=Path, help="the JSON file to write")
    parser.add_argument(
        "--table", type=Path, help="print the table of a JSON file, measure nothing"
    )
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(options.table.read_text(encoding="utf-8"))))
        return
    check_device(options, parser)
    result = measure(options)
    if options.out:
        from adcgan.files import write_json

        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.out, result)
    print(table(result))


if __name__ == "__main__":
    main()
