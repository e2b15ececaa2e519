"""How numbers are written for people."""

from __future__ import annotations

from typing import Any


def percent(value: float, digits: int = 1) -> str:
    """Write a share in [0, 1] as a percentage: 0.9731 is ``97.3%``, 0.01 is ``1%``."""
    # Adding 0 turns the -0 that a tiny negative share is rounded to into 0.
    text = f"{round(100 * value, digits) + 0:.{digits}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) + "%"


def duration(seconds: float) -> str:
    """Write a time in two units at most: ``40 s``, ``3 min``, ``2 h 10 min``, ``3 days 4 h``."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} days {hours} h" if hours else f"{days} days"


def counted(n: int, noun: str) -> str:
    """Write a number of things: ``1 image``, ``1,200 images``."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def value(thing: Any) -> str:
    """Write a setting or a figure: floats to four digits, true and false in words."""
    if isinstance(thing, bool):
        return "yes" if thing else "no"
    if isinstance(thing, float):
        return f"{thing:.4g}"
    return str(thing)


def rounded(number: float) -> str:
    """Write a number to three digits: ``8,780``, ``12.5``, ``0.0312``."""
    return f"{float(f'{number:.3g}'):,.10g}"


def printable(text: str) -> str:
    """Escape what a terminal or a page cannot show: control and undecodable characters."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )
