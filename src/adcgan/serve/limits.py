"""How much of everything one service takes, and how it says no."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import Field, dataclass, field, fields
from typing import Any

from adcgan.errors import InputError

MEGABYTE = 1_000_000


def _limit(default: float, doc: str) -> Any:
    """Declare a limit with its line of help."""
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True)
class Limits:
    """The limits of one service; each is an option of ``adcgan serve``, which says what it is.

    Raises
    ------
    InputError
        If a limit is out of range.
    """

    max_file_mb: float = _limit(20, "Megabytes (10⁶ bytes) of one file.")
    max_request_mb: float = _limit(64, "Megabytes of one request's body.")
    max_held_mb: float = _limit(512, "Megabytes received and not yet decoded, over all requests.")
    max_files: int = _limit(64, "Files in one request.")
    max_megapixels: float = _limit(30, "Width times height of one image, in 10⁶ pixels.")
    max_queue: int = _limit(1024, "Images accepted and not yet scored, over all requests.")
    max_requests: int = _limit(128, "Scoring requests at a time.")
    max_connections: int = _limit(512, "Open connections, idle ones included.")
    header_seconds: float = _limit(10, "Time for a request's head to arrive.")
    body_seconds: float = _limit(30, "Time for a request's body to arrive.")
    score_seconds: float = _limit(30, "Time to decode, wait for a batch and be scored.")
    max_batch: int = _limit(32, "Images scored together.")
    max_wait_ms: float = _limit(5, "Milliseconds that an image waits for others.")
    decode_threads: int = _limit(2, "Images decoded at a time.")

    def __post_init__(self) -> None:
        for one in fields(self):
            _check(one.name, getattr(self, one.name), is_whole(one))
        for inner, outer in (
            ("max_file_mb", "max_request_mb"),
            ("max_request_mb", "max_held_mb"),
            ("max_files", "max_queue"),
        ):
            if getattr(self, inner) > getattr(self, outer):
                raise InputError(
                    f"The {inner!r} parameter must be at most {outer!r}, "
                    f"{getattr(self, outer):g}. Got {getattr(self, inner):g} instead."
                )

    @property
    def file_bytes(self) -> int:
        """`max_file_mb` in bytes."""
        return round(self.max_file_mb * MEGABYTE)

    @property
    def request_bytes(self) -> int:
        """`max_request_mb` in bytes."""
        return round(self.max_request_mb * MEGABYTE)

    @property
    def pixels(self) -> int:
        """`max_megapixels` in pixels."""
        return round(self.max_megapixels * MEGABYTE)


def is_whole(limit: Field[Any]) -> bool:
    """Say whether a limit is a whole number."""
    return limit.type == "int"


def _check(name: str, value: object, whole: bool) -> None:
    """Refuse a value that is no limit: zero, negative, infinite, or no number."""
    number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    if whole and not (isinstance(number, int) and number >= 1):
        raise InputError(
            f"The {name!r} parameter must be an integer of at least 1. Got {value!r} instead."
        )
    least = 0 if name == "max_wait_ms" else 1e-6
    if not least <= number < math.inf:
        allowed = "at least 0" if least == 0 else "above 0"
        raise InputError(f"The {name!r} parameter must be {allowed}. Got {value!r} instead.")


class RefusalError(Exception):
    """A request that is not served, and why.

    Parameters
    ----------
    status : int
        HTTP status, 400 to 599.
    message : str
        One line for the client.
    retry_after : int or None
        Seconds after which the same request may succeed.
    rows : list of dict or None
        What can be said of the single images.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        retry_after: int | None = None,
        rows: list[dict[str, object]] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after = retry_after
        self.rows = rows

    @property
    def headers(self) -> dict[str, str]:
        """The response's headers beside its content type."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}

    @property
    def body(self) -> dict[str, object]:
        """The response's JSON."""
        body: dict[str, object] = {"error": self.message}
        return body if self.rows is None else {**body, "images": self.rows}


class Room:
    """A resource that requests share: full means refused at once, not kept waiting.

    Parameters
    ----------
    size : int
        Units that fit.
    message : str
        What a request is told that finds no room.
    """

    def __init__(self, size: int, message: str) -> None:
        self.taken = 0
        self._size = size
        self._message = message

    @contextmanager
    def hold(self, units: int = 0) -> Iterator[Hold]:
        """Take `units`, and give back all that the hold has grown to at the end."""
        hold = Hold(self)
        try:
            hold.grow(units)
            yield hold
        finally:
            hold.release()

    def take(self, units: int) -> None:
        """Take `units` or raise `RefusalError` (503)."""
        if self.taken + units > self._size:
            raise RefusalError(503, self._message, retry_after=1)
        self.taken += units


class Hold:
    """What one request has of a `Room`."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._units = 0

    def grow(self, units: int) -> None:
        """Take more, or raise `RefusalError` (503)."""
        self._room.take(units)
        self._units += units

    def release(self) -> None:
        """Give all of it back."""
        self._room.taken -= self._units
        self._units = 0
