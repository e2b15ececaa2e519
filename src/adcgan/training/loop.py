"""The training loop: phases of steps over shuffled batches, resumable at any step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from adcgan.data.crops import DeviceCrops
from adcgan.data.prepare import DeviceImages, Split, epoch_order
from adcgan.data.ragged import Images
from adcgan.progress import Progress
from adcgan.training.checkpoint import FILE_NAME, all_finite, load_checkpoint, save_checkpoint
from adcgan.training.device import (
    autocast_of,
    denormals_flushed,
    full_precision,
    random_state_kept,
)
from adcgan.training.graphs import GraphedSteps, Step
from adcgan.training.health import Check, HealthWatch
from adcgan.training.memory import memory_kept
from adcgan.training.optimizers import Optimizers
from adcgan.training.runlog import RunLog
from adcgan.training.statistics import recompute_statistics

if TYPE_CHECKING:
    from accelerate import Accelerator

LOG_EVERY = 50
PROBE_IMAGES = 128
STATISTICS_IMAGES, STATISTICS_BATCH = 4096, 128

# A probe takes held-out images and a random generator, and returns figures as 0-d tensors.
Probe = Callable[[Tensor, torch.Generator], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Phase:
    """`steps` repetitions of `step`.

    A step takes images (B, C, H, W) in [0, 1] and a generator seeded for this step, and updates
    weights. Steps whose number is a multiple of `cycle`, and the first step of a phase, may do more
    than the others.
    """

    name: str
    steps: int
    step: Step
    cycle: int = 1

    def does_more(self, number: int) -> bool:
        """Return whether step `number` of the run may do more than the others."""
        return number % self.cycle == 0


@dataclass(frozen=True)
class Recipe:
    """Everything specific to the training of one detector.

    Attributes
    ----------
    networks : Module
        Module that contains every network once; this is what checkpoints save.
    optimizers : Optimizers
        Optimizers of the networks.
    phases : sequence of Phase
        Training phases, in order.
    batch_size : int
        Images per step.
    probe : callable or None
        Computes figures on held-out normal images whenever losses are logged.
    checks : sequence of Check
        Health checks on losses and figures.
    crop : int or None
        Side of the random crops for training, one per image in a batch, for images of any size.
        None means whole images, which must all have the same size.
    finish : callable or None
        Called after the last step, for example to copy averaged weights.
    scoring_pass : callable or None
        Passes images (B, C, H, W) through the networks as scoring does. If given, it is used to
        recompute the BatchNorm statistics on training images at the very end.
    """

    networks: nn.Module
    optimizers: Optimizers
    phases: Sequence[Phase]
    batch_size: int
    probe: Probe | None = None
    checks: Sequence[Check] = ()
    crop: int | None = None
    finish: Callable[[], None] | None = None
    scoring_pass: Callable[[Tensor], object] | None = None


@dataclass(frozen=True)
class Session:
    """The context of one call to ``fit``: where it writes, how it reports, its seed.

    With `cuda_graphs`, steps are captured (`adcgan.training.graphs`), which needs a CUDA device.
    """

    accelerator: Accelerator
    log: RunLog
    seed: int
    progress: Progress
    resume: bool = False
    checkpoint_every: int = 500
    cuda_graphs: bool = False
    folder: Path | None = field(default=None)

    @property
    def checkpoint(self) -> Path | None:
        """Path of the run's checkpoint."""
        return None if self.folder is None else self.folder / FILE_NAME


