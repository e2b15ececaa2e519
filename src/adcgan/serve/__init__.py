"""The scoring service: it takes images over HTTP, returns scores and heatmaps, and has a web page.

`create_app` makes it for any ASGI server, `adcgan.serve.server` runs it as ``adcgan serve`` does,
and `adcgan.serve.ray_app` deploys it on Ray Serve. Nothing here imports torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from adcgan.errors import MissingExtraError
from adcgan.serve.limits import Limits

if TYPE_CHECKING:
    from adcgan.serve.app import create_app

__all__ = ["Limits", "create_app"]


def __getattr__(name: str) -> Any:
    # Limits must work without the extra: the command's help shows their defaults.
    if name != "create_app":
        raise AttributeError(f"module 'adcgan.serve' has no attribute {name!r}")
    try:
        return import_module("adcgan.serve.app").create_app
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"The service needs {error.name}: pip install 'adcgan[serve]'"
        ) from error
