"""Child processes that are told what to do, and may be lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from types import ModuleType

import psutil
import pytest

from adcgan.processes import Child

# Answers with its name and what it was told; some messages do more.
PROGRAM = """
import os, signal, sys, time
from adcgan.processes import Parent

def main():
    parent = Parent()
    name = parent.messages.get()
    print("what is printed is no message", flush=True)
    while True:
        message = parent.messages.get()
        if message == b"exit":
            os._exit(7)
        if message == b"die in an answer":
            os.write(parent._answers.fileno(), b"\\x40" + bytes(7) + b"cut")
            os.kill(os.getpid(), signal.SIGKILL)
        if message == b"hang":
            parent.send(str(os.getpid()).encode())
            time.sleep(600)
        if message == b"threads":
            message = os.environ.get("OMP_NUM_THREADS", "").encode()
        if message == b"main":
            message = sys.modules["__main__"].__dict__.get("OURS", "another").encode()
        parent.send(name + b" " + message)
"""
SCRIPT = """
import os, queue, signal, sys
import program
from adcgan.processes import Child

OURS = "this script"
answers = queue.SimpleQueue()
child = Child(program.main, b"script", answers.put)
child.send(b"main")
print(answers.get(), flush=True)
child.send(b"hang")
print(int(answers.get()), flush=True)
os.kill(os.getpid(), int(sys.argv[1]))
"""
START = Callable[..., "tuple[Child, SimpleQueue[bytes | None]]"]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    (tmp_path / "program.py").write_text(PROGRAM)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("program", None)
    import program

    yield program
    del sys.modules["program"]


@pytest.fixture
def start(program: ModuleType) -> Iterator[START]:
    started = []

    def start(**keywords: dict[str, str]) -> tuple[Child, SimpleQueue[bytes | None]]:
        answers: SimpleQueue[bytes | None] = SimpleQueue()
        started.append(Child(program.main, b"first", answers.put, **keywords))
        return started[-1], answers

    yield start
    for child in started:
        child.kill()


def test_messages_of_any_size_are_answered_in_turn(start: START) -> None:
    child, answers = start()
    for message in (b"", b"\x00\n", bytes(5_000_000)):
        child.send(message)
        assert answers.get(timeout=30) == b"first " + message


def test_an_ended_process_is_told_and_replaced_by_one_with_the_same_first_message(
    start: START,
) -> None:
    child, answers = start()
    child.send(b"exit")
    assert answers.get(timeout=30) is None
    # One that has ended takes no messages, and nothing is raised.
    child.send(b"lost")
    assert child.kill() == 7
    child.send(b"again")
    assert answers.get(timeout=30) == b"first again"


def test_an_answer_that_was_cut_off_is_none(start: START) -> None:
    child, answers = start()
    child.send(b"die in an answer")
    assert answers.get(timeout=30) is None
    assert child.kill() == -signal.SIGKILL


def test_after_a_kill_nothing_of_the_old_process_is_told(start: START) -> None:
    child, answers = start()
    child.send(b"hang")
    pid = int(answers.get(timeout=30) or b"")
    child.send(b"never taken")
    assert child.kill() == -signal.SIGKILL
    assert child.kill() == 0
    assert not psutil.pid_exists(pid)
    assert answers.empty()


def test_variables_of_the_user_come_before_those_given(
    start: START, monkeypatch: pytest.MonkeyPatch
) -> None:
    for ours, theirs in ((None, b"3"), ("1", b"1")):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if ours:
            monkeypatch.setenv("OMP_NUM_THREADS", ours)
        child, answers = start(environment={"OMP_NUM_THREADS": "3"})
        child.send(b"threads")
        assert answers.get(timeout=30) == b"first " + theirs


@pytest.mark.usefixtures("program")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_the_process_that_started_it_and_imports_no_script_or_shadow(
    tmp_path: Path, how: signal.Signals
) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "struct.py").write_text("raise SystemExit('the wrong struct')")
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py", str(how.value)],
        cwd=tmp_path / "elsewhere",
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    main, pid = done.stdout.splitlines()
    assert main == "b'script another'"
    deadline = time.monotonic() + 10
    while psutil.pid_exists(int(pid)) and psutil.Process(int(pid)).status() != "zombie":
        assert time.monotonic() < deadline
        time.sleep(0.02)
