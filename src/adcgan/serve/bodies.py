"""From the bytes of a request to files in memory, never reading beyond the limits."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from adcgan.serve.limits import MEGABYTE, Hold, Limits, RefusalError

# The standard allows 70.
_BOUNDARY_BYTES = 200
_NO_FILE = "The request holds no file"


@dataclass
class Upload:
    """One file of a request."""

    name: str
    data: bytes


async def read_uploads(request: Request, limits: Limits, hold: Hold) -> list[Upload]:
    """Read the files of a request: at least one, in order.

    Parameters
    ----------
    request : Request
        Multipart form data whose parts are all files, or one image as the body.
    limits : Limits
        Bounds the number of files and bytes.
    hold : Hold
        Grows by every byte kept.

    Raises
    ------
    RefusalError
        400 malformed, 413 too large or too many files, 415 another type, 503 no memory left.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise RefusalError(415, "Content-Encoding is not supported: send the files as they are")
    if kind == b"multipart/form-data":
        most = _too_large("The request", limits.request_bytes, "--max-request-mb")
        pieces = _pieces(request, limits.request_bytes, most, hold)
        return await _read_form(pieces, options.get(b"boundary", b""), limits)
    if kind.startswith(b"image/") or kind == b"application/octet-stream":
        most = _too_large("The image", limits.file_bytes, "--max-file-mb")
        pieces = _pieces(request, limits.file_bytes, most, hold)
        data = b"".join([piece async for piece in pieces])
        if not data:
            raise RefusalError(400, f"{_NO_FILE}: its body is empty")
        return [Upload(request.query_params.get("name", "image"), data)]
    raise RefusalError(
        415,
        "The Content-Type must be multipart/form-data, image/* or application/octet-stream. "
        f"Got {kind.decode('latin-1')[:100] or 'none'!r} instead",
    )


def _too_large(what: str, limit: int, option: str) -> RefusalError:
    """Return the refusal of something larger than `limit` bytes."""
    return RefusalError(413, f"{what} is larger than {limit / MEGABYTE:g} MB ({option})")


async def _pieces(
    request: Request, limit: int, too_large: RefusalError, hold: Hold
) -> AsyncGenerator[bytes, None]:
    """Yield the body piece by piece, unless it is announced or turns out to exceed the limit.

    `ClientDisconnect` if it breaks off.
    """
    announced = request.headers.get("content-length", "0")
    if not (announced.isascii() and announced.isdigit()):
        raise RefusalError(400, "The Content-Length must be a number")
    # Twenty digits tell: Python refuses to convert thousands.
    if int(announced[:20]) > limit:
        raise too_large
    total = 0
    async for piece in request.stream():
        total += len(piece)
        if total > limit:
            raise too_large
        hold.grow(len(piece))
        yield piece


async def _read_form(
    pieces: AsyncGenerator[bytes, None], boundary: bytes, limits: Limits
) -> list[Upload]:
    """Read a body of several files."""
    if not 0 < len(boundary) <= _BOUNDARY_BYTES:
        raise RefusalError(
            400, f"The Content-Type must name a boundary of 1 to {_BOUNDARY_BYTES} bytes"
        )
    try:
        form = await _Form(boundary, pieces, limits).parse()
    except (MultiPartException, FormParserError) as error:
        # Older releases of Starlette let the parser's own error through.
        raise RefusalError(
            400, f"The multipart body is malformed: {error.__cause__ or error}"
        ) from None
    try:
        uploads = [await _upload(name, part, limits) for name, part in form.multi_items()]
    finally:
        await form.close()
    if not uploads:
        raise RefusalError(400, _NO_FILE)
    return uploads


class _Form(MultiPartParser):
    """Starlette's parser, which keeps all in memory, counts parts and needs the last boundary."""

    def __init__(
        self, boundary: bytes, pieces: AsyncGenerator[bytes, None], limits: Limits
    ) -> None:
        # Names are read as Latin-1, which accepts any bytes, whatever character set is announced.
        kind = b'multipart/form-data; charset=latin-1; boundary="%s"' % boundary
        headers = Headers(raw=[(b"content-type", kind)])
        most = limits.max_files
        super().__init__(headers, self._whole(pieces), max_files=most, max_fields=most)
        self.spool_max_size = limits.request_bytes
        self._n_parts, self._ended = 0, False

    def on_part_begin(self) -> None:
        """Refuse one part too many."""
        super().on_part_begin()
        self._n_parts += 1
        if self._n_parts > self.max_files:
            raise RefusalError(
                413, f"The request has more than {self.max_files} files (--max-files)"
            )

    def on_end(self) -> None:
        """Note the last boundary."""
        self._ended = True

    async def _whole(self, pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """Yield the pieces, and refuse them if the last boundary is missing."""
        async for piece in pieces:
            yield piece
        if not self._ended:
            raise RefusalError(400, "The multipart body breaks off before its last boundary")


async def _upload(field: str, part: UploadFile | str, limits: Limits) -> Upload:
    """Return the file in one part of a form."""
    name = _text(part.filename or "") if isinstance(part, UploadFile) else ""
    if not name or isinstance(part, str):
        raise RefusalError(
            400, f"Every part must be a file. {_text(field)[:100]!r} has no file name"
        )
    if (part.size or 0) > limits.file_bytes:
        raise _too_large(f"The file {name[:200]!r}", limits.file_bytes, "--max-file-mb")
    data = await part.read()
    # Closed now, so that no more than one file is in memory twice.
    await part.close()
    return Upload(name, data)


def _text(name: str) -> str:
    """Decode a name that was read as Latin-1; bytes that are not UTF-8 become escapes."""
    return name.encode("latin-1").decode("utf-8", "backslashreplace")
