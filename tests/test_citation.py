"""CITATION.cff: what the software and the paper are called, as everywhere else."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def test_the_citation_is_of_this_software_and_of_the_paper() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
    assert cited["title"].startswith("adcgan")
    assert f'license = "{cited["license"]}"' in project
    assert f'authors = [{{ name = "{cited["authors"][0]["name"]}" }}]' in project
    (paper,) = cited["references"]
    front = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert re.search(f"\\*{paper['title']}\\*", front)
    for author in paper["authors"]:
        assert author["family-names"] in front
