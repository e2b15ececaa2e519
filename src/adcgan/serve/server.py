"""The service as a process: a socket, uvicorn, and an end without lost answers."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from PIL import Image
from uvicorn.protocols.http.h11_impl import H11Protocol

from adcgan.errors import InputError
from adcgan.serve.guard import Guard
from adcgan.serve.limits import Limits

# Most time for the last bytes of a response to reach a client that reads slowly.
_FLUSH_SECONDS = 30.0


def bind(host: str, port: int) -> socket.socket:
    """Return a bound socket.

    Parameters
    ----------
    host : str
        A name or an address, IPv4 or IPv6.
    port : int
        0 to 65535; 0 picks a free port.

    Raises
    ------
    InputError
        The address cannot be bound; the message says why.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind)
    except (OSError, UnicodeError, OverflowError) as error:
        raise InputError(f"--host {host} cannot be used: {_why(error)}") from None
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        # Now, so that a port that somebody listens on is found before a model is loaded.
        bound.listen(1)
    except OSError as error:
        bound.close()
        raise InputError(f"--port {port} on {host} cannot be used: {_why(error)}") from None
    return bound


def is_loopback(bound: socket.socket) -> bool:
    """Say whether a bound socket can be reached from this machine alone."""
    return ipaddress.ip_address(bound.getsockname()[0].partition("%")[0]).is_loopback


def address(bound: socket.socket) -> str:
    """Return the address of a bound socket for a browser on this machine."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(
    app: Guard,
    bound: socket.socket,
    limits: Limits,
    *,
    access_log: bool = False,
    on_ready: Callable[[], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; what was accepted by then is answered.

    Meanwhile Pillow's own limit of pixels is that of the service, in the whole process.

    Parameters
    ----------
    app : Guard
        What `create_app` returned.
    bound : socket
        From `bind`.
    limits : Limits
        The same as the application's.
    access_log : bool
        One line on standard error for each request.
    on_ready : callable, optional
        Called once connections are taken.
    """
    if access_log:
        logger = logging.getLogger("adcgan.serve.access")
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    # They would print a line for each malformed request; the counters have them.
    for name in ("uvicorn.error", "python_multipart"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Pillow looks at it where one image is inside another, as in icons.
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, limits.pixels
    try:
        _Server(_config(app, limits), app, on_ready).run(sockets=[bound])
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _config(app: Guard, limits: Limits) -> uvicorn.Config:
    """Return uvicorn's settings."""

    def protocol(**arguments: Any) -> _Connection:
        return _Connection(limits, **arguments)

    return uvicorn.Config(
        app,
        # h11 bounds the size of a request's head.
        http=protocol,  # type: ignore[arg-type]
        ws="none",
        lifespan="on",
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=round(_FLUSH_SECONDS),
    )


class _Server(uvicorn.Server):
    """Answers what is under way before it stops to listen, and new requests with 503 meanwhile."""

    def __init__(
        self, config: uvicorn.Config, app: Guard, on_ready: Callable[[], None] | None
    ) -> None:
        super().__init__(config)
        self._guard = app
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`."""
        await super().startup(sockets)
        if self.started and self._on_ready is not None:
            self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Begin to end; a second Ctrl-C ends at once."""
        if self._guard.draining and sig == signal.SIGINT:
            self.should_exit = self.force_exit = True
        self._guard.draining = True

    async def on_tick(self, counter: int) -> bool:
        """Say whether it is time to stop listening."""
        if self._guard.draining and self._guard.active == 0:
            self.should_exit = True
        return await super().on_tick(counter)


class _Connection(H11Protocol):
    """A connection that cannot be held open by doing nothing.

    No setting of uvicorn gives a head its time or refuses a connection that sends none:
    ``results/notes/decisions.md`` says what gets through without this class.
    """

    def __init__(self, limits: Limits, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._limits = limits
        self._timers: list[asyncio.TimerHandle] = []
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, or refuse it where there are too many."""
        if len(self.connections) >= self._limits.max_connections:
            self.transport = transport
            self._end_with(503, "Too many connections (--max-connections)", "Retry-After: 1\r\n")
            return
        super().connection_made(transport)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection and its timers."""
        super().connection_lost(exc)
        for timer in [*self._timers, *filter(None, [self._head_timer])]:
            timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Take bytes."""
        super().data_received(data)
        self._watch_head()

    def on_response_complete(self) -> None:
        """Make sure that a closed connection goes away even if the client reads nothing."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._abort_later()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection."""
        super().timeout_keep_alive_handler()
        self._abort_later()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP."""
        self._end_with(400, msg.rstrip("."))

    def _watch_head(self) -> None:
        """Give a request's head its time, from its first byte or the connection's begin."""
        waiting = self.cycle is None or self.cycle.response_complete
        if not waiting and self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        elif waiting and self._head_timer is None:
            self._head_timer = self.loop.call_later(self._limits.header_seconds, self._head_late)

    def _head_late(self) -> None:
        """End a connection whose request does not begin."""
        self._head_timer = None
        if self.cycle is None or self.cycle.response_complete:
            seconds = self._limits.header_seconds
            self._end_with(408, f"No request came within {seconds:g} s (--header-seconds)")

    def _end_with(self, status: int, message: str, headers: str = "") -> None:
        """Write a whole response, past the application, and close."""
        if self.transport.is_closing():
            return
        if (
            self.cycle is not None
            and self.cycle.response_started
            and not self.cycle.response_complete
        ):
            # Another response is on its way: what comes now would be taken for a part of it.
            self.transport.close()
            return
        body = json.dumps({"error": message})
        head = (
            f"HTTP/1.1 {status} Refused\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n{headers}\r\n"
        )
        self.transport.write((head + body).encode())
        self.transport.close()
        self._abort_later()

    def _abort_later(self) -> None:
        """Let the last bytes go out, but not for ever."""
        self._timers.append(self.loop.call_later(_FLUSH_SECONDS, self.transport.abort))


def _why(error: Exception) -> str:
    """Return an operating system's reason."""
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
