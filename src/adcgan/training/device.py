"""Device, precision, processes and trackers of a run, through Accelerate."""

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
    """Return the device named `device`; "auto" prefers CUDA, then MPS, then the CPU.

    Raises
    ------
    InputError
        This machine has no such device.
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
            f"The 'device' parameter must be 'auto', 'cpu' or a device on this machine. "
            f"Got {device!r} instead ({reason})."
        ) from None
    return resolved


def make_accelerator(
    device: str,
    precision: str,
    *,
    bf16_on_cpus: str = "",
    trackers: Sequence[str] = (),
    folder: Path | None = None,
) -> Accelerator:
    """Create the `Accelerator` of a run.

    Parameters
    ----------
    device : str
        "auto" or a device name. Under ``accelerate launch``, each process uses its own device.
    precision : {"auto", "float32", "bf16"}
        "auto" means bf16 on CUDA devices that support it and float32 elsewhere.
    bf16_on_cpus : {"", "avx512", "amx"}
        Instructions for bf16 with which "auto" also means bf16 on CPUs: AVX-512 BF16, which CPUs
        with AMX have too, or AMX. "" means float32 on all CPUs.
    trackers : sequence of str
        Experiment trackers that Accelerate supports: "tensorboard", "wandb", "mlflow".
    folder : Path or None
        The run's folder, where trackers write their files.
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
            or (target.type == "cpu" and bf16_on_cpus in bf16_instructions())
        )
    )
    if not torch.distributed.is_initialized():
        # Accelerate has a global state; unless it is reset, a run on another device fails.
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


def bf16_instructions() -> tuple[str, ...]:
    """Return this CPU's instructions for bf16: "avx512" (AVX-512 BF16) and "amx", or none."""
    found = {
        "avx512": torch.cpu._is_avx512_bf16_supported,
        "amx": torch.cpu._is_amx_tile_supported,
    }
    return tuple(name for name, is_supported in found.items() if is_supported())


def precision_of(accelerator: Accelerator) -> str:
    """Return the training precision of a run: "bf16" or "float32"."""
    return "bf16" if accelerator.mixed_precision == "bf16" else "float32"


def autocast_of(accelerator: Accelerator) -> Callable[[], AbstractContextManager[object]]:
    """Return a function that makes the autocast context for the steps of a run.

    Call this when the run starts: Accelerate keeps one precision per process, that of the latest
    accelerator, and a process may train several detectors in turns.
    """
    if precision_of(accelerator) == "float32":
        return nullcontext
    return partial(torch.autocast, accelerator.device.type, dtype=torch.bfloat16)


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute float32 convolutions on CUDA devices in float32, not in TF32, torch's default.

    TF32 keeps 10 mantissa bits of the operands of a product; float32 has 23.
    """
    cudnn = torch.backends.cudnn
    # Torch up to 2.8 has a single switch; later versions have a precision per kind of operation.
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
    """Restore torch's random state on all devices afterwards."""
    # List the devices explicitly, as torch warns if there are several.
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        yield


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Flush denormals to zero on CPUs, where they can halve the speed of a step."""
    before = bool(torch.tensor([1e-40]).mul(1.0).item() == 0.0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)
