from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest

from adcgan.report import comparison, plots

PAGE = Path(__file__).parents[2] / "docs" / "report.md"


def test_the_code_of_the_page_on_notebooks_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    found = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(found) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for code in found:
            exec(compile(code, PAGE.name, "exec"), names)
    (region, *_) = names["regions"]
    assert region.top <= 41 < region.top + region.height
    assert {path.name for path in tmp_path.iterdir()} == {"plots.png", "report.html"}


def test_the_page_on_notebooks_lists_every_plot() -> None:
    section = PAGE.read_text(encoding="utf-8").split("\n## In notebooks\n")[1].split("\n## ")[0]
    listed = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
    public = {
        name
        for name, thing in vars(plots).items()
        if callable(thing) and thing.__module__ == plots.__name__ and not name.startswith("_")
    }
    assert listed == public
    assert comparison.__name__ in section
