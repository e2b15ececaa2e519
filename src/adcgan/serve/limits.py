"""How much one service accepts, and how it refuses the rest."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import Field, dataclass, field, fields
from typing import Any

from adcgan.errors import InputError

MEGABYTE = 1_000_000


def _limit(default: float, doc: str) -> Any:
    """Declare a limit and its help text."""
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True)
class Limits:
    """The limits of one service; each is an option of ``adcgan serve``, with the same help text.

    Raises
    ------
    InputError
        If a limit is out of range.
    """

    max_file_mb: float = _limit(20, "Largest file, in megabytes (10⁶ bytes).")
    max_request_mb: float = _limit(64, "Largest request body, in megabytes.")
    max_held_mb: float = _limit(512, "Megabytes received but not yet decoded, over all requests.")
    max_files: int = _limit(64, "Files in one request.")
    max_megapixels: float = _limit(30, "Largest image, in megapixels (10⁶ pixels).")
    max_queue: int = _limit(1024, "Images accepted but not yet scored, over all requests.")
    max_requests: int = _limit(128, "Scoring requests handled at the same time.")
    max_connections: int = _limit(512, "Open connections, including idle ones.")
    header_seconds: float = _limit(10, "Seconds for a request's head to arrive.")
    body_seconds: float = _limit(30, "Seconds for a request's body to arrive.")
    score_seconds: float = _limit(30, "Seconds to decode, queue and score a request's images.")
    max_batch: int = _limit(32, "Images scored together.")
    max_wait_ms: float = _limit(5, "Milliseconds an image waits for others to join its batch.")
    decode_threads: int = _limit(2, "Images decoded at the same time.")

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
    """Refuse a value that is not a number, or out of range; only `max_wait_ms` may be 0."""
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
    """A request that is refused.

    Parameters
    ----------
    status : int
        HTTP status, 400 to 599.
    message : str
        The reason, in one line for the client.
    retry_after : int or None
        Seconds after which the same request may succeed.
    rows : list of dict or None
        The reason for each image.

    Attributes
    ----------
    headers, body : dict
        The response's headers, except its content type, and its JSON.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        retry_after: int | None = None,
        rows: list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        self.body = {"error": message} | ({} if rows is None else {"images": rows})


@dataclass
class Room:
    """A resource that requests share. A request that finds it full is refused at once.

    Parameters
    ----------
    size : int
        How many units fit.
    message : str
        The refusal when they do not.
    """

    size: int
    message: str
    taken: int = 0

    @contextmanager
    def hold(self, units: int = 0) -> Iterator[Hold]:
        """Take `units`; at the end, give back everything that the hold has grown to."""
        hold = Hold(self)
        try:
            hold.grow(units)
            yield hold
        finally:
            hold.release()


class Hold:
    """One request's share of a `Room`."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._units = 0

    def grow(self, units: int) -> None:
        """Take more units, or raise `RefusalError` (503)."""
        if self._room.taken + units > self._room.size:
            raise RefusalError(503, self._room.message, retry_after=1)
        self._room.taken += units
        self._units += units

    def release(self) -> None:
        """Give all units back."""
        self._room.taken -= self._units
        self._units = 0
