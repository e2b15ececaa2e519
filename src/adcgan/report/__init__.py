"""What a detector found, for people: plots, one-file HTML pages, score tables and heatmaps."""

from __future__ import annotations

from adcgan.report.heatmaps import write_heatmaps
from adcgan.report.page import Page, Section, Tile, render
from adcgan.report.pages import evaluation_page, model_page, verdict
from adcgan.report.scores import write_scores

__all__ = [
    "Page",
    "Section",
    "Tile",
    "evaluation_page",
    "model_page",
    "render",
    "verdict",
    "write_heatmaps",
    "write_scores",
]
