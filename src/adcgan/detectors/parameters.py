"""Checks of constructor parameters, done by ``fit`` as scikit-learn asks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from adcgan.errors import InputError


@dataclass(frozen=True)
class Rule:
    """What a parameter may be: a predicate and the same in words."""

    allows: Callable[[Any], bool]
    words: str


def _is(value: Any, kind: type) -> bool:
    """Say whether `value` is a number of this `kind`; True and False are not."""
    return isinstance(value, kind) and not isinstance(value, bool)


def whole(least: int, most: int | None = None) -> Rule:
    """Allow whole numbers from `least` to `most`."""
    upper = math.inf if most is None else most
    words = f"a whole number of at least {least}" + ("" if most is None else f" and at most {most}")
    return Rule(lambda v: _is(v, Integral) and least <= v <= upper, words)


def real(least: float, most: float = math.inf, *, above: bool = False, below: bool = False) -> Rule:
    """Allow numbers from `least` to `most`; `above`, `below` leave the ends out."""

    def allows(value: Any) -> bool:
        if not _is(value, Real) or not math.isfinite(value):
            return False
        return bool(
            (least < value if above else least <= value)
            and (value < most if below else value <= most)
        )

    words = f"a number {'above' if above else 'of at least'} {least:g}"
    if math.isfinite(most):
        words += f" and {'below' if below else 'at most'} {most:g}"
    return Rule(allows, words)


def one_of(*values: Any) -> Rule:
    """Allow these values alone."""
    return Rule(lambda v: v in values, "one of " + ", ".join(repr(v) for v in values))


def maybe(rule: Rule) -> Rule:
    """Allow None as well."""
    return Rule(lambda v: v is None or rule.allows(v), f"None or {rule.words}")


text = Rule(lambda v: isinstance(v, str), "text")


def check(owner: str, parameters: Mapping[str, Any], rules: Mapping[str, Rule]) -> None:
    """Raise InputError for the first of `parameters` that breaks its rule."""
    for name, value in parameters.items():
        if not rules[name].allows(value):
            raise InputError(
                f"The {name!r} parameter of {owner} must be {rules[name].words}. "
                f"Got {value!r} instead."
            )
