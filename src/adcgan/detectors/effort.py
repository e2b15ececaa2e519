"""Settings whose defaults depend on the chosen effort and the size of the images."""

from __future__ import annotations

from dataclasses import field
from itertools import pairwise
from typing import Any, TypeAlias

from adcgan.detectors.settings import Rule, Settings, declared, maybe, one_of, setting

EFFORTS = ("quick", "standard", "thorough")
# Sides in pixels from which the second and the third value of a setting apply.
FROM = (32, 64)

Value: TypeAlias = "float | str"
# One value for all sizes, or up to three values; the last one holds for all larger sizes.
Sizes: TypeAlias = "Value | tuple[Value, ...]"


def effort_setting() -> Any:
    """Declare how much training to spend."""
    doc = (
        "How much training to spend on better scores. Together with the size of the images, it "
        "determines the settings that are None."
    )
    return setting("quick", one_of(*EFFORTS), doc)


def by_effort(
    rule: Rule,
    doc: str,
    quick: Sizes,
    standard: Sizes | None = None,
    thorough: Sizes | None = None,
) -> Any:
    """Declare a setting whose default, None, depends on the effort and the image size.

    An effort without values of its own uses those of the previous one.
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
    doc = f"{doc} None means {'; '.join([told, *others])}."
    return field(default=None, metadata={"rule": maybe(rule), "doc": doc, "by_effort": values})


def chosen(settings: Settings, effort: str, size: int) -> dict[str, Any]:
    """Return the settings that depend on effort and size, by name, with None resolved.

    Parameters
    ----------
    settings : Settings
        Settings of a detector.
    effort : str
        One of `EFFORTS`.
    size : int
        Side of the images.
    """
    found = {}
    for each in declared(type(settings)):
        if "by_effort" in each.metadata:
            given = getattr(settings, each.name)
            usual = each.metadata["by_effort"][effort][sum(size >= side for side in FROM)]
            found[each.name] = usual if given is None else given
    return found


def _by_size(values: Sizes) -> tuple[Value, ...]:
    """Return the values for the three sizes."""
    some = values if isinstance(values, tuple) else (values,)
    return some + some[-1:] * (1 + len(FROM) - len(some))


def _told(values: tuple[Value, ...]) -> str:
    """Describe the values for the three sizes in words."""
    words = [_word(values[0])]
    for (before, value), side in zip(pairwise(values), FROM, strict=True):
        if value != before:
            words.append(f"{_word(value)} from {side} px up")
    return ", ".join(words)


def _word(value: Value) -> str:
    return f'"{value}"' if isinstance(value, str) else f"{value:g}"
