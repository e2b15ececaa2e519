"""HTML representation of detectors for notebooks."""

from __future__ import annotations

import inspect
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from adcgan.detectors.base import Detector

_N_BINS, _WIDTH, _HEIGHT = 30, 240, 60


def html_of(detector: Detector) -> str:
    """Return an HTML fragment with the fitted state and the threshold, or with the parameters.

    It is self-contained and inherits colours and fonts from the page.
    """
    name = f"<strong>{escape(type(detector).__name__)}</strong>"
    if not hasattr(detector, "threshold_"):
        return f"<div><div>{name} is not fitted yet</div>{_parameters(detector)}</div>"
    facts = "".join(f"<tr>{_heading(k)}<td>{escape(v)}</td></tr>" for k, v in _facts(detector))
    return (
        f"<div><div>{name} is fitted</div><table>{facts}</table>{_histogram(detector)}"
        f"<details><summary>Parameters</summary>{_parameters(detector)}</details></div>"
    )


def _heading(text: str) -> str:
    """Return a row heading."""
    return f'<th scope="row" style="text-align: left">{escape(text)}</th>'


def _facts(detector: Detector) -> list[tuple[str, str]]:
    """Return the main facts about a fitted detector."""
    channels, height, width = detector.image_shape_
    budget = "from contamination" if detector.fpr_ is None else f"budget {100 * detector.fpr_:.3g}%"
    return [
        ("images", f"{height}×{width} pixels, {'grey' if channels == 1 else 'colour'}"),
        ("trained on", f"{detector.n_train_:,} normal images"),
        ("held out", f"{detector.n_calibration_:,} normal images"),
        ("threshold", f"{detector.threshold_:.4g} ({budget})"),
    ]


def _histogram(detector: Detector) -> str:
    """Draw the scores of the held-out images as bars and the threshold as a line."""
    scores = detector.calibration_scores_
    low = float(min(scores.min(), detector.threshold_))
    high = float(max(scores.max(), detector.threshold_))
    counts, _ = np.histogram(scores, _N_BINS, (low, high if high > low else low + 1))
    step = _WIDTH / _N_BINS
    tallest = counts.max()
    bars = "".join(
        f'<rect x="{i * step:.1f}" y="{_HEIGHT * (1 - count / tallest):.1f}" '
        f'width="{step - 1:.1f}" height="{_HEIGHT * count / tallest:.1f}"/>'
        for i, count in enumerate(counts.tolist())
        if count
    )
    line = _WIDTH * (detector.threshold_ - low) / (high - low) if high > low else 0.0
    label = (
        f"Histogram of the held-out images' scores, from {low:.4g} to {high:.4g}, with the "
        f"threshold at {detector.threshold_:.4g}"
    )
    return (
        f'<svg role="img" aria-label="{escape(label)}" width="{_WIDTH + 2}" height="{_HEIGHT}" '
        f'viewBox="-1 0 {_WIDTH + 2} {_HEIGHT}" style="margin: 6px 0; max-width: 100%">'
        f'<g fill="currentColor" fill-opacity="0.55">{bars}</g>'
        f'<line x1="{line:.1f}" x2="{line:.1f}" y1="0" y2="{_HEIGHT}" stroke="currentColor" '
        'stroke-width="2" stroke-dasharray="5 3"/></svg>'
    )


def _parameters(detector: Detector) -> str:
    """Return a table of the parameters that highlights those changed from their defaults."""
    defaults = inspect.signature(type(detector)).parameters
    rows = "".join(
        f"<tr>{_heading(name)}<td>{_value(value, defaults[name].default)}</td></tr>"
        for name, value in detector.get_params().items()
    )
    return f"<table>{rows}</table>"


def _value(value: Any, default: Any) -> str:
    """Return a parameter's value, highlighted if it was changed."""
    text = f"<code>{escape(repr(value))}</code>"
    return (
        text if value == default else f"<strong>{text}</strong> (default {escape(repr(default))})"
    )
