"""Training steps as CUDA graphs: captured once per kind of step, then replayed for every batch.

A replay launches all kernels of a step at once, while Python launches them one by one. It reads the
batch from a fixed buffer and its random seeds from the current state of the generators, so a step
draws the same random numbers as outside a graph.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from adcgan.training.optimizers import Optimizers

# Steps of each kind before its capture. These are real steps, which also create what a capture
# requires: Adam's moments, and the libraries' handles and choices of kernels.
WARM_UP_STEPS = 3

Step = Callable[[Tensor, torch.Generator], None]


class CudaRecorder:
    """Captures steps, on the stream on which they run.

    Parameters
    ----------
    device : torch.device
        A CUDA device.
    rng : torch.Generator
        The generator on `device` from which steps draw, in addition to torch's default one.
    """

    def __init__(self, device: torch.device, rng: torch.Generator) -> None:
        self.device, self.rng = device, rng
        # Autograd remembers the stream on which a weight was first used. The steps before a
        # capture must therefore run on the capture's stream, which cannot be the default one.
        make_stream: Callable[[torch.device], torch.cuda.Stream] = torch.cuda.Stream
        self._stream = make_stream(device)
        index = torch.cuda.current_device() if device.index is None else device.index
        self._default: torch.Generator = torch.cuda.default_generators[index]
        # A replay reads its seed on the device, when the host may already have seeded a step of
        # another run. Each run therefore has its own state for torch's default generator.
        self._state = self._default.clone_state()

    @contextmanager
    def ordered(self) -> Iterator[None]:
        """Make the capture's stream wait for earlier work, and later work wait for the stream."""
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        try:
            yield
        finally:
            torch.cuda.current_stream(self.device).wait_stream(self._stream)

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Run the block on the capture's stream, with its own random state."""
        with torch.cuda.device(self.device), torch.cuda.stream(self._stream):
            outside = self._default.graphsafe_get_state()
            self._default.graphsafe_set_state(self._state)
            try:
                yield
            finally:
                self._default.graphsafe_set_state(outside)

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Capture the device operations of `work` without running them; return their replay."""
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.rng)
        # Garbage collection during the capture could break it.
        gc.collect()
        with torch.cuda.graph(graph, stream=self._stream):
            work()
        return graph.replay


@dataclass
class _Kind:
    """Steps with the same device operations: their number so far, and their capture."""

    taken: int = 0
    images: Tensor = field(default_factory=lambda: torch.empty(0))
    losses: dict[str, Tensor] = field(default_factory=dict)
    replay: Callable[[], None] | None = None


class GraphedSteps:
    """Runs the training steps: the first ones of each kind directly, the others as replays.

    Parameters
    ----------
    optimizers : Optimizers
        They hold the losses of each step, also after a replay, in tensors that the next replay
        overwrites.
    rng : torch.Generator
        Passed to every step, and seeded by the caller before each one.
    autocast : callable
        Returns the autocast context of a step. It is entered inside the capture, so that every
        replay casts the weights again.
    """

    def __init__(
        self,
        optimizers: Optimizers,
        rng: torch.Generator,
        autocast: Callable[[], AbstractContextManager[object]],
    ) -> None:
        self._optimizers, self._rng, self._autocast = optimizers, rng, autocast
        self._recorder = CudaRecorder(optimizers.accelerator.device, rng)
        self._step: Step | None = None
        self._kinds: dict[bool, _Kind] = {}

    def ordered(self) -> AbstractContextManager[None]:
        """Return the context of a whole run, during which other runs may take steps.

        Its steps run after earlier work on the device and before later work.
        """
        return self._recorder.ordered()

    def stream(self) -> AbstractContextManager[None]:
        """Return the context for taking steps and for reading their results.

        It can be entered once for many steps, or for each step.
        """
        return self._recorder.stream()

    def take(self, step: Step, batch: Tensor, *, does_more: bool = True) -> None:
        """Take `step` on the images `batch` (B, C, H, W), whose shape is fixed for each `step`.

        A different `step` starts a new phase and frees the captures of the last one. Steps that do
        more than the others of their phase have their own capture.
        """
        if step is not self._step:
            self._step, self._kinds = step, {}
        kind = self._kinds.setdefault(does_more, _Kind())
        kind.taken += 1
        if kind.taken <= WARM_UP_STEPS:
            self._run(step, batch)
            return
        if kind.replay is None:
            kind.images = batch.clone()
            kind.replay = self._recorder.record(lambda: self._run_capturable(step, kind.images))
            kind.losses = self._optimizers.losses
        else:
            kind.images.copy_(batch)
        kind.replay()
        self._optimizers.losses = dict(kind.losses)

    def _run(self, step: Step, images: Tensor) -> None:
        with self._autocast():
            step(images, self._rng)

    def _run_capturable(self, step: Step, images: Tensor) -> None:
        with self._optimizers.capturable():
            self._run(step, images)
