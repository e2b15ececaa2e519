"""What the structure promises: no reaching into other packages, few hooks, few exceptions."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

import adcgan
from adcgan import DETECTORS, Detector
from adcgan.detectors import Model
from adcgan.scoring import Scorer

PACKAGE = Path(adcgan.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
# Decided by the class, not by what it computes: what a system says of itself.
FACTS = {
    "name",
    "about",
    "league",
    "extra",
    "packages",
    "not_exported",
    "capturable",
    "own_steps",
    "on_cpu",
    "candidate",
}


def package_of(path: Path) -> str:
    """Return the package that a module belongs to, the first below ``adcgan``."""
    return path.relative_to(PACKAGE).parts[0]


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def private_names(tree: ast.AST) -> set[str]:
    """Return the private names that a module defines: functions, classes, methods, attributes."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, (ast.Attribute, ast.Name)) and isinstance(node.ctx, ast.Store):
            found.add(node.attr if isinstance(node, ast.Attribute) else node.id)
    return {name for name in found if is_private(name)}


def reaches(source: str, own: set[str], others: set[str]) -> list[str]:
    """Return the private members of other packages that a module reads, writes or imports."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            of_self = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if node.attr in others - own and not of_self:
                found.append(f"{node.lineno}: {node.attr}")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("adcgan."):
            found += [f"{node.lineno}: {a.name}" for a in node.names if is_private(a.name)]
    return found


def test_no_package_reaches_into_the_private_members_of_another() -> None:
    names: dict[str, set[str]] = defaultdict(set)
    for path in FILES:
        names[package_of(path)] |= private_names(ast.parse(path.read_text(encoding="utf-8")))
    assert len(names) > 8
    for path in FILES:
        own = names[package_of(path)]
        others = set().union(*(found for name, found in names.items() if name != package_of(path)))
        found = reaches(path.read_text(encoding="utf-8"), own, others)
        assert not found, f"{path.relative_to(PACKAGE)}: {', '.join(found)}"


def test_the_search_for_reaches_finds_one() -> None:
    source = "from adcgan.scoring import _hidden\ndetector._combine(x)\nself._own\nother._mine\n"
    found = reaches(source, own={"_mine", "_own"}, others={"_combine", "_hidden", "_mine"})
    assert found == ["1: _hidden", "2: _combine"]


def overridden(base: type, kinds: list[type]) -> set[str]:
    """Return the members of `base`, facts apart, that any of `kinds` defines anew."""
    known = {name for kind in base.__mro__[:-1] for name in vars(kind)}
    mine = {name for kind in kinds for name in vars(kind)}
    return {n for n in known & mine - FACTS if not n.startswith("__") and not n.startswith("_abc")}


def test_a_system_overrides_ten_members_at_most() -> None:
    kinds = list(DETECTORS.values())
    settings = {name for kind in kinds for name in kind.rules()}
    models = [kind for kind in Model.__subclasses__() if kind.__module__.startswith("adcgan.")]
    assert len(models) == len(kinds)
    of_detector = overridden(Detector, kinds) - settings
    of_model = overridden(Model, models)
    assert "make_model" in of_detector
    assert {"forward", "combine", "recipe"} <= of_model
    made_by_tools = {n for n in of_detector if n.startswith(("set_", "_sklearn", "_doc"))}
    assert len((of_detector - made_by_tools) | of_model) <= 10, of_detector | of_model


def test_no_detector_is_the_base_of_another() -> None:
    for kind in DETECTORS.values():
        assert kind.__bases__ == (Detector,)


@pytest.mark.parametrize(
    ("pattern", "most"), [(r"(?<![\w.])cast\(", 4), (r"# type: ignore", 8), (r"# noqa", 4)]
)
def test_exceptions_from_the_checks_are_few(pattern: str, most: int) -> None:
    found = [
        f"{path.relative_to(PACKAGE)}:{number}"
        for path in FILES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(pattern, line)
    ]
    assert len(found) <= most, found


def test_what_computes_is_asked_through_one_interface() -> None:
    from adcgan.onnx.scorer import OnnxBackend

    for member in ("images_at_once", "scored", "combine", "variants"):
        assert hasattr(Model, member)
        assert hasattr(OnnxBackend, member)
    asked: dict[str, Any] = vars(Scorer)
    assert {"decision_function", "assess", "verdict", "passes"} <= set(asked)
