"""Processes that answer one message after another, and may crash without harm to others.

A `Child` starts a fresh interpreter and calls a function of a module there, with a `Parent` to
talk to. It imports nothing else, above all not the script that runs here. Messages are bytes, so
that nothing a child sends can do harm unless its receiver unpickles it.
"""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import chain
from queue import SimpleQueue
from typing import IO

# Before a message comes its length.
_LENGTH = struct.Struct("<Q")
# The path comes first, or modules of the same names in the working folder would be imported.
_CODE = "import sys; sys.path[:] = {!r}; from {} import {} as main; main()"


class Child:
    """A process that answers messages until it is killed, or this process ends, however it does.

    It starts with the first message, and after `kill` with the next.

    Parameters
    ----------
    main : callable
        What runs there: a function without parameters that makes a `Parent`.
    first : bytes
        The first message to every new process.
    answered : callable
        Is given each message of the process, in another thread, and None if it ended by itself.
    environment : mapping, optional
        Environment variables of the process, unless there are others of these names here.
    """

    def __init__(
        self,
        main: Callable[[], None],
        first: bytes,
        answered: Callable[[bytes | None], None],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._main, self._first, self._answered = main, first, answered
        self._environment = environment or {}
        self._process: subprocess.Popen[bytes] | None = None

    def send(self, message: bytes) -> None:
        """Send a message. If the process has ended, that is told as an answer."""
        if self._process is None:
            code = _CODE.format(sys.path, self._main.__module__, self._main.__name__)
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**self._environment, **os.environ},
            )
            self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
            self._reader.start()
            _write(self._process.stdin, self._first)
        _write(self._process.stdin, message)

    def kill(self) -> int:
        """End the process at once, if there is one, and return its exit code."""
        if self._process is None:
            return 0
        process, self._process = self._process, None
        process.kill()
        self._reader.join()
        # Closing flushes, which fails if not all was read.
        with suppress(OSError), process:
            pass
        return process.returncode

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for message in chain(_messages(process.stdout), [None]):
            # What was still under way when the process was killed is dropped.
            if self._process is process:
                self._answered(message)


class Parent:
    """The process that started this one as its `Child`.

    What else this process prints goes to standard error. Ctrl-C, which reaches the whole group of
    processes, is left to the parent.

    Attributes
    ----------
    messages : queue.SimpleQueue of bytes
        What the parent has sent and this process has not yet taken.
    """

    def __init__(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.messages: SimpleQueue[bytes] = SimpleQueue()
        self._answers = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        threading.Thread(target=self._receive, daemon=True).start()

    def send(self, message: bytes) -> None:
        """Send a message."""
        _write(self._answers, message)

    def _receive(self) -> None:
        for message in _messages(sys.stdin.buffer):
            self.messages.put(message)
        # The parent is gone.
        os._exit(1)


def _write(pipe: IO[bytes] | None, message: bytes) -> None:
    assert pipe is not None
    with suppress(BrokenPipeError, ConnectionResetError):
        pipe.write(_LENGTH.pack(len(message)) + message)
        pipe.flush()


def _messages(pipe: IO[bytes]) -> Iterator[bytes]:
    """Yield the messages that arrive whole."""
    while len(head := pipe.read(_LENGTH.size)) == _LENGTH.size:
        message = pipe.read(*_LENGTH.unpack(head))
        if (len(message),) == _LENGTH.unpack(head):
            yield message
