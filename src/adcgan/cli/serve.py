"""``adcgan serve``: score images over HTTP, and by hand on a web page."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adcgan.cli import options
from adcgan.cli.terminal import say
from adcgan.errors import InputError, MissingExtraError
from adcgan.serve.limits import Limits

if TYPE_CHECKING:
    from adcgan.scoring import Scorer

_DEFAULT = Limits()
_LIMITS = "Limits"


def serve(
    model: Annotated[
        Path,
        typer.Argument(help="An .onnx file, made by 'adcgan export', or a model folder."),
    ],
    host: Annotated[str, typer.Option(help="Host name or address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 picks a free port.")] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="ADCGAN_API_KEY",
            help="The key that clients must send. Other users of the machine can read it here; "
            "the environment variable is safer.",
        ),
    ] = None,
    access_log: Annotated[
        bool, typer.Option("--access-log", help="Log each request on standard error.")
    ] = False,
    max_file_mb: Annotated[
        float, typer.Option(help="Megabytes of one file.", rich_help_panel=_LIMITS)
    ] = _DEFAULT.max_file_mb,
    max_request_mb: Annotated[
        float, typer.Option(help="Megabytes of one request.", rich_help_panel=_LIMITS)
    ] = _DEFAULT.max_request_mb,
    max_held_mb: Annotated[
        float,
        typer.Option(
            help="Megabytes received and not yet decoded, over all requests.",
            rich_help_panel=_LIMITS,
        ),
    ] = _DEFAULT.max_held_mb,
    max_files: Annotated[
        int, typer.Option(help="Files in one request.", rich_help_panel=_LIMITS)
    ] = _DEFAULT.max_files,
    max_megapixels: Annotated[
        float, typer.Option(help="Million pixels of one image.", rich_help_panel=_LIMITS)
    ] = _DEFAULT.max_megapixels,
    max_queue: Annotated[
        int,
        typer.Option(help="Images waiting, over all requests.", rich_help_panel=_LIMITS),
    ] = _DEFAULT.max_queue,
    max_requests: Annotated[
        int, typer.Option(help="Scoring requests at a time.", rich_help_panel=_LIMITS)
    ] = _DEFAULT.max_requests,
    max_connections: Annotated[
        int, typer.Option(help="Open connections.", rich_help_panel=_LIMITS)
    ] = _DEFAULT.max_connections,
    header_seconds: Annotated[
        float, typer.Option(help="For a request's head to arrive.", rich_help_panel=_LIMITS)
    ] = _DEFAULT.header_seconds,
    body_seconds: Annotated[
        float, typer.Option(help="For a request's body to arrive.", rich_help_panel=_LIMITS)
    ] = _DEFAULT.body_seconds,
    score_seconds: Annotated[
        float, typer.Option(help="For a request's images to be scored.", rich_help_panel=_LIMITS)
    ] = _DEFAULT.score_seconds,
    max_batch: Annotated[
        int, typer.Option(help="Images scored together.", rich_help_panel=_LIMITS)
    ] = _DEFAULT.max_batch,
    max_wait_ms: Annotated[
        float,
        typer.Option(help="How long an image waits for others.", rich_help_panel=_LIMITS),
    ] = _DEFAULT.max_wait_ms,
    decode_threads: Annotated[
        int, typer.Option(help="Images decoded at a time.", rich_help_panel=_LIMITS)
    ] = _DEFAULT.decode_threads,
    device: options.Device = "auto",
) -> None:
    """Score images over HTTP: a web page at /, an API at /v1/score, its description at /docs.

    SIGTERM or Ctrl-C ends it once everything accepted is answered.
    """
    limits = Limits(
        max_file_mb=max_file_mb,
        max_request_mb=max_request_mb,
        max_held_mb=max_held_mb,
        max_files=max_files,
        max_megapixels=max_megapixels,
        max_queue=max_queue,
        max_requests=max_requests,
        max_connections=max_connections,
        header_seconds=header_seconds,
        body_seconds=body_seconds,
        score_seconds=score_seconds,
        max_batch=max_batch,
        max_wait_ms=max_wait_ms,
        decode_threads=decode_threads,
    )
    try:
        from adcgan.serve.app import create_app
        from adcgan.serve.server import address, bind, is_loopback, run
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"'adcgan serve' needs {error.name}: pip install 'adcgan[serve]'"
        ) from error
    with bind(host, port) as bound:
        app = create_app(scorer_for(model, device), limits, api_key=api_key)
        if api_key is None and not is_loopback(bound):
            say(
                f"warning: --host {host} lets other machines in and no key is set: whoever "
                "reaches the port can use the service. Set ADCGAN_API_KEY."
            )
        line = f"serving {model} on {address(bound)}"
        run(app, bound, limits, access_log=access_log, on_ready=lambda: typer.echo(line))


def scorer_for(model: Path, device: str) -> Scorer:
    """Load a model for ONNX Runtime: a folder is exported first, where that can be done."""
    import adcgan

    scorer = adcgan.load(model, device=device)
    if not model.is_dir() or device not in {"auto", "cpu"}:
        return scorer
    from adcgan.detectors import Detector
    from adcgan.onnx.export import export_onnx

    assert isinstance(scorer, Detector)
    with tempfile.TemporaryDirectory() as folder:
        try:
            exported = export_onnx(scorer, Path(folder) / "model.onnx")
            return adcgan.load(exported.path)
        except (InputError, MissingExtraError) as error:
            say(f"serving by torch: {error}")
            return scorer
