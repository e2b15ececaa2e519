"""How fast AD-CGAN trains and scores, against this machine's own peak and against plain PyTorch.

For each size and width, in one run on one machine: the floating-point operations of a joint step,
counted by PyTorch; the machine's peak, the speed of a large matrix product of the same precision;
the time of a step of `adcgan` and of `plain.py`, the same networks in plain PyTorch; the ratio of
measured time to the floor (operations ÷ peak); peak memory; time to the first step. Then scoring by
all components, by PyTorch and by ONNX Runtime, and the time of the import and of ``--help``.

Each contender is a process of its own, and they take turns, so that whatever else the machine does
meets all of them. Run it alone on the machine (under ten minutes on two free cores):

    python benchmarks/speed.py --out benchmarks/results/speed-DATE.json
    python benchmarks/speed.py --parts train --sizes 28 --widths 0.25    # half a minute
    python benchmarks/speed.py --table benchmarks/results/speed-DATE.json
    python benchmarks/speed.py --profile --sizes 28 --widths 1
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from worker import Contender, run_worker

PARTS = ("start", "train", "score")
# Name of a contender in training, its precision, and what computes it.
TRAINERS = (("ours", "float32"), ("plain", "float32"), ("ours", "bf16"))
STARTS = {
    "python": ["-c", "pass"],
    "import adcgan": ["-c", "import adcgan"],
    "adcgan --help": ["-m", "adcgan", "--help"],
}
FEWEST_ROUNDS, MOST_ROUNDS = 3, 15

Row = dict[str, Any]


def take_turns(turns: dict[str, Callable[[], float]], seconds: float) -> dict[str, list[float]]:
    """Call each of `turns` once a round for about `seconds`; return what they returned."""
    results: dict[str, list[float]] = {name: [] for name in turns}
    end = time.perf_counter() + seconds
    for done in range(MOST_ROUNDS):
        if done >= FEWEST_ROUNDS and time.perf_counter() > end:
            break
        for name, turn in turns.items():
            results[name].append(turn())
    return results


def measure_training(size: int, width: float, options: argparse.Namespace) -> Iterator[Row]:
    """Yield a row for each contender in training."""
    settings = {"size": size, "width": width, "threads": options.threads}
    contenders = {
        f"{kind} {precision}": Contender(
            "train", {**settings, "kind": kind, "precision": precision}
        )
        for kind, precision in TRAINERS
    }
    turns: dict[str, Callable[[], float]] = {name: c.turn for name, c in contenders.items()}
    times = take_turns(turns | peak_turns(), options.seconds)
    facts = {name: contender.end() for name, contender in contenders.items()}
    flops = facts["ours float32"]["flops"]
    for name, (kind, precision) in zip(contenders, TRAINERS, strict=True):
        step = statistics.median(times[name])
        yield {
            "part": "train",
            **settings,
            "contender": kind,
            "precision": precision,
            "step_seconds": step,
            "step_seconds_all": times[name],
            "images_per_second": facts[name]["batch"] / step,
            "gflop": flops / 1e9,
            **floors(step, flops, precision, times),
            "plain_over_this": statistics.median(
                [p / t for p, t in zip(times["plain float32"], times[name], strict=True)]
            ),
            "peak_mib": facts[name]["peak_mib"],
            "first_step_seconds": facts[name]["first_seconds"],
        }


def measure_scoring(size: int, width: float, options: argparse.Namespace) -> Iterator[Row]:
    """Yield a row for PyTorch and one for ONNX Runtime: all components of a batch of images."""
    settings = {"size": size, "width": width, "threads": options.threads}
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "m.onnx")
        contenders = {
            kind: Contender("score", {**settings, "kind": kind, "path": path})
            for kind in ("torch", "onnxruntime")
        }
        turns: dict[str, Callable[[], float]] = {name: c.turn for name, c in contenders.items()}
        times = take_turns(turns | peak_turns(("float32",)), options.seconds)
        facts = {name: contender.end() for name, contender in contenders.items()}
    flops = facts["torch"]["flops"]
    for name in contenders:
        batch = statistics.median(times[name])
        yield {
            "part": "score",
            **settings,
            "contender": name,
            "precision": "float32",
            "batch": facts[name]["batch"],
            "batch_seconds": batch,
            "batch_seconds_all": times[name],
            "images_per_second": facts[name]["batch"] / batch,
            "gflop": flops / 1e9,
            **floors(batch, flops, "float32", times),
            "torch_over_this": statistics.median(
                [p / t for p, t in zip(times["torch"], times[name], strict=True)]
            ),
            "peak_mib": facts[name]["peak_mib"],
            "largest_difference": facts[name].get("largest_difference"),
        }


def peak_turns(precisions: tuple[str, ...] = ("float32", "bf16")) -> dict[str, Callable[[], float]]:
    """Return turns that measure the speed of a large matrix product in this process."""
    from worker import PRODUCTS, product_speed

    return {
        f"peak {precision} {library}": (
            lambda precision=precision, library=library: product_speed(precision, library)  # type: ignore[misc]
        )
        for precision, library in PRODUCTS
        if precision in precisions
    }


def floors(seconds: float, flops: float, precision: str, times: dict[str, list[float]]) -> Row:
    """Return the peaks of `precision` and the ratio of `seconds` to the floor by each."""
    row: Row = {}
    for library in ("matmul", "oneDNN"):
        speeds = times.get(f"peak {precision} {library}")
        if speeds:
            peak = statistics.median(speeds)
            row[f"peak_gflops_{library}"] = peak / 1e9
            row[f"ratio_to_floor_{library}"] = seconds / (flops / peak)
    return row


def measure_start(options: argparse.Namespace) -> Iterator[Row]:
    """Yield the time of starting Python, of the import and of ``adcgan --help``."""
    import subprocess

    def starter(arguments: list[str]) -> Callable[[], float]:
        def start() -> float:
            begun = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            return time.perf_counter() - begun

        return start

    times = take_turns({k: starter(v) for k, v in STARTS.items()}, options.seconds)
    for name, taken in times.items():
        yield {"part": "start", "what": name, "seconds": statistics.median(taken), "all": taken}


def measure(options: argparse.Namespace) -> Row:
    """Return everything asked for, with what it was measured on."""
    import torch
    from circumstances import circumstances

    torch.set_num_threads(options.threads)
    begun = time.perf_counter()
    rows: list[Row] = []
    if "start" in options.parts:
        rows += measure_start(options)
    for part, function in (("train", measure_training), ("score", measure_scoring)):
        for size in options.sizes if part in options.parts else ():
            for width in options.widths:
                print(f"{part} {size} px, width {width:g} …", file=sys.stderr, flush=True)
                rows += function(size, width, options)
    told = {**circumstances(), "seconds": time.perf_counter() - begun}
    return {**told, "command": " ".join(["python", *sys.argv]), "rows": rows}


def table(result: Row) -> str:
    """Return the result as Markdown."""
    from circumstances import sentence

    rows: list[Row] = result["rows"]
    text = sentence(result) + "\n\n"
    starts = [row for row in rows if row["part"] == "start"]
    if starts:
        text += "| start | seconds |\n|---|---|\n"
        text += "".join(f"| `{row['what']}` | {row['seconds']:.2f} |\n" for row in starts) + "\n"
    train = [row for row in rows if row["part"] == "train"]
    if train:
        text += _heading(
            *("size, width", "", "GFLOP", "ms a step", "images/s", "÷ plain", "÷ floor"),
            *("÷ floor (oneDNN)", "peak MiB", "first step, s"),
        )
        text += "".join(map(_training_line, train)) + "\n"
    score = [row for row in rows if row["part"] == "score"]
    if score:
        text += _heading(
            *("size, width", "", "GFLOP an image", "images/s", "÷ torch", "÷ floor"),
            *("÷ floor (oneDNN)", "peak MiB"),
        )
        text += "".join(map(_scoring_line, score)) + "\n"
    return text


def _heading(*names: str) -> str:
    return "| " + " | ".join(names) + " |\n" + "|---" * len(names) + "|\n"


def _training_line(row: Row) -> str:
    cells = (
        f"{row['size']} px, {row['width']:g}",
        f"{row['contender']}, {row['precision']}",
        _short(row["gflop"]),
        _short(1000 * row["step_seconds"]),
        f"{row['images_per_second']:.3g}",
        f"{row['plain_over_this']:.2f}× as fast",
        *_ratios(row),
        f"{row['peak_mib']:.0f}",
        f"{row['first_step_seconds']:.1f}",
    )
    return "| " + " | ".join(cells) + " |\n"


def _scoring_line(row: Row) -> str:
    cells = (
        f"{row['size']} px, {row['width']:g}",
        {"torch": "PyTorch", "onnxruntime": "ONNX Runtime"}[row["contender"]],
        f"{row['gflop'] / row['batch']:.3g}",
        f"{row['images_per_second']:.3g}",
        f"{row['torch_over_this']:.2f}× as fast",
        *_ratios(row),
        f"{row['peak_mib']:.0f}",
    )
    return "| " + " | ".join(cells) + " |\n"


def _short(value: float) -> str:
    """Return three digits, or all before the point where there are more."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _ratios(row: Row) -> list[str]:
    ratios = [row.get(f"ratio_to_floor_{library}") for library in ("matmul", "oneDNN")]
    return ["–" if ratio is None else f"{ratio:.2f}" for ratio in ratios]


def _numbers(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    return lambda text: [kind(part) for part in text.split(",")]


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] == "--worker":
        run_worker(json.loads(sys.argv[2]))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", type=_numbers(str), default=list(PARTS))
    parser.add_argument("--sizes", type=_numbers(int), default=[28, 32, 64])
    parser.add_argument("--widths", type=_numbers(float), default=[1.0, 0.25])
    parser.add_argument("--seconds", type=float, default=8, help="for the rounds of one table row")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="the JSON file to write")
    parser.add_argument(
        "--table", type=Path, help="print the table of a JSON file, measure nothing"
    )
    parser.add_argument("--profile", action="store_true", help="print where a step's time goes")
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(options.table.read_text(encoding="utf-8"))))
        return
    if options.profile:
        from worker import profile

        for size in options.sizes:
            for width in options.widths:
                print(profile(size, width, options.threads))
        return
    result = measure(options)
    if options.out:
        from adcgan.files import write_json

        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.out, result)
    print(table(result))


if __name__ == "__main__":
    main()
