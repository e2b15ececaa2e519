"""Checkpoints of a run: one safetensors file, written atomically, with nothing pickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from adcgan.errors import InputError
from adcgan.files import replacing

FILE_NAME = "checkpoint.safetensors"


def save_checkpoint(
    path: Path, step: int, networks: nn.Module, optimizers: Mapping[str, Optimizer]
) -> None:
    """Save the state after `step` steps: all networks and the moments of all optimizers."""
    tensors = {f"networks/{key}": value for key, value in networks.state_dict().items()}
    for name, optimizer in optimizers.items():
        for index, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                tensors[f"optimizers/{name}/{index}/{key}"] = value
    with replacing(path) as temporary:
        save_file(
            {key: value.detach().cpu().contiguous() for key, value in tensors.items()},
            temporary,
            metadata={"step": json.dumps(step)},
        )


def load_checkpoint(path: Path, networks: nn.Module, optimizers: Mapping[str, Optimizer]) -> int:
    """Restore the state from `save_checkpoint` in place and return the number of steps done.

    Raises
    ------
    InputError
        The file is not a checkpoint for these networks.
    """
    try:
        with safe_open(path, framework="pt") as file:
            step = int(json.loads(file.metadata()["step"]))
            tensors = dict(zip(keys := file.keys(), map(file.get_tensor, keys), strict=True))
        networks.load_state_dict(_under("networks/", tensors))
        for name, optimizer in optimizers.items():
            _restore(optimizer, _under(f"optimizers/{name}/", tensors))
    except (SafetensorError, KeyError, RuntimeError, OSError) as error:
        raise InputError(f"The checkpoint {path} does not fit this run: {error}") from error
    return step


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the entries whose keys start with `prefix`, with the prefix removed."""
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}


def _restore(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Load the moments in `tensors`, with keys "{index}/{name}", into `optimizer`."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        place, name = key.split("/")
        state.setdefault(int(place), {})[name] = value
    content = optimizer.state_dict()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, values in state.items():
        for name, value in values.items():
            if value.dim():
                # Fused Adam reads weights and moments in memory order, so their layouts must match.
                values[name] = torch.empty_like(parameters[index]).copy_(value)
    content["state"] = state
    optimizer.load_state_dict(content)


def all_finite(networks: nn.Module) -> bool:
    """Return whether all floating-point tensors of `networks` are finite."""
    return all(
        bool(torch.isfinite(value).all())
        for value in networks.state_dict().values()
        if value.is_floating_point()
    )
