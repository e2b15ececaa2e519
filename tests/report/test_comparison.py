from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from matplotlib.figure import Figure

from adcgan.report import comparison


@pytest.fixture
def axes():
    return Figure().add_subplot()


def texts(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_every_plot_returns_the_axes_it_was_given(axes):
    assert comparison.bars_against_paper(axes, ["a"], [90], [80]) is axes
    assert comparison.scatter_against_paper(axes, {"a": ([90], [80])}) is axes
    assert comparison.audit_histogram(axes, [0.1, 0.9], [0.5, 0.5], 0.7, 0.6) is axes
    assert comparison.aurocs_by_class(axes, ["0", "1"], {"a": [90, 80]}) is axes


def test_bars_leave_the_paper_out_where_it_has_no_figure(axes):
    comparison.bars_against_paper(axes, ["a", "b"], [90, 80], [np.nan, np.nan])
    assert texts(axes) == ["chance", "ours"]
    assert [bar.get_width() for bar in axes.patches] == [90, 80]


def test_classes_have_a_mark_each_and_detectors_differ_by_shape_and_colour(axes):
    names = [f"d{i}" for i in range(10)]
    comparison.aurocs_by_class(axes, ["0", "1", "2"], {n: [99, np.nan, 40] for n in names})
    lines = axes.lines[:10]
    assert [line.get_label() for line in lines] == names
    assert all(line.get_ydata()[0] == 99 for line in lines)
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 10
    for one, other in pairwise(lines):
        assert one.get_color() != other.get_color()
        assert one.get_marker() != other.get_marker()


def test_a_class_below_chance_is_in_sight(axes):
    comparison.aurocs_by_class(axes, ["cat", "dog"], {"a": [12, 90]})
    low, high = axes.get_ylim()
    assert low < 12
    assert high > 100