def train(recipe: Recipe, images: Images, split: Split, session: Session) -> Iterator[None]:
    """Run the phases of `recipe`, from the last checkpoint or from the start.

    Each item is one step, and exhausting the iterator does what follows the steps; nothing happens
    before the first item. Several runs can take steps in turns: between items, torch's random
    state, its stream and its handling of denormals are those of the caller.

    The random numbers of a step and the order of the images depend only on (seed, step). A run that
    was interrupted and resumed ends with the same weights as an uninterrupted one.

    Parameters
    ----------
    recipe : Recipe
        Networks and steps to train.
    images : ndarray of uint8 (n, C, H, W), or Ragged of n where the recipe takes crops
        Normal images.
    split : Split
        Indices of the images to train on and of those to monitor training with.
    session : Session
        Device, seed, log and checkpoints of the run.

    Yields
    ------
    None
        After every step.

    Raises
    ------
    DivergedError
        A loss was not finite. The last checkpoint is kept.
    """
    loop = _Loop(recipe, images, split, session)
    networks = recipe.networks
    total = sum(phase.steps for phase in recipe.phases)
    start = loop.restore()
    session.progress.start("Training", total)
    session.progress.advance(start)
    try:
        with memory_kept(), _training_mode(networks), loop.ordered():
            for step, phase in _steps_of(recipe.phases):
                if step >= start:
                    with denormals_flushed(), random_state_kept(), loop.stream():
                        loop.run_step(step, phase, last=step == total - 1)
                    yield
    finally:
        session.progress.finish()
    if recipe.finish is not None:
        recipe.finish()
    if recipe.scoring_pass is not None:
        with full_precision():
            recompute_statistics(networks, recipe.scoring_pass, loop.statistics_batches())


def _steps_of(phases: Sequence[Phase]) -> Iterator[tuple[int, Phase]]:
    """Yield all steps of a run with their phases."""
    step = 0
    for phase in phases:
        for _ in range(phase.steps):
            yield step, phase
            step += 1


@contextmanager
def _training_mode(networks: nn.Module) -> Iterator[None]:
    """Put `networks` in training mode, and afterwards in evaluation mode."""
    networks.train()
    try:
        yield
    finally:
        networks.eval()


def step_seed(seed: int, step: int, process: int = 0) -> int:
    """Return the seed for all random numbers that `step` draws in one process."""
    words = np.random.SeedSequence([seed, step, process]).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(1))


