"""Idle threads of OpenMP, which must not keep other programs from the cores.

After each operation the idle threads of libgomp, which PyTorch computes with on Linux, spin for up
to a few milliseconds, ready for the next. Alone that is fastest. Beside another program every
operation waits for a thread that has no core, and two runs at once take many times as long as one
after the other.

How long they spin can be set only before they start, but libgomp also cuts it to a thousandth or
less while a process has more of them than it has cores (its manual, ``GOMP_SPINCOUNT``). So while
threads of this process wait for a core, so many more of them are kept, asleep. What is computed
stays the same to the byte.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from pathlib import Path

# Seconds from one look to the next.
PERIOD = 0.5
# Of the time since the last look: the share that this process's threads, taken together, waited for
# a core from which on others want the cores too, and below which nobody does.
CROWDED, ALONE = 0.1, 0.04
# Looks in a row at which nobody else wants a core, until the threads may spin again.
LOOKS = 4
# What the user may have set instead.
_SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
_TASKS = Path("/proc/self/task")
# Elements that torch adds in parallel.
_PARALLEL = 1 << 18


class ConsiderateThreads:
    """Lets idle threads spin while nobody else wants the cores.

    Attributes
    ----------
    brief : bool
        Whether they spin briefly now.
    """

    def __init__(self) -> None:
        self.brief = False
        self._quiet = 0
        self._release = threading.Event()

    def decide(self, waited: float) -> None:
        """Take notice that threads of this process waited for a core for a share of the time."""
        if not self.brief and waited > CROWDED:
            self._spin_briefly()
        elif self.brief:
            self._quiet = self._quiet + 1 if waited < ALONE else 0
            if self._quiet == LOOKS:
                self._spin_long()

    def watch(self) -> None:
        """Decide anew every half a second, for good."""
        before, then = _seconds_waited(), time.monotonic()
        while True:
            time.sleep(PERIOD)
            waited, now = _seconds_waited(), time.monotonic()
            if _computes_in_parallel():
                self.decide((waited - before) / (now - then))
            before, then = waited, now

    def _spin_briefly(self) -> None:
        """Keep teams of threads, asleep, that make them more than there are cores."""
        self.brief, self._quiet, self._release = True, 0, threading.Event()
        # Each team, as the first, has one thread that is not OpenMP's.
        started = max(1, sys.modules["torch"].get_num_threads() - 1)
        for _ in range(math.ceil(len(os.sched_getaffinity(0)) / started) - 1):
            threading.Thread(
                target=_keep_a_team, args=(self._release,), name="openmp-team", daemon=True
            ).start()

    def _spin_long(self) -> None:
        self.brief = False
        self._release.set()


def share_the_cores() -> bool:
    """Watch over the idle threads of this process from now on; say whether that can be done.

    It cannot where the system does not say how long threads waited (Linux does), and need not where
    the user has set ``GOMP_SPINCOUNT`` or ``OMP_WAIT_POLICY``, or one thread.
    """
    if any(name in os.environ for name in _SETTINGS) or os.environ.get("OMP_NUM_THREADS") == "1":
        return False
    try:
        _seconds_waited()
    except OSError:
        return False
    watch = ConsiderateThreads().watch
    threading.Thread(target=watch, name="share-the-cores", daemon=True).start()
    return True


def _seconds_waited() -> float:
    """Return how long all threads of this process together were ready to run without a core."""
    return sum(map(_nanoseconds_waited, os.listdir(_TASKS))) / 1e9


def _nanoseconds_waited(task: str) -> int:
    """Return how long a thread of this process was ready to run without a core; 0 if it has ended.

    Raises
    ------
    OSError
        If the system does not say.
    """
    try:
        return int((_TASKS / task / "schedstat").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError):
        if (_TASKS / task).exists():
            raise
        return 0


def _computes_in_parallel() -> bool:
    """Say whether torch is loaded and uses more than one thread."""
    threads = getattr(sys.modules.get("torch"), "get_num_threads", None)
    return threads is not None and threads() > 1


def _keep_a_team(release: threading.Event) -> None:
    """Start the threads that a second thread of Python computes with, and keep them asleep."""
    import torch

    torch.zeros(_PARALLEL).add_(1)
    release.wait()
