"""Weight updates, guarded against losses that are not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from adcgan.errors import DivergedError

if TYPE_CHECKING:
    from accelerate import Accelerator


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Disable gradients for the weights of `network` within the block."""
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


class _GuardedAdam(torch.optim.Adam):
    """Fused Adam that skips an update if `found_inf` is not 0."""

    grad_scale: Tensor | None = None
    found_inf: Tensor | None = None


class Optimizers:
    """The named Adam optimizers of a run.

    A loss that is not finite freezes all weights from that update on, without synchronising with
    the device: fused Adam skips updates if its ``found_inf`` flag is set, and the flag is never
    cleared. `raise_if_diverged` reads it when the host needs to know.

    Parameters
    ----------
    parameters : mapping of str to iterable of Parameter
        Parameters of each optimizer. A parameter may belong to several optimizers.
    learning_rates : mapping of str to float
        Learning rate of each optimizer.
    betas : (float, float)
        Adam's decay rates.
    weight_decay : mapping of str to float, optional
        L2 regularisation by optimizer: the factor with which each weight is added to its gradient.
        The default is 0.
    decay : callable or None
        Takes the step number and returns the factor on the learning rates.
    accelerator : Accelerator
        Determines device, precision and processes; gradients are averaged over processes.
    """

    def __init__(
        self,
        parameters: Mapping[str, Iterable[nn.Parameter]],
        learning_rates: Mapping[str, float],
        *,
        betas: tuple[float, float] = (0.5, 0.999),
        weight_decay: Mapping[str, float] | None = None,
        decay: Callable[[int], float] | None = None,
        accelerator: Accelerator,
    ) -> None:
        self.accelerator = accelerator
        self.parameters = {name: list(values) for name, values in parameters.items()}
        # Fused Adam on CPUs copies tensors that are not stored in the order of their dimensions,
        # so pass it views in storage order.
        self._stored = {
            name: [_as_stored(p.detach(), like=p) for p in values]
            for name, values in self.parameters.items()
        }
        decays = weight_decay or {}
        self.named = {
            name: _GuardedAdam(
                values,
                lr=learning_rates[name],
                betas=betas,
                weight_decay=decays.get(name, 0),
                fused=True,
            )
            for name, values in self._stored.items()
        }
        self._learning_rates, self._decay = learning_rates, decay
        if decay is not None:
            # On the device, so that a captured step reads the rate of the step it is replayed for.
            for name, optimizer in self.named.items():
                rate = torch.tensor(learning_rates[name], device=accelerator.device)
                optimizer.param_groups[0]["lr"] = rate
        self._step = 0
        self.losses: dict[str, Tensor] = {}
        # On the device: whether weights are frozen, also as the number that Adam expects; the last
        # step that started before that; the losses of each update until then, including the bad
        # ones, and as many zeros.
        self._is_frozen = torch.zeros((), dtype=torch.bool, device=accelerator.device)
        self._frozen = torch.zeros((), device=accelerator.device)
        self._last_step = torch.zeros((), dtype=torch.int64, device=accelerator.device)
        self._last: dict[tuple[str, ...], tuple[Tensor, Tensor]] = {}
        self._one = torch.ones((), device=accelerator.device)

    @property
    def step(self) -> int:
        """Number of the current step, set by the loop."""
        return self._step

    @step.setter
    def step(self, number: int) -> None:
        self._step = number
        self._last_step.masked_fill_(~self._is_frozen, number)
        if self._decay is None:
            return
        factor = self._decay(number)
        for name, optimizer in self.named.items():
            optimizer.param_groups[0]["lr"].fill_(factor * self._learning_rates[name])

    @contextmanager
    def capturable(self) -> Iterator[None]:
        """Allow updates in the block to be captured in a CUDA graph.

        Everything that fused Adam reads and writes is on the device anyway, but torch requires a
        flag for capturing and warns if the flag is set without capturing.
        """
        groups = [group for optimizer in self.named.values() for group in optimizer.param_groups]
        for group in groups:
            group["capturable"] = True
        try:
            yield
        finally:
            for group in groups:
                group["capturable"] = False

    def update(self, name: str, losses: Mapping[str, Tensor]) -> None:
        """Update with optimizer `name` on the sum of the 0-d tensors `losses`.

        Each loss is available as ``"{name}/{loss}"`` in `self.losses` until the next step.
        """
        values = [loss.float() for loss in losses.values()]
        self._watch([f"{name}/{key}" for key in losses], values)
        parameters = self.parameters[name]
        # Autograd sums the gradients of several losses.
        gradients: Sequence[Tensor | None] = torch.autograd.grad(
            values, parameters, [self._one] * len(values), allow_unused=True
        )
        if self.accelerator.num_processes > 1:
            gradients = self._averaged(gradients)
        for parameter, weight, gradient in zip(
            parameters, self._stored[name], gradients, strict=True
        ):
            weight.grad = (
                None if gradient is None else _as_stored(gradient, like=parameter).contiguous()
            )
        optimizer = self.named[name]
        optimizer.found_inf = self._frozen
        optimizer.step()

    @torch.no_grad()
    def _watch(self, keys: list[str], losses: list[Tensor]) -> None:
        """Record losses and freeze the weights if one of them is not finite."""
        values = torch.stack(losses)
        self.losses.update(zip(keys, values.unbind(), strict=True))
        if tuple(keys) not in self._last:
            self._last[tuple(keys)] = torch.zeros_like(values), torch.zeros_like(values)
        last, zeros = self._last[tuple(keys)]
        torch.where(self._is_frozen, last, values, out=last)
        # 0 times a non-finite number is NaN, the only value that differs from itself.
        sign = torch.dot(last, zeros)
        bad = sign != sign
        if self.accelerator.num_processes > 1:
            bad = self.accelerator.reduce(bad.float(), "sum") > 0
        self._is_frozen.logical_or_(bad)
        self._frozen.copy_(self._is_frozen)

    def _averaged(self, gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Average each gradient over the processes in a single exchange."""
        found = [gradient for gradient in gradients if gradient is not None]
        flat = self.accelerator.reduce(torch.cat([g.flatten() for g in found]), "mean")
        means = iter(flat.split([g.numel() for g in found]))
        return [None if g is None else next(means).view_as(g) for g in gradients]

    def raise_if_diverged(self) -> None:
        """Raise `DivergedError` naming the first loss that was not finite, and its step."""
        if not bool(self._is_frozen):
            return
        for keys, (values, _) in self._last.items():
            for key, value in zip(keys, values.tolist(), strict=True):
                if not math.isfinite(value):
                    raise DivergedError(
                        f"Training diverged: the loss {key!r} is not finite at step "
                        f"{int(self._last_step)}. The weights from before that step were kept."
                    )
        raise DivergedError("Training diverged in another process.")


def _as_stored(tensor: Tensor, like: Tensor) -> Tensor:
    """Return a view whose dimensions are in the storage order of `like`."""
    if like.is_contiguous() or not like.is_contiguous(memory_format=torch.channels_last):
        return tensor
    return tensor.permute(0, 2, 3, 1)
