from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

# Page faults, one for each page that the system hands out, for new tensors of 64 MiB.
FAULTS = """
import resource, torch
from adcgan.training.memory import memory_kept

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(16 * 2**20).add_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

usual = faults()
with memory_kept():
    inside = [faults() for _ in range(8)]
print(usual, min(inside), faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_used_again_inside_and_given_back_afterwards() -> None:
    # In a process of its own: gaps that other tests leave in the heap are used before new pages.
    result = subprocess.run(
        [sys.executable, "-c", FAULTS], check=True, capture_output=True, text=True
    )
    usual, inside, afterwards = map(int, result.stdout.split())
    if not usual:
        pytest.skip("this system does not count page faults")
    # Pages are of 4 KiB, or larger ones where the system merges them.
    assert inside < usual / 4
    assert inside < afterwards / 4


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