class _Loop:
    """The state of one run of `train`."""

    def __init__(self, recipe: Recipe, images: Images, split: Split, session: Session) -> None:
        self.recipe, self.session = recipe, session
        self.accelerator = session.accelerator
        device = self.accelerator.device
        self.images: DeviceImages | DeviceCrops
        if recipe.crop is None:
            assert isinstance(images, np.ndarray)
            self.images = DeviceImages(images, device)
        else:
            self.images = DeviceCrops(images, device, recipe.crop)
        self.train_index = split.train
        self.batch_size = min(recipe.batch_size, len(split.train))
        self.steps_per_epoch = len(split.train) // self.batch_size
        self.probe_index = torch.from_numpy(split.held_out[:PROBE_IMAGES])
        self.watch = HealthWatch(recipe.checks)
        self.rng = torch.Generator(device=device)
        self.autocast = autocast_of(self.accelerator)
        self.graphs = (
            GraphedSteps(recipe.optimizers, self.rng, self.autocast)
            if session.cuda_graphs
            else None
        )
        self.order = torch.empty(0)
        self.epoch = -1
        self.sums: dict[str, tuple[Tensor | float, int]] = {}
        self.since = time.perf_counter()

    def restore(self) -> int:
        """Load the checkpoint if there is one to resume from; return the number of steps done."""
        path, start = self.session.checkpoint, 0
        if self.session.resume and path is not None and path.exists():
            start = load_checkpoint(path, self.recipe.networks, self.recipe.optimizers.named)
        self.session.log.rewind(start)
        return start

    def ordered(self) -> AbstractContextManager[None]:
        """Return the context of the whole run."""
        return nullcontext() if self.graphs is None else self.graphs.ordered()

    def stream(self) -> AbstractContextManager[None]:
        """Return the context for steps."""
        return nullcontext() if self.graphs is None else self.graphs.stream()

    def run_step(self, step: int, phase: Phase, *, last: bool) -> None:
        """Take one step, and log and save when due."""
        process = self.accelerator.process_index
        seed = step_seed(self.session.seed, step, process)
        torch.manual_seed(seed)  # dropout
        self.rng.manual_seed(seed)
        self.recipe.optimizers.step = step
        self._take(step, phase, self._batch(step))
        self._accumulate()
        due = last or (step + 1) % LOG_EVERY == 0
        # Reading the flag makes the host wait for an accelerator, so it is read only when due.
        if due or self.accelerator.device.type == "cpu":
            self.recipe.optimizers.raise_if_diverged()
        self.session.progress.advance()
        if due:
            self._log(step, phase)
        if last or (step + 1) % self.session.checkpoint_every == 0:
            self._save(step + 1)

    def _take(self, step: int, phase: Phase, batch: Tensor) -> None:
        """Update the weights once."""
        if self.graphs is not None:
            self.graphs.take(phase.step, batch, does_more=phase.does_more(step))
            return
        with self.autocast():
            phase.step(batch, self.rng)

    def _batch(self, step: int) -> Tensor:
        """Return this process's images for `step`."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self.epoch:
            order = epoch_order(len(self.train_index), self.session.seed, epoch)
            # Keep the index with the images, so that no batch waits for its transfer.
            where = self.accelerator.device if self.images.resident else torch.device("cpu")
            self.order = torch.from_numpy(self.train_index[order]).to(where)
            self.epoch = epoch
        index = self.order[place * self.batch_size : (place + 1) * self.batch_size]
        return self._gather(index[self.accelerator.process_index :: self.accelerator.num_processes])

    def _gather(self, index: Tensor) -> Tensor:
        """Return the images at `index`, or one crop of each."""
        if isinstance(self.images, DeviceCrops):
            return self.images.gather(index, self.rng)
        return self.images.gather(index)

    def statistics_batches(self) -> Iterator[Tensor]:
        """Yield up to `STATISTICS_IMAGES` training images, evenly spaced, in whole batches."""
        self.rng.manual_seed(self.session.seed)
        n = len(self.train_index)
        some = self.train_index[:: max(1, n // STATISTICS_IMAGES)]
        size = min(STATISTICS_BATCH, len(some))
        for start in range(0, len(some) - size + 1, size):
            yield self._gather(torch.from_numpy(some[start : start + size]))

    def _accumulate(self) -> None:
        """Add the losses of this step to the sums from which means are logged."""
        for key, value in self.recipe.optimizers.losses.items():
            total, count = self.sums.get(key, (0.0, 0))
            self.sums[key] = (total + value, count + 1)
        self.recipe.optimizers.losses = {}

    def _log(self, step: int, phase: Phase) -> None:
        """Log the mean losses since the last time, the probe's figures and any warnings."""
        figures = {key: float(total) / count for key, (total, count) in self.sums.items()}
        self.sums = {}
        if self.recipe.probe is not None:
            self.rng.manual_seed(self.session.seed)
            self.recipe.networks.eval()
            with torch.inference_mode():
                probed = self.recipe.probe(self._gather(self.probe_index), self.rng)
            self.recipe.networks.train()
            figures |= {key: float(value) for key, value in probed.items()}
        if not self.accelerator.is_main_process:
            return
        now = time.perf_counter()
        row = {"step": step, "phase": phase.name, "seconds": now - self.since, **figures}
        self.since = now
        self.session.log.append(row)
        for row in self.watch.observe(step, figures):
            self.session.log.append(row)
        self.accelerator.log(figures, step=step)

    def _save(self, done: int) -> None:
        """Save a checkpoint after `done` steps, unless the weights are no longer finite."""
        if self.accelerator.num_processes > 1:
            self._average_buffers()
        path = self.session.checkpoint
        if path is None or not self.accelerator.is_main_process:
            return
        self.recipe.optimizers.raise_if_diverged()
        assert all_finite(self.recipe.networks), "losses are finite, but weights are not"
        save_checkpoint(path, done, self.recipe.networks, self.recipe.optimizers.named)

    def _average_buffers(self) -> None:
        """Average the running statistics over all processes."""
        for buffer in self.recipe.networks.buffers():
            if buffer.is_floating_point():
                buffer.copy_(self.accelerator.reduce(buffer, "mean"))
