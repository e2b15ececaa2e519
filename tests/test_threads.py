"""Idle threads of OpenMP beside other programs."""

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from adcgan import threads
from adcgan.threads import ALONE, CROWDED, LOOKS, ConsiderateThreads, share_the_cores

# What the main thread and the others take, of the processor's time, for parallel additions with
# pauses between them; with more threads than cores or without.
SPINNING = """
import sys, time
import torch
from adcgan.threads import ConsiderateThreads

considerate = ConsiderateThreads()
if sys.argv[1] == "brief":
    considerate.decide(1.0)
    while torch.get_num_threads() < 2:
        pass
    time.sleep(1)
x = torch.zeros(1 << 18)
x.add_(1)
before = time.process_time() - time.thread_time()
for _ in range(200):
    x.add_(1)
    time.sleep(0.005)
print(time.process_time() - time.thread_time() - before, float(x.sum()))
"""
BUSY = "while True: pass"


def environment(n_threads: int) -> dict[str, str]:
    """Return the environment of a process with so many threads, and nothing set about spinning."""
    unset = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}
    kept = {name: value for name, value in os.environ.items() if name not in unset}
    return {**kept, "OMP_NUM_THREADS": str(n_threads)}


def run_spinning(mode: str) -> tuple[float, float]:
    """Return what the idle threads took of the processor, in seconds, and what was computed."""
    done = subprocess.run(
        [sys.executable, "-c", SPINNING, mode],
        capture_output=True,
        text=True,
        check=True,
        env=environment(2),
        timeout=60,
    )
    taken, total = map(float, done.stdout.split())
    return taken, total


def uses_libgomp() -> bool:
    """Say whether torch computes with GCC's OpenMP, and there is more than one core."""
    maps = Path("/proc/self/maps")
    torch.zeros(1 << 18).add_(1)
    loaded = maps.exists() and re.search(r"/libgomp[^/]*\.so", maps.read_text())
    return bool(loaded) and len(os.sched_getaffinity(0)) > 1


@pytest.mark.skipif(not uses_libgomp(), reason="one core, or not GCC's OpenMP")
def test_more_threads_than_cores_leave_the_cores_to_others_and_the_result_alone() -> None:
    long, total = run_spinning("long")
    brief, same = run_spinning("brief")
    assert same == total
    assert brief < long / 3


def test_threads_spin_briefly_while_others_want_the_cores() -> None:
    considerate = ConsiderateThreads()
    considerate.decide(CROWDED / 2)
    assert not considerate.brief
    considerate.decide(CROWDED * 2)
    assert considerate.brief
    for _ in range(LOOKS - 1):
        considerate.decide(ALONE / 2)
    considerate.decide(ALONE * 2)  # somebody is there again
    for _ in range(LOOKS - 1):
        considerate.decide(ALONE / 2)
    assert considerate.brief
    considerate.decide(ALONE / 2)
    assert not considerate.brief


def test_the_team_ends_once_the_others_have() -> None:
    def teams() -> list[threading.Thread]:
        return [each for each in threading.enumerate() if each.name == "openmp-team"]

    considerate = ConsiderateThreads()
    considerate.decide(1.0)
    kept = teams()
    assert kept
    for _ in range(LOOKS):
        considerate.decide(0.0)
    for team in kept:
        team.join(10)
    assert not teams()


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="waiting is not told")
def test_busy_processes_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "PERIOD", 0.1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    considerate = ConsiderateThreads()
    threading.Thread(target=considerate.watch, daemon=True).start()
    others = [
        subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(2 * (os.cpu_count() or 1))
    ]
    try:
        end = time.monotonic() + 30
        while not considerate.brief and time.monotonic() < end:
            pass
        assert considerate.brief
    finally:
        for other in others:
            other.kill()
            other.wait()


@pytest.mark.parametrize("name", ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"])
def test_what_the_user_has_set_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    assert not share_the_cores()


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="waiting is not told")
@pytest.mark.parametrize(("n_threads", "watched"), [(2, True), (1, False)])
def test_the_command_line_shares_the_cores(n_threads: int, watched: bool) -> None:
    command = [
        "import atexit, sys, threading",
        "from adcgan.cli import main",
        "atexit.register(lambda: print([each.name for each in threading.enumerate()]))",
        "sys.argv[1:] = ['detectors']",
        "main()",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "; ".join(command)],
        capture_output=True,
        text=True,
        check=True,
        env=environment(n_threads),
        timeout=60,
    )
    assert ("share-the-cores" in done.stdout) is watched
