"""Results for people: plots, one-file HTML pages, score tables and heatmaps.

The names are imported on first use: a table of scores takes neither matplotlib nor scikit-learn.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adcgan.report.heatmap_files import write_heatmaps
    from adcgan.report.page import Page, Section, Tile, render
    from adcgan.report.pages import evaluation_page, model_page, verdict
    from adcgan.report.region_files import write_regions
    from adcgan.report.scores import write_scores
    from adcgan.report.selection import comparison_page
    from adcgan.report.sweep import sweep_page

_HOME = {
    "Page": "page",
    "Section": "page",
    "Tile": "page",
    "comparison_page": "selection",
    "evaluation_page": "pages",
    "model_page": "pages",
    "render": "page",
    "sweep_page": "sweep",
    "verdict": "pages",
    "write_heatmaps": "heatmap_files",
    "write_regions": "region_files",
    "write_scores": "scores",
}

__all__ = [
    "Page",
    "Section",
    "Tile",
    "comparison_page",
    "evaluation_page",
    "model_page",
    "render",
    "sweep_page",
    "verdict",
    "write_heatmaps",
    "write_regions",
    "write_scores",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'adcgan.report' has no attribute {name!r}")
    return getattr(import_module(f"adcgan.report.{_HOME[name]}"), name)
