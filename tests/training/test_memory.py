from __future__ import annotations

import json
import platform
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from adcgan.training.memory import memory_kept

ENTRIES = 16 * 2**20


def faults_of_a_new_tensor() -> int:
    """Return how many pages the system hands out for a tensor of 64 MiB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(ENTRIES).add_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_used_again_inside_and_given_back_afterwards() -> None:
    # What else is allocated can land in the gap that one tensor leaves, so some are tried.
    with memory_kept():
        inside = min(faults_of_a_new_tensor() for _ in range(8))
    outside = min(faults_of_a_new_tensor() for _ in range(8))
    # Pages are of 4 KiB, or larger ones where the system merges them.
    assert inside < outside / 4


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_many_images_stay_in_the_mapped_file(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "scale.py"
    out = tmp_path / "memory.json"
    options = ["--images", "20000", "--folder", str(tmp_path), "--out", str(out)]
    subprocess.run([sys.executable, str(script), "memory", *options], check=True)
    (row,) = json.loads(out.read_text())["rows"]
    assert row["images"] == 20_000
    assert row["own_mib_at_peak"] < 2048
