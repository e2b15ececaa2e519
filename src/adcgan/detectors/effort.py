"""Settings whose defaults follow from the effort asked for and the images' size."""

from __future__ import annotations

from dataclasses import field
from itertools import pairwise
from typing import Any, TypeAlias

from adcgan.detectors.settings import Rule, Settings, declared, maybe, one_of, setting

EFFORTS = ("quick", "standard", "thorough")
# Values below the first of these sides, from there on, and from the second on.
FROM = (32, 64)

Value: TypeAlias = "float | str"
# A value for all sizes, or one for each of up to three; the last holds for all larger sizes.
Sizes: TypeAlias = "Value | tuple[Value, ...]"


def effort_setting() -> Any:
    """Declare how much is spent on training."""
    doc = (
        "How much training is spent on a better score. What the settings that are None stand for "
        "follows from it and from the images' size."
    )
    return setting("quick", one_of(*EFFORTS), doc)


def by_effort(
    rule: Rule,
    doc: str,
    quick: Sizes,
    standard: Sizes | None = None,
    thorough: Sizes | None = None,
) -> Any:
    """Declare a setting whose default, None, stands for the value of an effort and a size.

    An effort that is not given has the values of the one before.
    """
    standard = quick if standard is None else standard
    thorough = standard if thorough is None else thorough
    values = dict(zip(EFFORTS, map(_by_size, (quick, standard, thorough)), strict=True))
    told = _told(values["quick"])
    others = [
        f'{_told(values[effort])} with effort="{effort}"'
        for before, effort in pairwise(EFFORTS)
        if values[effort] != values[before]
    ]
    doc = f"{doc} None is {'; '.join([told, *others])}."
    return field(default=None, metadata={"rule": maybe(rule), "doc": doc, "by_effort": values})


def chosen(settings: Settings, effort: str, size: int) -> dict[str, Any]:
    """Return the settings that depend on effort and size, None replaced, by name.

    Parameters
    ----------
    settings : Settings
        Those of a detector.
    effort : str
        Of `EFFORTS`.
    size : int
        The side of the images.
    """
    found = {}
    for each in declared(type(settings)):
        if "by_effort" in each.metadata:
            given = getattr(settings, each.name)
            usual = each.metadata["by_effort"][effort][sum(size >= side for side in FROM)]
            found[each.name] = usual if given is None else given
    return found


def _by_size(values: Sizes) -> tuple[Value, ...]:
    """Return the values for all three sizes."""
    some = values if isinstance(values, tuple) else (values,)
    return some + some[-1:] * (1 + len(FROM) - len(some))


def _told(values: tuple[Value, ...]) -> str:
    """Return the values of all three sizes in words."""
    words = [_word(values[0])]
    for (before, value), side in zip(pairwise(values), FROM, strict=True):
        if value != before:
            words.append(f"{_word(value)} from {side} px on")
    return ", ".join(words)


def _word(value: Value) -> str:
    return f'"{value}"' if isinstance(value, str) else f"{value:g}"
