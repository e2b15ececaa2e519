"""Signs of sick training: each is a figure with a limit, logged once when it is crossed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Check:
    """A warning for when `figure` leaves its range (`least`, `most`) on `patience` looks in a row.

    Parameters
    ----------
    name : str
        What the warning is called.
    figure : str
        The logged figure that is looked at; rows without it are passed over.
    message : str
        What it means for the user, in one sentence.
    least, most : float
        The healthy range.
    patience : int
        Looks in a row outside the range before the warning.
    """

    name: str
    figure: str
    message: str
    least: float = -math.inf
    most: float = math.inf
    patience: int = 3


class HealthWatch:
    """Applies checks to logged figures; a check warns again only after it has been healthy."""

    def __init__(self, checks: Sequence[Check]) -> None:
        self.checks = checks
        self._outside = dict.fromkeys((check.name for check in checks), 0)

    def observe(self, step: int, figures: Mapping[str, float]) -> list[dict[str, Any]]:
        """Return a row for each check that `figures`, logged at `step`, bring over its limit."""
        warnings: list[dict[str, Any]] = []
        for check in self.checks:
            if check.figure not in figures:
                continue
            value = figures[check.figure]
            healthy = check.least <= value <= check.most
            self._outside[check.name] = 0 if healthy else self._outside[check.name] + 1
            if self._outside[check.name] == check.patience:
                warnings.append(
                    {
                        "step": step,
                        "warning": check.name,
                        "message": f"{check.message} ({check.figure} {value:.4g})",
                        check.figure: value,
                    }
                )
        return warnings
