"""Decoding in a separate process, which an image may crash or hang without harm to others.

Decoders are large programs in C that read what strangers made: one in many million images crashes
the process. Here only that image is lost, and becomes a row with its error.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import struct
from dataclasses import asdict
from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from adcgan.data.image_file import Target, decode_file, quiet_pillow, reason
from adcgan.processes import Child, Parent

# Most time for one image.
SECONDS = 60.0
# The first message is the target, as JSON. Of the others the first byte says what follows.
_PATH, _CONTENT = b"p", b"c"
_PIXELS, _ERROR = b"+", b"-"
# The kind, and height and width, before the pixels.
_PIXELS_HEAD = struct.Struct("<cII")


class Decoder:
    """Decodes images one at a time, in a process of its own.

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
        self._seconds = seconds
        self._answers: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._child = Child(main, json.dumps(asdict(target)).encode(), self._answers.put)

    def decode(self, source: bytes, *, is_path: bool) -> NDArray[np.uint8] | str:
        """Return the pixels (C, H, W) of an image, or why it has none.

        `source` is the content of its file or, if `is_path`, the path on this machine.
        """
        self._child.send((_PATH if is_path else _CONTENT) + source)
        try:
            answer = self._answers.get(timeout=self._seconds)
        except queue.Empty:
            self.close()
            while not self._answers.empty():
                self._answers.get()
            return f"decoding it took more than {self._seconds:g} seconds"
        if answer is None:
            return f"decoding it ended the decoder's process ({_how(self._child.kill())})"
        if answer.startswith(_ERROR):
            return str(answer[1:], "utf-8")
        _, height, width = _PIXELS_HEAD.unpack_from(answer)
        pixels = np.frombuffer(answer, np.uint8, offset=_PIXELS_HEAD.size)
        return pixels.reshape(-1, height, width)

    def close(self) -> None:
        """End the process, if one is running."""
        self._child.kill()


def _how(code: int) -> str:
    """Describe how a process ended."""
    try:
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    except ValueError:
        return f"signal {-code}"


def main() -> None:
    """Decode what the parent asks for."""
    parent = Parent()
    target = Target(**json.loads(parent.messages.get()))
    with quiet_pillow():
        while True:
            message = parent.messages.get()
            try:
                pixels = _decoded(message[:1], message[1:], target)
                answer = _PIXELS_HEAD.pack(_PIXELS, *pixels.shape[1:]) + pixels.tobytes()
            except Exception as error:
                # Decoders raise almost anything on broken files.
                answer = _ERROR + reason(error).encode("utf-8", "backslashreplace")
            parent.send(answer)


def _decoded(kind: bytes, source: bytes, target: Target) -> NDArray[np.uint8]:
    """Return the pixels of a file, given by its path or its content."""
    if not (os.path.getsize(source) if kind == _PATH else source):
        raise ValueError("the file is empty")
    return decode_file(os.fsdecode(source) if kind == _PATH else BytesIO(source), target)
