"""The documentation tells the truth: its code runs and its links lead somewhere."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_local_links_lead_to_files(page: Path) -> None:
    prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)", prose):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_readmes_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for block in blocks:
            names: dict[str, object] = {}
            exec(compile(block, "README.md", "exec"), names)
    assert len(names["scores"]) == len(names["digits"])
    assert set(names["labels"]) == {0, 1}


def test_the_docstring_example_of_adcgan_runs() -> None:
    import doctest

    from adcgan.detectors import adcgan

    results = doctest.testmod(adcgan)
    assert (results.attempted, results.failed) == (6, 0)
