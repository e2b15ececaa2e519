"""From the bytes of a request to files in memory, never reading beyond the limits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from adcgan.serve.limits import MEGABYTE, Hold, Limits, RefusalError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

# Of one part's headers: a file name of a few thousand characters fits.
_HEADER_BYTES = 8192
# The standard has 70.
_BOUNDARY_BYTES = 200
_NO_FILE = "The request holds no file"


@dataclass
class Upload:
    """One file of a request."""

    name: str
    data: bytes


async def read_uploads(request: Request, limits: Limits, hold: Hold) -> list[Upload]:
    """Read the files of a request.

    Parameters
    ----------
    request : Request
        Multipart form data whose parts are all files, or one image as the body.
    limits : Limits
        Of files and bytes.
    hold : Hold
        Grows by every byte that is kept.

    Returns
    -------
    list of Upload
        In order, at least one.

    Raises
    ------
    RefusalError
        400 not well-formed, 413 too large or too many, 415 another type, 503 no memory left.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise RefusalError(415, "Content-Encoding is not supported: send the files as they are")
    if kind == b"multipart/form-data":
        _check_length(request, limits.request_bytes, "The request", "--max-request-mb")
        return await _read_form(request, options.get(b"boundary", b""), limits, hold)
    if kind.startswith(b"image/") or kind == b"application/octet-stream":
        _check_length(request, limits.file_bytes, "The image", "--max-file-mb")
        name = request.query_params.get("name", "image")
        return [Upload(name, await _read_raw(request, limits, hold))]
    raise RefusalError(
        415,
        "The Content-Type must be multipart/form-data, image/* or application/octet-stream. "
        f"Got {kind.decode('latin-1')[:100] or 'none'!r} instead",
    )


def _too_large(what: str, limit: int, option: str) -> RefusalError:
    """Return the refusal of what is larger than `limit` bytes."""
    return RefusalError(413, f"{what} is larger than {limit / MEGABYTE:g} MB ({option})")


def _check_length(request: Request, limit: int, what: str, option: str) -> None:
    """Refuse by the announced length, before anything is read."""
    announced = request.headers.get("content-length", "0")
    if not (announced.isascii() and announced.isdigit()):
        raise RefusalError(400, "The Content-Length must be a number")
    if int(announced[:20]) > limit:
        raise _too_large(what, limit, option)


async def _pieces(request: Request, limit: int, refusal: RefusalError) -> AsyncIterator[bytes]:
    """Yield the body piece by piece up to `limit` bytes; `ClientDisconnect` if it breaks off."""
    total = 0
    async for piece in request.stream():
        total += len(piece)
        if total > limit:
            raise refusal
        yield piece


async def _read_raw(request: Request, limits: Limits, hold: Hold) -> bytes:
    """Read a body that is one image."""
    data = bytearray()
    refusal = _too_large("The image", limits.file_bytes, "--max-file-mb")
    async for piece in _pieces(request, limits.file_bytes, refusal):
        hold.grow(len(piece))
        data += piece
    if not data:
        raise RefusalError(400, f"{_NO_FILE}: its body is empty")
    return bytes(data)


async def _read_form(request: Request, boundary: bytes, limits: Limits, hold: Hold) -> list[Upload]:
    """Read a body of several files."""
    if not 0 < len(boundary) <= _BOUNDARY_BYTES:
        raise RefusalError(
            400, f"The Content-Type must name a boundary of 1 to {_BOUNDARY_BYTES} bytes"
        )
    form = _Form(limits, hold)
    refusal = _too_large("The request", limits.request_bytes, "--max-request-mb")
    try:
        parser = MultipartParser(boundary, form.callbacks())
        async for piece in _pieces(request, limits.request_bytes, refusal):
            parser.write(piece)
    except FormParserError as error:
        raise RefusalError(400, f"The multipart body is not well-formed: {error}") from None
    if not form.ended:
        raise RefusalError(400, "The multipart body breaks off before its last boundary")
    if not form.uploads:
        raise RefusalError(400, _NO_FILE)
    return form.uploads


@dataclass
class _Form:
    """Collects the files of a form while the parser goes through it."""

    limits: Limits
    hold: Hold
    uploads: list[Upload] = field(default_factory=list)
    ended: bool = False

    def callbacks(self) -> MultipartCallbacks:
        """Return what the parser calls."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._start_file,
            "on_part_data": self._data,
            "on_part_end": self._finish_file,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._header_bytes = 0
        self._field, self._value, self._disposition = b"", b"", b""

    def _count_header(self, n: int) -> None:
        self._header_bytes += n
        if self._header_bytes > _HEADER_BYTES:
            raise RefusalError(400, f"The headers of a part are longer than {_HEADER_BYTES} bytes")

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._disposition = self._value
        self._field, self._value = b"", b""

    def _start_file(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = _text(options.get(b"filename", b""))
        if not name:
            part = _text(options.get(b"name", b""))[:100]
            raise RefusalError(400, f"Every part must be a file. {part!r} has no file name")
        if len(self.uploads) == self.limits.max_files:
            raise RefusalError(
                413, f"The request has more than {self.limits.max_files} files (--max-files)"
            )
        self._name, self._file = name, bytearray()

    def _data(self, data: bytes, start: int, end: int) -> None:
        if len(self._file) + end - start > self.limits.file_bytes:
            what = f"The file {self._name[:200]!r}"
            raise _too_large(what, self.limits.file_bytes, "--max-file-mb")
        self.hold.grow(end - start)
        self._file += data[start:end]

    def _finish_file(self) -> None:
        self.uploads.append(Upload(self._name, bytes(self._file)))
        self._file = bytearray()

    def _end(self) -> None:
        self.ended = True


def _text(name: bytes) -> str:
    """Decode a name; bytes that are no UTF-8 become escapes."""
    return name.decode("utf-8", "backslashreplace")
