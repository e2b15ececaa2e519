"""What the commands print: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import logging
import math
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer


def say(line: str) -> None:
    """Print one line of information on standard error."""
    typer.echo(line, err=True)


def print_json(result: Any) -> None:
    """Print a result as JSON on standard output, with null for what is not finite."""
    typer.echo(json.dumps(finite(result), indent=2, allow_nan=False))


def finite(thing: Any) -> Any:
    """Return `thing` with None for each number in it that JSON cannot hold."""
    if isinstance(thing, dict):
        return {key: finite(value) for key, value in thing.items()}
    if isinstance(thing, (list, tuple)):
        return [finite(value) for value in thing]
    return None if isinstance(thing, float) and not math.isfinite(thing) else thing


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table for people on standard output."""
    # Imported here because help has no need of tables.
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(cell, overflow="fold") for cell in row))
    Console(file=sys.stdout, highlight=False).print(table)


@contextmanager
def one_line_warnings() -> Iterator[None]:
    """Show each warning as one line on standard error while the block runs."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        say("warning: " + " ".join(str(message).split()))

    with warnings.catch_warnings():
        # Ours are meant for the user whatever filter is set; the other filters stay.
        warnings.filterwarnings("default", category=UserWarning, module=r"adcgan\b")
        warnings.showwarning = show
        yield


@contextmanager
def quiet_matplotlib() -> Iterator[None]:
    """Silence Matplotlib's warning about a missing cache folder while the block runs.

    It works without one, for example where the user has no home folder.
    """
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
