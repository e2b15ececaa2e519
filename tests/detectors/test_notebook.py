from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_html_repr

from adcgan import ADCGAN
from adcgan.detectors.notebook import html_of

EMPTY = {"rect", "line"}


class Closed(HTMLParser):
    """Fails on elements that are not closed in order, and collects the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.said: list[str] = []
        self.feed(html)
        assert self.open == []
        self.text = " ".join(" ".join(self.said).split())

    def handle_starttag(self, tag: str, attrs: Any) -> None:  # noqa: ARG002
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.said.append(data)


def fitted(**changes: Any) -> ADCGAN:
    """Return a detector with the state that a fitted one has, without the training."""
    detector = ADCGAN(width=0.25, device="cpu<script>")
    learned = {
        "image_shape_": (3, 64, 64),
        "n_train_": 1200,
        "n_calibration_": 100,
        "threshold_": 9.5,
        "fpr_": 0.01,
        "calibration_scores_": np.sort(np.random.default_rng(0).normal(5, 1, 100)),
    }
    vars(detector).update(learned | changes)
    return detector


def test_a_fitted_detector_shows_facts_threshold_and_a_histogram() -> None:
    html = html_of(fitted())
    text = Closed(html).text
    assert text.startswith("ADCGAN is fitted images 64×64 pixels, colour")
    assert "trained on 1,200 normal images held out 100 normal images" in text
    assert "threshold 9.5 (budget 1%)" in text
    heights = [float(h) for h in re.findall(r'<rect [^>]*height="([\d.]+)"', html)]
    assert 10 < len(heights) <= 30
    assert max(heights) == 60.0
    line = re.search(r'<line x1="([\d.]+)"', html)
    assert line is not None
    assert float(line[1]) == 240.0  # all held-out scores are below the threshold


def test_parameters_that_were_changed_stand_out_and_text_is_escaped() -> None:
    html = html_of(ADCGAN(width=0.25, device="<b>"))
    assert "<strong><code>0.25</code></strong> (default 1.0)" in html
    assert "<td><code>32</code></td>" in html
    assert "<b>" not in html
    assert "&lt;b&gt;" in html
    Closed(html)


def test_equal_scores_and_a_threshold_from_contamination_are_shown() -> None:
    detector = fitted(calibration_scores_=np.full(3, 2.0), threshold_=2.0, fpr_=None)
    assert "threshold 2 (from contamination)" in Closed(html_of(detector)).text


def test_nothing_is_asked_from_elsewhere() -> None:
    html = html_of(fitted())
    assert "http" not in html
    assert "<script" not in html
    assert "url(" not in html


def test_a_pipeline_with_a_detector_is_still_drawn_by_scikit_learn() -> None:
    pipeline = Pipeline([("same", FunctionTransformer()), ("detector", ADCGAN())])
    assert "ADCGAN" in estimator_html_repr(pipeline)
