"""An assessment in a notebook: what it counts, lists and shows."""

from __future__ import annotations

import re

import numpy as np
import pytest

from adcgan import DETECTORS, Detector, load_images


@pytest.fixture(scope="module")
def detector() -> Detector:
    rng = np.random.default_rng(0)
    return DETECTORS["pixel-pca"](fpr=0.2).fit(rng.integers(90, 110, (60, 16, 16), np.uint8))


def test_an_assessment_lists_the_highest_scores_first(detector: Detector) -> None:
    images = np.full((14, 16, 16), 100, np.uint8)
    images[3, 4:8, 4:8], images[9, 4:12, 4:12] = 200, 255
    html = detector.assess(images)._repr_html_()
    assert re.findall(r"<tr><td>(\d+)</td>", html)[:2] == ["9", "3"]
    assert "2 of 14 images are anomalous" in html
    assert "<img" not in html
    assert html.count("<tr>") == 11


def test_maps_are_shown_where_there_are_some(detector: Detector) -> None:
    html = detector.assess(np.full((3, 16, 16), 100, np.uint8), maps=True)._repr_html_()
    assert html.count('<img src="data:image/png') == 1
    assert "Anomaly maps of the 3 most anomalous" in html


def test_names_are_escaped_and_unreadable_images_counted(detector: Detector, tmp_path) -> None:
    from PIL import Image

    Image.fromarray(np.full((16, 16), 100, np.uint8)).save(tmp_path / "<b>.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    images = load_images(tmp_path, image_size=16)
    html = detector.assess(images)._repr_html_()
    assert "&lt;b&gt;.png" in html
    assert "1 could not be read" in html
