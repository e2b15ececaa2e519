"""The cost of training: operations counted by PyTorch and the measured speed of this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from adcgan.training.device import autocast_of, random_state_kept
from adcgan.training.graphs import WARM_UP_STEPS, GraphedSteps
from adcgan.training.loop import Recipe

WIDTHS = (1.0, 0.5, 0.25, 0.125)
COUNTED_BATCH = 2
LONG_STEP_SECONDS = 2.0


@dataclass(frozen=True)
class FitCost:
    """The expected cost of a call to ``fit``.

    Attributes
    ----------
    steps : int
        Number of training steps in all phases.
    flops_per_step : float
        Floating-point operations per step, averaged over the phases.
    flops_per_second : float
        Speed of an actual step on this machine.
    seconds : float
        Expected time.
    seconds_by_width : dict of float to float
        Expected time at other network widths, at the same speed.
    """

    steps: int
    flops_per_step: float
    flops_per_second: float
    seconds: float
    seconds_by_width: dict[float, float]


def estimate(
    make_recipe: Callable[[float | None], Recipe | None],
    shape: tuple[int, int, int],
    *,
    scaled: bool,
    cuda_graphs: bool = False,
) -> FitCost | None:
    """Estimate the cost of training and, for comparison, the cost at `WIDTHS`.

    Parameters
    ----------
    make_recipe : callable
        Takes a width, or None for the configured one, and returns a recipe with new networks,
        which are modified here. Returns None if there is nothing to train.
    shape : (int, int, int)
        Channels, height and width of the images.
    scaled : bool
        Whether the networks have a width setting.
    cuda_graphs : bool
        Whether steps will be captured.

    Returns
    -------
    FitCost or None
        None if there is nothing to train.
    """
    with random_state_kept():
        recipe = make_recipe(None)
        if recipe is None:
            return None
        total = _total_flops(recipe, shape)
        flops = count_flops(recipe, len(recipe.phases) - 1, shape)
        speed = flops / _seconds(recipe, shape, cuda_graphs=cuda_graphs)
        others = {width: make_recipe(width) for width in (WIDTHS if scaled else ())}
        by_width = {w: _total_flops(other, shape) / speed for w, other in others.items() if other}
    steps = sum(phase.steps for phase in recipe.phases)
    return FitCost(steps, total / max(steps, 1), speed, total / speed, by_width)


def _total_flops(recipe: Recipe, shape: tuple[int, int, int]) -> float:
    """Count the operations in all phases of a recipe."""
    return sum(
        phase.steps * count_flops(recipe, number, shape)
        for number, phase in enumerate(recipe.phases)
    )


def count_flops(recipe: Recipe, phase: int, shape: tuple[int, int, int]) -> float:
    """Count the operations of one step, on a batch of 2 and scaled to the full batch size."""

    def counted(number: int) -> float:
        make: Callable[[], _Counting] = _Counting
        with make() as counting:
            take_step(recipe, phase, shape, COUNTED_BATCH, number)
        return float(counting.flops)

    return _mean_of_cycle(recipe, phase, counted) * recipe.batch_size / COUNTED_BATCH


def _mean_of_cycle(recipe: Recipe, phase: int, measure: Callable[[int], float]) -> float:
    """Average `measure`, a function of the step number, over a phase's cycle."""
    cycle = recipe.phases[phase].cycle
    first = measure(0)
    return first if cycle == 1 else (first + (cycle - 1) * measure(1)) / cycle


class _Counting(TorchDispatchMode):
    """Counts operations with PyTorch's formulas.

    PyTorch's own counter also tracks modules, with hooks that do not work under `autograd.grad`.
    """

    flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out


def _seconds(recipe: Recipe, shape: tuple[int, int, int], *, cuda_graphs: bool) -> float:
    """Time a step of the last phase; a second, warm one is used unless the first took long."""
    phase = len(recipe.phases) - 1
    if cuda_graphs:
        return _captured_seconds(recipe, phase, shape)

    def timed(number: int) -> float:
        seconds = np.inf
        for _ in range(3):
            start = time.perf_counter()
            take_step(recipe, phase, shape, recipe.batch_size, number)
            seconds = min(seconds, time.perf_counter() - start)
            if seconds > LONG_STEP_SECONDS:
                break
        return float(seconds)

    return _mean_of_cycle(recipe, phase, timed)


def _captured_seconds(recipe: Recipe, phase: int, shape: tuple[int, int, int]) -> float:
    """Time the last of several replays of each kind of captured step."""
    accelerator = recipe.optimizers.accelerator
    rng = torch.Generator(device=accelerator.device).manual_seed(0)
    x = _random_images(recipe, shape, recipe.batch_size, rng)
    recipe.networks.train()
    graphs = GraphedSteps(recipe.optimizers, rng, autocast_of(accelerator))
    kinds = recipe.phases[phase]

    def timed(number: int) -> float:
        recipe.optimizers.step = number
        seconds = np.inf
        # The steps before the capture, the capture with its replay, and one more replay.
        for _ in range(WARM_UP_STEPS + 2):
            start = time.perf_counter()
            graphs.take(kinds.step, x, does_more=kinds.does_more(number))
            _wait_for(accelerator.device)
            seconds = time.perf_counter() - start
        return float(seconds)

    with graphs.ordered(), graphs.stream():
        return _mean_of_cycle(recipe, phase, timed)


def memory_of_steps(recipe: Recipe, shape: tuple[int, int, int]) -> int:
    """Return the peak CUDA memory in bytes of captured steps of the last phase.

    Parameters
    ----------
    recipe : Recipe
        Recipe with new networks, which are modified here.
    shape : (int, int, int)
        Channels, height and width of the images.
    """
    device = recipe.optimizers.accelerator.device
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    weights = sum(value.nbytes for value in recipe.networks.state_dict().values())
    before: int = torch.cuda.memory_reserved(device)
    _captured_seconds(recipe, len(recipe.phases) - 1, shape)
    peak: int = torch.cuda.max_memory_reserved(device)
    return int(weights) + peak - before


def take_step(
    recipe: Recipe, phase: int, shape: tuple[int, int, int], batch: int, number: int = 0
) -> None:
    """Take step `number` of `phase` on random images and wait for it to finish."""
    accelerator = recipe.optimizers.accelerator
    rng = torch.Generator(device=accelerator.device).manual_seed(0)
    x = _random_images(recipe, shape, batch, rng)
    recipe.networks.train()
    recipe.optimizers.step = number
    with autocast_of(accelerator)():
        recipe.phases[phase].step(x, rng)
    _wait_for(accelerator.device)


def _random_images(
    recipe: Recipe, shape: tuple[int, int, int], batch: int, rng: torch.Generator
) -> torch.Tensor:
    """Return random images (`batch`, C, H, W) as input for a step of `recipe`."""
    sides = shape[1:] if recipe.crop is None else (recipe.crop, recipe.crop)
    return torch.rand(batch, shape[0], *sides, device=rng.device, generator=rng)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
