"""Detector settings, each declared once with its default, its rule and its help text.

    class Mine(Detector):
        width: float = setting(1.0, real(0, 4, above=True), "Scale of every hidden width.")

declares a keyword argument that the constructor only stores, a check that
`Settings.check_parameters` makes, and an entry under "Parameters" in the class docstring.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar

from typing_extensions import dataclass_transform

from adcgan.data.image_file import MAX_LONGEST, MIN_LONGEST, MIN_SIZE, RESIZES
from adcgan.errors import InputError
from adcgan.training.device import PRECISIONS


@dataclass(frozen=True)
class Rule:
    """The values that a setting allows, as a predicate and in words."""

    allows: Callable[[Any], bool]
    words: str


def _is(value: Any, kind: type) -> bool:
    """Return whether `value` is a number of this `kind`; booleans are not."""
    return isinstance(value, kind) and not isinstance(value, bool)


def whole(least: int, most: int | None = None) -> Rule:
    """Allow whole numbers from `least` to `most`."""
    upper = math.inf if most is None else most
    words = f"a whole number of at least {least}" + ("" if most is None else f" and at most {most}")
    return Rule(lambda v: _is(v, Integral) and least <= v <= upper, words)


def real(least: float, most: float = math.inf, *, above: bool = False, below: bool = False) -> Rule:
    """Allow numbers from `least` to `most`; `above` and `below` exclude the end points."""

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
    """Allow only these values."""
    return Rule(lambda v: v in values, "one of " + ", ".join(repr(v) for v in values))


def maybe(rule: Rule) -> Rule:
    """Allow None as well."""
    return Rule(lambda v: v is None or rule.allows(v), f"None or {rule.words}")


text = Rule(lambda v: isinstance(v, str), "text")


def check(owner: str, parameters: Mapping[str, Any], rules: Mapping[str, Rule]) -> None:
    """Raise `InputError` for the first of `parameters` that breaks its rule."""
    for name, value in parameters.items():
        if not rules[name].allows(value):
            raise InputError(
                f"The {name!r} parameter of {owner} must be {rules[name].words}. "
                f"Got {value!r} instead."
            )


def setting(default: Any, rule: Rule, doc: str) -> Any:
    """Declare a setting in the body of a subclass of `Settings`."""
    return dataclasses.field(default=default, metadata={"rule": rule, "doc": doc})


# -- settings that several systems share -----------------------------------------------------------


def longest_side_setting() -> Any:
    """Declare the image size, for systems that take images of any size."""
    doc = (
        'With resize="keep", the maximum length of the longer side in pixels, '
        f"{MIN_LONGEST} to {MAX_LONGEST}; None keeps the original size. Otherwise, the side of a "
        "square, 16 to 256."
    )
    return setting(None, maybe(whole(MIN_SIZE, MAX_LONGEST)), doc)


def resize_setting() -> Any:
    """Declare how images are resized, for systems that take images of any size."""
    doc = (
        'How images are resized: "keep" preserves the aspect ratio; "squash", "crop" and "pad" '
        "make them square."
    )
    return setting("keep", one_of(*RESIZES), doc)


def peak_share_setting(default: float) -> Any:
    """Declare the fraction of a map that makes the score."""
    doc = (
        "Fraction of an image's locations, those farthest from normal ones, whose mean distance is "
        "the score. Use a smaller fraction for small defects in large images."
    )
    return setting(default, real(0, 1, above=True), doc)


def latent_dim_setting(default: int) -> Any:
    """Declare the latent dimension."""
    return setting(default, whole(1), "Dimension z of the latent.")


def width_setting(default: float = 1.0) -> Any:
    """Declare the width of the networks."""
    doc = "Factor on all hidden widths; 1 is the published network."
    return setting(default, real(0, 4, above=True), doc)


def batch_size_setting(default: int) -> Any:
    """Declare the batch size."""
    return setting(default, whole(2), "Images per step.")


def epochs_setting(default: int) -> Any:
    """Declare the number of epochs."""
    return setting(default, whole(1), "Passes over the images.")


def min_steps_setting(default: int = 2500) -> Any:
    """Declare the minimum number of steps."""
    return setting(default, whole(0), "Minimum number of steps, however few the images.")


def learning_rate_setting(default: float, of: str = "all networks") -> Any:
    """Declare a learning rate."""
    return setting(default, real(0, above=True), f"Adam's learning rate for {of}.")


def precision_setting() -> Any:
    """Declare the precision of training."""
    doc = 'Training precision: "auto", "float32" or "bf16". Scoring always uses float32.'
    return setting("auto", one_of(*PRECISIONS), doc)


# Type checkers and editors treat the class body as a dataclass, so they know the signature.
@dataclass_transform(kw_only_default=True, eq_default=False)
class Settings:
    """Base class that turns the settings in the bodies of its subclasses into parameters."""

    # The description of the class: its docstring without parameter lists and examples.
    about: ClassVar[str]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        dataclass(kw_only=True, eq=False, repr=False)(cls)
        cls.about = _prose(cls.__doc__)
        cls.__doc__ = _with_parameters(cls)

    @classmethod
    def rules(cls) -> dict[str, Rule]:
        """Return the rule of each setting, by name."""
        return {field.name: field.metadata["rule"] for field in declared(cls)}

    @classmethod
    def described(cls) -> dict[str, tuple[Any, str]]:
        """Return the default and the help text of each setting, by name."""
        return {field.name: (field.default, field.metadata["doc"]) for field in declared(cls)}

    def check_parameters(self) -> None:
        """Raise `InputError` for the first setting that breaks its rule."""
        rules = self.rules()
        check(type(self).__name__, {name: getattr(self, name) for name in rules}, rules)


def declared(cls: type) -> tuple[dataclasses.Field[Any], ...]:
    """Return the settings of a class as dataclass fields."""
    return dataclasses.fields(cls)


def _prose(documentation: str | None) -> str:
    """Return the part of a docstring before its first section, followed by its notes."""
    head, *sections = re.split(r"^(\w+)\n-+\n", inspect.cleandoc(documentation or ""), flags=re.M)
    titled = dict(zip(sections[::2], sections[1::2], strict=True))
    return "\n\n".join(part.strip() for part in (head, titled.get("Notes", "")) if part.strip())


def _with_parameters(cls: type) -> str:
    """Return the docstring of a class with its settings inserted after the first paragraph."""
    entries = [
        f"{field.name} : {field.type}, default={field.default!r}\n"
        + textwrap.indent(textwrap.fill(field.metadata["doc"], 92), "    ")
        for field in declared(cls)
    ]
    head, _, rest = (cls.__doc__ or "").partition("\n\n")
    section = "Parameters\n----------\n" + "\n".join(entries)
    parts = [head, textwrap.indent(section, "    "), rest.rstrip() or None]
    return "\n\n".join(part for part in parts if part) + "\n"
