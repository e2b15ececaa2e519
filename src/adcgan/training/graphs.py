"""Training steps as CUDA graphs: captured once for each kind, then replayed for every batch.

A replay starts all kernels of a step at once, where Python starts them one by one. It reads the
batch from a buffer that stays where it is, and the seeds of its random numbers from the generators
as they are at that moment, so a step draws what it would draw outside a graph.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from adcgan.training.optimizers import Optimizers

# Steps of a kind before its capture. They are real steps; the first ones also create what must be
# there before a capture: Adam's moments, the libraries' handles and their choice of kernels.
WARM_UP_STEPS = 3

Step = Callable[[Tensor, torch.Generator], None]


class CudaRecorder:
    """The stream that steps are taken and captured on, and the capture.

    Parameters
    ----------
    device : torch.device
        A CUDA device.
    rng : torch.Generator
        The generator on `device` that steps draw from, beside torch's own.
    """

    def __init__(self, device: torch.device, rng: torch.Generator) -> None:
        self.device, self.rng = device, rng
        # Autograd remembers the stream that a weight was first used on, so the steps before a
        # capture are taken on the stream of the capture, and that cannot be the default one.
        make_stream: Callable[[torch.device], torch.cuda.Stream] = torch.cuda.Stream
        self._stream = make_stream(device)
        index = torch.cuda.current_device() if device.index is None else device.index
        self._default: torch.Generator = torch.cuda.default_generators[index]
        # A replay reads its seed on the device, while the host may have seeded another run's
        # step already. So torch's own generator has a state for each run.
        self._state = self._default.clone_state()

    @contextmanager
    def ordered(self) -> Iterator[None]:
        """Let the capture's stream begin after what is under way, and what follows after it."""
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        try:
            yield
        finally:
            torch.cuda.current_stream(self.device).wait_stream(self._stream)

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Do everything in the block on the capture's stream, with random numbers of its own."""
        with torch.cuda.device(self.device), torch.cuda.stream(self._stream):
            outside = self._default.graphsafe_get_state()
            self._default.graphsafe_set_state(self._state)
            try:
                yield
            finally:
                self._default.graphsafe_set_state(outside)

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Capture what `work` asks of the device, without doing it; return what replays it."""
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.rng)
        # What Python would happen to clean up during the capture could break it.
        gc.collect()
        with torch.cuda.graph(graph, stream=self._stream):
            work()
        return graph.replay


@dataclass
class _Kind:
    """Steps that ask the same of the device: how many were taken, and what their capture holds."""

    taken: int = 0
    images: Tensor = field(default_factory=lambda: torch.empty(0))
    losses: dict[str, Tensor] = field(default_factory=dict)
    replay: Callable[[], None] | None = None


class GraphedSteps:
    """Takes the steps of a run: the first of each kind one by one, the others as replays.

    Parameters
    ----------
    optimizers : Optimizers
        Whose losses every step leaves behind, those of a replay too. They are tensors that the
        next replay overwrites.
    rng : torch.Generator
        Given to every step; seeded by the caller before each.
    autocast : callable
        Returns the context of precision that a step is computed in. It is entered inside the
        capture, so that weights are cast anew in every replay.
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
        """Return the context of a whole run, in which other runs may take steps of their own.

        Its steps come after what is under way as it begins, and before what follows it.
        """
        return self._recorder.ordered()

    def stream(self) -> AbstractContextManager[None]:
        """Return the context that every step and all that reads its results must be in.

        It is entered once for many steps, or for each anew.
        """
        return self._recorder.stream()

    def take(self, step: Step, batch: Tensor, *, does_more: bool = True) -> None:
        """Take `step` on the images `batch` (B, C, H, W), of one shape as long as `step` is one.

        With another `step` than before a phase begins, and the last one's captures are let go.
        Steps that do more than the others of their phase have a capture of their own.
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
