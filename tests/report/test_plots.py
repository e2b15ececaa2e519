from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

from adcgan.report import plots


@pytest.fixture
def axes():
    return Figure().add_subplot()


def texts(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_every_plot_returns_the_axes_it_was_given(axes):
    assert plots.roc_curve(axes, [0, 1], [0, 1]) is axes
    assert plots.precision_recall_curve(axes, [1, 0.5], [0, 1], chance=0.5) is axes
    assert plots.score_histogram(axes, {"normal": [1, 2]}) is axes
    assert plots.training_curves(axes, [0, 1], {"loss": [2, 1]}) is axes
    assert plots.image_grid(axes, np.zeros((2, 4, 4))) is axes


def test_roc_curve_draws_the_points_the_diagonal_and_the_operating_point(axes):
    plots.roc_curve(axes, [0, 0.2, 1], [0, 0.9, 1], operating_point=(0.2, 0.9))
    chance, curve, point = axes.lines
    assert chance.get_xydata().tolist() == [[0, 0], [1, 1]]
    assert curve.get_xydata().tolist() == [[0, 0], [0.2, 0.9], [1, 1]]
    assert point.get_xydata().tolist() == [[0.2, 0.9]]
    assert texts(axes) == ["chance", "detector", "threshold in force"]


def test_precision_recall_curve_draws_recall_across_and_chance(axes):
    plots.precision_recall_curve(axes, [0.5, 1], [1, 0], chance=0.3)
    chance, curve = axes.lines
    assert set(chance.get_ydata()) == {0.3}
    assert curve.get_xdata().tolist() == [1, 0]


def test_histogram_bars_are_shares_of_their_own_group(axes):
    plots.score_histogram(axes, {"normal": np.arange(50), "anomalous": [10.0, 20.0]}, 30.0)
    heights = [sum(bar.get_height() for bar in group) for group in axes.containers]
    assert heights == pytest.approx([1, 1])
    assert texts(axes) == ["normal", "anomalous", "threshold"]


def test_histogram_names_the_budget_and_tints_what_is_flagged(axes):
    plots.score_histogram(axes, {"normal": np.arange(50.0)}, 40.0, budget=0.005)
    assert texts(axes) == ["normal", "threshold (budget 0.5%)"]
    (tinted,) = [p for p in axes.patches if p not in list(axes.containers[0])]
    assert tinted.get_x() == 40.0
    assert tinted.get_x() + tinted.get_width() == pytest.approx(49.0, abs=0.5)


def test_histogram_keeps_far_away_scores_in_its_outermost_bars(axes):
    scores = np.append(np.linspace(0, 1, 999), 1e6)
    plots.score_histogram(axes, {"normal": scores})
    assert axes.get_xlim()[1] < 2
    assert sum(bar.get_height() for bar in axes.containers[0]) == pytest.approx(1)


def test_histogram_shows_a_threshold_beyond_the_scores(axes):
    plots.score_histogram(axes, {"normal": [0.0, 1.0]}, threshold=5.0)
    assert axes.get_xlim()[0] <= 0
    assert axes.get_xlim()[1] >= 5


def test_histogram_of_equal_scores_is_drawn(axes):
    plots.score_histogram(axes, {"normal": [2.0, 2.0]}, threshold=2.0)
    assert sum(bar.get_height() for bar in axes.containers[0]) == pytest.approx(1)


def test_training_curves_draw_each_loss_and_mark(axes):
    plots.training_curves(axes, [0, 5], {"a": [1, 2], "b": [3, np.nan]}, {"joint": 3})
    assert [line.get_label() for line in axes.lines[:2]] == ["a", "b"]
    assert axes.lines[2].get_xdata()[0] == 3
    assert texts(axes) == ["a", "b"]


def test_one_training_curve_needs_no_legend(axes):
    assert plots.training_curves(axes, [0, 1], {"loss": [2, 1]}).get_legend() is None


@pytest.mark.parametrize("shape", [(5, 4, 6), (5, 4, 6, 1), (5, 4, 6, 3)])
def test_image_grid_places_every_image_without_overlap(axes, shape):
    plots.image_grid(axes, np.zeros(shape, np.uint8), captions=list("abcde"), n_columns=2)
    boxes = [image.get_extent() for image in axes.images]
    assert len(boxes) == 5
    assert [text.get_text() for text in axes.texts] == list("abcde")
    for i, (left, right, bottom, top) in enumerate(boxes):
        assert (right - left, bottom - top) == (6, 4)
        for other_left, other_right, other_bottom, other_top in boxes[:i]:
            apart_x = left >= other_right or right <= other_left
            assert apart_x or top >= other_bottom or bottom <= other_top


def test_image_grid_shows_bytes_and_floats_on_their_whole_range(axes):
    plots.image_grid(axes, np.zeros((1, 2, 2), np.uint8))
    plots.image_grid(axes, np.zeros((1, 2, 2), np.float32))
    assert [image.get_clim() for image in axes.images] == [(0, 255), (0, 1)]


def test_pyplot_is_never_imported():
    code = "import sys, adcgan.report; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
