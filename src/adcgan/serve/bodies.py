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


async def _pieces(
    request: Request, limit: int, refusal: RefusalError, hold: Hold
) -> AsyncGenerator[bytes, None]:
    """Yield the body piece by piece up to `limit` bytes; `ClientDisconnect` if it breaks off."""
    total = 0
    async for piece in request.stream():
        total += len(piece)
        if total > limit:
            raise refusal
        hold.grow(len(piece))
        yield piece


async def _read_raw(request: Request, limits: Limits, hold: Hold) -> bytes:
    """Read a body that is one image."""
    refusal = _too_large("The image", limits.file_bytes, "--max-file-mb")
    pieces = _pieces(request, limits.file_bytes, refusal, hold)
    data = b"".join([piece async for piece in pieces])
    if not data:
        raise RefusalError(400, f"{_NO_FILE}: its body is empty")
    return data


async def _read_form(request: Request, boundary: bytes, limits: Limits, hold: Hold) -> list[Upload]:
    """Read a body of several files."""
    if not 0 < len(boundary) <= _BOUNDARY_BYTES:
        raise RefusalError(
            400, f"The Content-Type must name a boundary of 1 to {_BOUNDARY_BYTES} bytes"
        )
    refusal = _too_large("The request", limits.request_bytes, "--max-request-mb")
    pieces = _pieces(request, limits.request_bytes, refusal, hold)
    try:
        form = await _Form(boundary, pieces, limits.max_files, limits.request_bytes).parse()
    except (MultiPartException, FormParserError) as error:
        # Older releases of Starlette let the parser's own error through.
        raise RefusalError(
            400, f"The multipart body is not well-formed: {error.__cause__ or error}"
        ) from None
    try:
        uploads = [await _upload(name, part, limits) for name, part in form.multi_items()]
    finally:
        await form.close()
    if not uploads:
        raise RefusalError(400, _NO_FILE)
    return uploads


class _Form(MultiPartParser):
    """Starlette's parser, which keeps all in memory, counts parts and wants the last boundary."""

    def __init__(
        self, boundary: bytes, pieces: AsyncGenerator[bytes, None], max_parts: int, size: int
    ) -> None:
        # Names are read as Latin-1, which any bytes are, whatever character set is announced.
        kind = b'multipart/form-data; charset=latin-1; boundary="%s"' % boundary
        super().__init__(
            Headers(raw=[(b"content-type", kind)]),
            self._whole(pieces),
            max_files=max_parts,
            max_fields=max_parts,
        )
        self.spool_max_size = size
        self._max_parts, self._n_parts, self._ended = max_parts, 0, False

    def on_part_begin(self) -> None:
        """See `MultiPartParser`."""
        super().on_part_begin()
        self._n_parts += 1
        if self._n_parts > self._max_parts:
            raise RefusalError(
                413, f"The request has more than {self._max_parts} files (--max-files)"
            )

    def on_end(self) -> None:
        """See `MultiPartParser`."""
        self._ended = True

    async def _whole(self, pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """Yield the pieces, and refuse them if the last boundary is not among them."""
        async for piece in pieces:
            yield piece
        if not self._ended:
            raise RefusalError(400, "The multipart body breaks off before its last boundary")


async def _upload(field: str, part: UploadFile | str, limits: Limits) -> Upload:
    """Return the file that a part of a form is."""
    name = _text(part.filename or "") if isinstance(part, UploadFile) else ""
    if not name or isinstance(part, str):
        raise RefusalError(
            400, f"Every part must be a file. {_text(field)[:100]!r} has no file name"
        )
    if (part.size or 0) > limits.file_bytes:
        raise _too_large(f"The file {name[:200]!r}", limits.file_bytes, "--max-file-mb")
    data = await part.read()
    # Now, so that no more than one file is there twice.
    await part.close()
    return Upload(name, data)


def _text(name: str) -> str:
    """Decode a name that was read as Latin-1; bytes that are no UTF-8 become escapes."""
    return name.encode("latin-1").decode("utf-8", "backslashreplace")
