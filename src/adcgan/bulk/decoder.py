"""Decoding in a separate process, which an image may crash or hang without harm to others.

``python -m adcgan.bulk.decoder TARGET`` answers requests on its standard input until that ends.
Decoders are large programs in C that read what strangers made: one in many million images crashes
the process. Here only that image is lost, and becomes a row with its error.
"""

from __future__ import annotations

import json
import os
import select
import signal
import struct
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from adcgan.data.image_file import Target, decode_file, quiet_pillow, reason

# Most time for one image.
SECONDS = 60.0
# A message is one byte for its kind, its length, and that many bytes.
_HEAD = struct.Struct("<cQ")
_PATH, _CONTENT = b"p", b"c"
_PIXELS, _ERROR = b"+", b"-"
# Height and width, before the pixels.
_SIDES = struct.Struct("<II")


class Decoder:
    """Decodes images one at a time, in a process that it talks to through pipes.

    The process starts with the first image, and again after one that ended it. It ends when this
    object is closed, or when the process that holds it ends, however that happens.

    Parameters
    ----------
    target : Target
        Size and channels of the pixels; `channels` must not be None.
    seconds : float
        Most time for one image.
    """

    def __init__(self, target: Target, seconds: float = SECONDS) -> None:
        assert target.channels is not None
        self._target, self._seconds = target, seconds
        self._process: subprocess.Popen[bytes] | None = None

    def decode(self, source: bytes, *, is_path: bool) -> NDArray[np.uint8] | str:
        """Return the pixels (C, H, W) of an image, or why it has none.

        `source` is the content of its file or, if `is_path`, the path on this machine.
        """
        process = self._process = self._process or self._start()
        assert process.stdin is not None
        deadline = time.monotonic() + self._seconds
        try:
            process.stdin.write(_HEAD.pack(_PATH if is_path else _CONTENT, len(source)) + source)
            process.stdin.flush()
            kind, length = _HEAD.unpack(self._receive(_HEAD.size, deadline))
            answer = self._receive(length, deadline)
        except TimeoutError:
            self._end()
            return f"decoding it took more than {self._seconds:g} seconds"
        except (EOFError, BrokenPipeError):
            return f"decoding it ended the decoder's process ({_how(self._end())})"
        if kind == _ERROR:
            return str(answer, "utf-8")
        height, width = _SIDES.unpack_from(answer)
        return np.frombuffer(answer, np.uint8, offset=_SIDES.size).reshape(-1, height, width)

    def close(self) -> None:
        """End the process, if one is running."""
        if self._process is not None:
            self._end()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", __name__, json.dumps(asdict(self._target))]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def _end(self) -> int:
        """End the process at once, and return its exit code."""
        assert self._process is not None
        process, self._process = self._process, None
        # Flushing the pipe fails if the process no longer reads.
        with suppress(BrokenPipeError), process:
            process.kill()
        return process.returncode

    def _receive(self, length: int, deadline: float) -> bytes:
        """Read `length` bytes of the answer, or raise `EOFError` or `TimeoutError`."""
        assert self._process is not None
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        received = bytearray()
        while len(received) < length:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([descriptor], [], [], left)[0]:
                raise TimeoutError
            part = os.read(descriptor, length - len(received))
            if not part:
                raise EOFError
            received += part
        return bytes(received)


def _how(code: int) -> str:
    """Describe how a process ended."""
    try:
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    except ValueError:
        return f"signal {-code}"


def main() -> None:
    """Answer requests on standard input until it ends."""
    target = Target(**json.loads(sys.argv[1]))
    # What a decoder prints must not mix with the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with quiet_pillow():
        while head := sys.stdin.buffer.read(_HEAD.size):
            kind, length = _HEAD.unpack(head)
            source = sys.stdin.buffer.read(length)
            try:
                pixels = _decoded(kind, source, target)
                done, content = _PIXELS, _SIDES.pack(*pixels.shape[1:]) + pixels.tobytes()
            except Exception as error:
                # Decoders raise almost anything on broken files.
                done, content = _ERROR, reason(error).encode("utf-8", "backslashreplace")
            answers.write(_HEAD.pack(done, len(content)) + content)
            answers.flush()


def _decoded(kind: bytes, source: bytes, target: Target) -> NDArray[np.uint8]:
    """Return the pixels of a file, given by its path or its content."""
    if not (os.path.getsize(source) if kind == _PATH else source):
        raise ValueError("the file is empty")
    return decode_file(os.fsdecode(source) if kind == _PATH else BytesIO(source), target)


if __name__ == "__main__":
    main()
