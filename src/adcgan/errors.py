"""The errors that a caller is expected to meet, one class for each way to go on."""

from __future__ import annotations


class InputError(ValueError):
    """The user's input is wrong; the message names it, what is allowed and what came instead."""


class DivergedError(RuntimeError):
    """Training produced a loss that is not finite; the message names the loss and the step."""


class MissingExtraError(ImportError):
    """An optional dependency is not installed; the message says how to install it."""
