"""What a measurement was made on: hardware, date, commit, versions, threads."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import date
from pathlib import Path
from typing import Any

import torch

from adcgan.training.runlog import hardware, versions


def circumstances() -> dict[str, Any]:
    """Return hardware, date, commit, versions and threads as JSON values."""
    return {
        "date": date.today().isoformat(),
        "commit": _commit(),
        "hardware": hardware(torch.device("cpu")) | {"memory_gib": _memory_gib()},
        "system": platform.platform(),
        "versions": versions(),
        "load_at_end": os.getloadavg()[0],
    }


def sentence(result: dict[str, Any]) -> str:
    """Return the circumstances in words."""
    machine, told = result["hardware"], result["versions"]
    return (
        f"{machine['name']}, {machine['cpus']} CPUs, {machine['threads']} threads; "
        f"torch {told['torch']}, Python {told['python']}; {result['date']}, commit "
        f"{result['commit']}; `{result['command']}`."
    )


def _commit() -> str:
    """Return the commit that is checked out, with "+" where files of the package were changed."""
    here = Path(__file__).parent
    try:
        head = _git("rev-parse", "--short", "HEAD", where=here)
        changed = _git("status", "--porcelain", "../src", where=here)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if changed else "")


def _git(*arguments: str, where: Path) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=where, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def _memory_gib() -> float:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
