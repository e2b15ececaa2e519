"""Run logs: settings, versions and hardware at the start, then statistics as training proceeds."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from adcgan import __version__
from adcgan.errors import InputError
from adcgan.files import append_line, remove_leftovers, replacing, write_json
from adcgan.training.device import bf16_instructions

RUN_FILE, STATS_FILE = "run.json", "stats.jsonl"
Row = dict[str, Any]


def versions() -> dict[str, str]:
    """Return the versions of the packages that affect results."""
    names = ("torch", "accelerate", "numpy", "scikit-learn", "pillow", "safetensors")
    found = {name: version(name) for name in names}
    return {"adcgan": __version__, "python": platform.python_version(), **found}


def hardware(device: torch.device) -> dict[str, Any]:
    """Return the device and processor of the run."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "device": str(device),
        "name": name,
        "instructions": _instructions(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def _instructions() -> str:
    """Return the vector instructions in use, and those for bf16 if there are any."""
    found, bf16 = torch.backends.cpu.get_cpu_capability(), bf16_instructions()
    return f"{found} (bf16: {', '.join(bf16)})" if bf16 else found


def _processor() -> str:
    """Return the vendor's name of the processor or, if unknown, the architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


class RunLog:
    """Statistics of a run, in memory and, if the run has a folder, in its ``stats.jsonl``.

    Parameters
    ----------
    folder : Path or None
        The run's folder; None keeps the rows only in memory.

    Attributes
    ----------
    rows : list of dict
        All rows, each with its "step".
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.rows: list[Row] = []

    def start(
        self,
        settings: Mapping[str, Any],
        source: str,
        device: torch.device,
        in_force: Mapping[str, Any],
    ) -> None:
        """Write ``run.json``, or check that an existing one has the same settings.

        Parameters
        ----------
        settings : mapping
            Settings that must stay the same when the run is resumed, as JSON values.
        source : str
            Display name of the data.
        device : torch.device
            Device of the run.
        in_force : mapping
            What "auto" resolves to in this run, as JSON values.

        Raises
        ------
        InputError
            The folder contains a run with different settings; the message names them.
        """
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder)
        path = self.folder / RUN_FILE
        if path.exists():
            before = json.loads(path.read_text(encoding="utf-8"))["settings"]
            now = json.loads(json.dumps(settings))
            changed = sorted(
                key for key in before.keys() | now.keys() if before.get(key) != now.get(key)
            )
            if changed:
                raise InputError(
                    f"The run in {self.folder} was started with different settings: "
                    + ", ".join(f"{k} was {before.get(k)!r}, is {now.get(k)!r}" for k in changed)
                    + ". Resume it with the same settings or choose another folder."
                )
            return
        record = {"settings": settings, "source": source, "in_force": in_force}
        write_json(path, {**record, "versions": versions(), "hardware": hardware(device)})

    def rewind(self, step: int) -> None:
        """Load the rows before `step` from the folder and drop later ones."""
        if self.folder is None or not (self.folder / STATS_FILE).exists():
            return
        path = self.folder / STATS_FILE
        self.rows = [row for row in read_rows(path) if row["step"] < step]
        with replacing(path) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in self.rows))

    def append(self, row: Row) -> None:
        """Append a row atomically."""
        self.rows.append(row)
        if self.folder is not None:
            path = self.folder / STATS_FILE
            file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                append_line(path, file, json.dumps(row) + "\n")
            finally:
                os.close(file)


def read_rows(path: Path) -> list[Row]:
    """Read the rows of a JSON Lines file, ignoring an incomplete last line."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    try:
        return [json.loads(line) for line in lines]
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not a JSON Lines file: {error}") from None
