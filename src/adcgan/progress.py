"""Progress bars: one small protocol, one implementation for terminals, one that is silent."""

from __future__ import annotations

import sys
from typing import Protocol


class Progress(Protocol):
    """What long work reports to. One bar at a time: ``start``, many ``advance``, ``finish``."""

    def start(self, description: str, total: int) -> None:
        """Open a bar of `total` units of work."""

    def advance(self, n: int = 1, **figures: float) -> None:
        """Record `n` more units done, and the latest `figures` to show beside the bar."""

    def finish(self) -> None:
        """Close the bar."""


class SilentProgress:
    """Shows nothing."""

    def start(self, description: str, total: int) -> None:
        """See `Progress`."""

    def advance(self, n: int = 1, **figures: float) -> None:
        """See `Progress`."""

    def finish(self) -> None:
        """See `Progress`."""


class TerminalProgress:
    """A bar on standard error with the rate and the time left."""

    def start(self, description: str, total: int) -> None:
        """See `Progress`."""
        # Imported here because rich is needed by terminals only and costs import time.
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task(description, total=total, rate="", figures="")
        self._bar.start()

    def advance(self, n: int = 1, **figures: float) -> None:
        """See `Progress`."""
        self._bar.advance(self._task, n)
        speed = self._bar.tasks[0].speed
        self._bar.update(self._task, rate=f"{speed:.3g}/s" if speed else "")
        if figures:
            shown = " ".join(f"{key} {value:.3g}" for key, value in figures.items())
            self._bar.update(self._task, figures=shown)

    def finish(self) -> None:
        """See `Progress`."""
        self._bar.stop()


silent: Progress = SilentProgress()


def terminal_progress() -> Progress:
    """Return a bar for people at a terminal, or `silent` when standard error goes elsewhere."""
    return TerminalProgress() if sys.stderr.isatty() else silent
