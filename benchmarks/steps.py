"""Joint training steps per second of AD-CGAN, and their ratio to this machine's own peak.

The floor of a step is its floating-point operations, counted by PyTorch, over the speed of a large
float32 matrix product measured in the same run. Run it alone on the machine:

    python benchmarks/steps.py --size 28 --width 1
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from datetime import date

import torch

import adcgan
from adcgan import ADCGAN
from adcgan.training import cost
from adcgan.training.device import denormals_flushed

PEAK_SIDE = 2048


def matrix_product_speed(device: torch.device, repeats: int = 5) -> float:
    """Return the floating-point operations a second of a large float32 matrix product."""
    a = torch.randn(PEAK_SIDE, PEAK_SIDE, device=device)
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return 2 * PEAK_SIDE**3 / statistics.median(times[1:])


def step_seconds(detector: ADCGAN, shape: tuple[int, int, int], steps: int) -> tuple[float, float]:
    """Return the median seconds of a joint step, and its floating-point operations."""
    accelerator = detector._accelerator(None, ())
    networks = detector._make_networks(shape, detector.width).to(accelerator.device)
    recipe = detector._recipe(networks, 5000, accelerator)
    times = []
    with denormals_flushed():
        for _ in range(steps + 2):
            start = time.perf_counter()
            cost.take_step(recipe, 1, shape, detector.batch_size)
            times.append(time.perf_counter() - start)
    return statistics.median(times[2:]), cost.count_flops(recipe, 1, shape)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=28)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    detector = ADCGAN(width=options.width, precision=options.precision, device=options.device)
    shape = (1 if options.size == 28 else 3, options.size, options.size)
    device = detector._accelerator(None, ()).device
    # The peak is measured before and after, so that a machine that got busy shows.
    before = matrix_product_speed(device)
    seconds, flops = step_seconds(detector, shape, options.steps)
    peak = statistics.mean([before, matrix_product_speed(device)])
    result = {
        "size": options.size,
        "width": options.width,
        "steps_per_second": 1 / seconds,
        "gflop_per_step": flops / 1e9,
        "peak_gflop_per_second": peak / 1e9,
        "ratio_to_floor": seconds / (flops / peak),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "adcgan": adcgan.__version__,
        "date": date.today().isoformat(),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
