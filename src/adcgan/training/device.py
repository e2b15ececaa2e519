"""Where and how a run computes: device, precision, processes and trackers, through Accelerate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from adcgan.errors import InputError
from adcgan.training.trackers import check_trackers

if TYPE_CHECKING:
    from accelerate import Accelerator

PRECISIONS = ("auto", "float32", "bf16")


def resolve_device(device: str) -> torch.device:
    """Return the device called `device`; "auto" takes CUDA, then MPS, then the CPU.

    Raises
    ------
    InputError
        There is no such device on this machine.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"The 'device' parameter must be 'auto', 'cpu' or a device of this machine. "
            f"Got {device!r} instead ({reason})."
        ) from None
    return resolved


def make_accelerator(
    device: str,
    precision: str,
    *,
    bf16_on_cpus: bool = False,
    trackers: Sequence[str] = (),
    folder: Path | None = None,
) -> Accelerator:
    """Return the Accelerate object of one run.

    Parameters
    ----------
    device : str
        "auto", or a device name. Under ``accelerate launch`` each process takes its own.
    precision : {"auto", "float32", "bf16"}
        "auto" is bf16 on CUDA devices that compute in it, float32 elsewhere.
    bf16_on_cpus : bool
        Whether "auto" is bf16 on CPUs too, where they have instructions for it (AVX-512 BF16, AMX).
    trackers : sequence of str
        Experiment trackers that Accelerate knows: "tensorboard", "wandb", "mlflow".
    folder : Path or None
        The run's folder; trackers that write files write them there.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import ProjectConfiguration

    target = resolve_device(device)
    if precision not in PRECISIONS:
        raise InputError(
            f"The 'precision' parameter must be one of {', '.join(PRECISIONS)}. "
            f"Got {precision!r} instead."
        )
    check_trackers(trackers, folder)
    bf16 = precision == "bf16" or (
        precision == "auto"
        and (
            (target.type == "cuda" and torch.cuda.is_bf16_supported())
            or (target.type == "cpu" and bf16_on_cpus and torch.cpu._is_avx512_bf16_supported())
        )
    )
    if not torch.distributed.is_initialized():
        # Accelerate keeps one global state, and refuses a second run on another device without it.
        AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(
        mixed_precision="bf16" if bf16 else "no",
        cpu=target.type == "cpu",
        log_with=list(trackers) or None,
        project_config=ProjectConfiguration(project_dir=folder and str(folder)),
    )
    if accelerator.num_processes == 1 and target.index is not None:
        accelerator.state.device = target
    return accelerator


def precision_of(accelerator: Accelerator) -> str:
    """Return the precision that a run trains in: "bf16" or "float32"."""
    return "bf16" if accelerator.mixed_precision == "bf16" else "float32"


def autocast_of(accelerator: Accelerator) -> Callable[[], AbstractContextManager[object]]:
    """Return what makes the context of precision that the steps of a run are computed in.

    To be asked for when the run begins: Accelerate keeps one precision for a process, that of the
    object made last, and a process may train several detectors in turn.
    """
    if precision_of(accelerator) == "float32":
        return nullcontext
    return partial(torch.autocast, accelerator.device.type, dtype=torch.bfloat16)


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute float32 convolutions on CUDA devices in float32, not in TF32 as torch does by itself.

    TF32 has 10 bits of a product's operands where float32 has 23.
    """
    cudnn = torch.backends.cudnn
    # Torch up to 2.8 has one switch, a later one a precision for each kind of operation.
    owner, name, exact = (
        (cudnn.conv, "fp32_precision", "ieee")
        if hasattr(cudnn, "conv")
        else (cudnn, "allow_tf32", False)
    )
    before = getattr(owner, name)
    setattr(owner, name, exact)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Leave torch's random numbers as they were, on every device."""
    # Said explicitly, as torch warns where there are several.
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        yield


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Flush denormal numbers to zero on CPUs, where they can halve the speed of a step."""
    before = bool(torch.tensor([1e-40]).mul(1.0).item() == 0.0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)
