"""The contenders of `speed.py`: each a process that takes a step, or scores a batch, when told."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

Settings = dict[str, Any]

PRODUCTS = (("float32", "matmul"), ("float32", "oneDNN"), ("bf16", "matmul"))
PRODUCT_SIDE = 2048
SCORED = 64


class Contender:
    """A worker process, seen from the process that measures.

    It is ready once it has taken its first turn.
    """

    def __init__(self, task: str, settings: Settings) -> None:
        begun = time.perf_counter()
        here = Path(__file__).parent / "speed.py"
        self._process = subprocess.Popen(
            [sys.executable, str(here), "--worker", json.dumps({"task": task, **settings})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._facts = self._read() | {"first_seconds": time.perf_counter() - begun}
        self.turn()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"A worker ended early, with exit status {self._process.wait()}.")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _tell(self, word: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        return self._read()

    def turn(self) -> float:
        """Return the seconds of one turn."""
        return float(self._tell("turn")["seconds"])

    def end(self) -> dict[str, Any]:
        """End the process; return what it told about itself."""
        facts = self._facts | self._tell("end")
        self._process.wait()
        return facts


def run_worker(settings: Settings) -> None:
    """Take a turn for every line "turn" on standard input, until another one comes."""
    import torch

    torch.set_num_threads(settings["threads"])
    with ExitStack() as stack:
        prepare = _prepare_training if settings["task"] == "train" else _prepare_scoring
        turn, count = prepare(settings, stack)
        batch = turn()
        _say(batch=batch)
        for line in sys.stdin:
            if line.strip() != "turn":
                break
            begun = time.perf_counter()
            turn()
            _say(seconds=time.perf_counter() - begun)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        _say(peak_mib=peak, **count())


def _say(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


def shape_of(size: int) -> tuple[int, int, int]:
    """Return the shape of images: grey at 28 px, as MNIST's, in colour above."""
    return (1 if size == 28 else 3, size, size)


def _prepare_training(
    settings: Settings, stack: ExitStack
) -> tuple[Callable[[], int], Callable[[], dict[str, Any]]]:
    """Return a joint step on a batch, and the count of its operations."""
    import torch

    from adcgan import ADCGAN
    from adcgan.training import cost, make_accelerator
    from adcgan.training.device import denormals_flushed
    from adcgan.training.memory import memory_kept

    detector = ADCGAN(width=settings["width"], precision=settings["precision"], device="cpu")
    shape = shape_of(settings["size"])
    accelerator = make_accelerator(detector.device, detector.precision)
    torch.manual_seed(0)
    model = detector.make_model(shape).train()
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(detector.batch_size, *shape, generator=rng)
    if settings["kind"] == "plain":
        from plain import PlainStep, plain_model

        plain_step = PlainStep(plain_model(model).train())
        return lambda: plain_step(x, rng) or len(x), dict
    recipe = model.recipe(5000, accelerator)
    stack.enter_context(denormals_flushed())
    stack.enter_context(memory_kept())

    def step() -> int:
        with accelerator.autocast():
            recipe.phases[1].step(x, rng)
        return len(x)

    return step, lambda: {"flops": cost.count_flops(recipe, 1, shape)}


def _prepare_scoring(
    settings: Settings,
    stack: ExitStack,  # noqa: ARG001
) -> tuple[Callable[[], int], Callable[[], dict[str, Any]]]:
    """Return the scoring of a batch by all components, and the count of its operations.

    PyTorch's worker makes the model and writes the file that ONNX Runtime's reads.
    """
    import numpy as np
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from adcgan import ADCGAN

    channels, size, _ = shape_of(settings["size"])
    images = np.random.default_rng(0).integers(0, 256, (SCORED, size, size, channels), np.uint8)
    images = images[..., 0] if channels == 1 else images
    scorer: Any
    if settings["kind"] == "torch":
        from adcgan.onnx.export import export_onnx

        scorer = ADCGAN(
            width=settings["width"], warmup_epochs=0, epochs=1, min_steps=0, fpr=0.5, device="cpu"
        ).fit(images[:36])
        export_onnx(scorer, settings["path"])
    else:
        from adcgan.onnx import OnnxScorer

        scorer = OnnxScorer(settings["path"], threads=settings["threads"])

    def score() -> int:
        scorer.score_components(images)
        return len(images)

    def count() -> dict[str, Any]:
        if settings["kind"] != "torch":
            return {}
        x = torch.rand(SCORED, channels, size, size)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            scorer.backend(x)
        return {"flops": counter.get_total_flops()}

    return score, count


def product_speed(precision: str, library: str) -> float:
    """Return the floating-point operations a second of a large matrix product.

    `library` "matmul" is what ``a @ b`` takes; "oneDNN" is the library that computes PyTorch's
    convolutions, and on some processors twice as fast.
    """
    import torch

    from adcgan.networks.products import product

    dtype = torch.float32 if precision == "float32" else torch.bfloat16
    a = torch.randn(PRODUCT_SIDE, PRODUCT_SIDE).to(dtype)
    with torch.no_grad():
        begun = time.perf_counter()
        a @ a if library == "matmul" else product(a, a)
        seconds = time.perf_counter() - begun
    return 2 * PRODUCT_SIDE**3 / seconds


def profile(size: int, width: float, threads: int, steps: int = 3) -> str:
    """Return a table of the operators that take most of a joint step."""
    import torch
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    torch.set_num_threads(threads)
    settings = {"size": size, "width": width, "kind": "ours", "precision": "float32"}
    with ExitStack() as stack:
        step, _ = _prepare_training(settings, stack)
        step()
        with profiler(activities=[ProfilerActivity.CPU]) as profiled:
            for _ in range(steps):
                step()
    averages = profiled.key_averages()
    return f"{size} px, width {width:g}, {steps} steps\n" + averages.table(
        sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=50
    )
