"""``adcgan serve``: score images over HTTP, and by hand on a web page."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adcgan.cli import options
from adcgan.cli.terminal import say
from adcgan.errors import InputError, MissingExtraError
from adcgan.serve.limits import Limits, is_whole

if TYPE_CHECKING:
    from adcgan.scoring import Scorer


def _with_limits(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each limit."""
    own = inspect.signature(command, eval_str=True).parameters.values()
    named = [one for one in own if one.name != "limits"]
    for limit in fields(Limits):
        option = typer.Option(help=limit.metadata["doc"], rich_help_panel="Limits")
        named.append(
            inspect.Parameter(
                limit.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=limit.default,
                annotation=Annotated[int if is_whole(limit) else float, option],
            )
        )
    command.__annotations__ = {one.name: one.annotation for one in named}
    command.__signature__ = inspect.Signature(named)  # type: ignore[attr-defined]
    return command


@_with_limits
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
    device: options.Device = "auto",
    **limits: Any,
) -> None:
    """Score images over HTTP: a web page at /, an API at /v1/score, its description at /docs.

    SIGTERM or Ctrl-C ends it once everything accepted is answered.
    """
    bounds = Limits(**limits)
    try:
        from adcgan.serve.app import create_app
        from adcgan.serve.server import address, bind, is_loopback, run
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"'adcgan serve' needs {error.name}: pip install 'adcgan[serve]'"
        ) from error
    with bind(host, port) as bound:
        app = create_app(scorer_for(model, device), bounds, api_key=api_key)
        if api_key is None and not is_loopback(bound):
            say(
                f"warning: --host {host} lets other machines in, and no key is set: anyone who "
                "reaches the port can use the service. Set ADCGAN_API_KEY."
            )
        line = f"serving {model} on {address(bound)}"
        run(app, bound, bounds, access_log=access_log, on_ready=lambda: typer.echo(line))


def scorer_for(model: Path, device: str) -> Scorer:
    """Load a model for ONNX Runtime; export a folder first, if its detector can be exported."""
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
