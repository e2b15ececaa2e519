"""A detector and its constructor parameters, from options."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from adcgan.errors import InputError

if TYPE_CHECKING:
    from adcgan.detectors import Detector

_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_WORDS = {bool: "true or false", int: "a whole number", float: "a number"}


def detector_class(name: str) -> type[Detector]:
    """Return the detector called `name` on the command line."""
    from adcgan.detectors import DETECTORS

    if name not in DETECTORS:
        raise InputError(f"--detector must be one of {', '.join(DETECTORS)}. Got {name!r} instead.")
    return DETECTORS[name]


def settings(
    detector: type[Detector], assignments: Sequence[str], shorthands: Mapping[str, Any]
) -> dict[str, Any]:
    """Return constructor parameters from ``--set key=value`` and from options such as --epochs.

    Parameters
    ----------
    detector : type
        Whose parameters they are.
    assignments : sequence of str
        ``key=value`` each. The value is read by the type of the parameter's default.
    shorthands : mapping
        Parameter to value; None where the option was not given.
    """
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(detector).parameters.items()
    }
    chosen: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise InputError(f"--set must be given as key=value. Got {assignment!r} instead.")
        _check_known(f"--set {key}", key, detector, defaults)
        if key in chosen:
            raise InputError(f"--set {key} is given twice.")
        chosen[key] = _parsed(key, text, defaults[key])
    for key, given in shorthands.items():
        if given is None:
            continue
        option = {"random_state": "--seed"}.get(key, "--" + key.replace("_", "-"))
        _check_known(option, key, detector, defaults)
        if key in chosen:
            raise InputError(f"{option} and --set {key} set the same parameter; give one of them.")
        chosen[key] = given
    return chosen


def _check_known(
    option: str, key: str, detector: type[Detector], defaults: Mapping[str, Any]
) -> None:
    if key not in defaults:
        raise InputError(
            f"{option}: {detector.__name__} has no parameter {key!r}. "
            f"It has {', '.join(sorted(defaults))}."
        )


def _parsed(key: str, text: str, default: Any) -> Any:
    """Read the value of a parameter whose default is `default`."""
    if default is None:
        return _literal(text)
    kind = type(default)
    if kind is bool and text.lower() in _TRUE + _FALSE:
        return text.lower() in _TRUE
    if kind in (int, float, str):
        with suppress(ValueError):
            return kind(text)
    raise InputError(f"--set {key} must be {_WORDS[kind]}. Got {text!r} instead.")


def _literal(text: str) -> Any:
    """Read a value of a parameter whose default is None."""
    if text.lower() == "none":
        return None
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text
