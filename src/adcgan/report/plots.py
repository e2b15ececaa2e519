"""Plots: each function draws arrays on an axes object and returns it.

No function here computes a metric, opens a window or touches matplotlib's global state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

# Two hues that people with any kind of colour vision tell apart, and the greys around them.
# The page replaces each by a variable of its own, so that dark mode reaches the plots.
NORMAL = "#2a66c4"
ANOMALOUS = "#b8481a"
INK = "#1c2434"
MUTED = "#5c6678"
GRID = "#e3e7ee"
COLOURS = {
    NORMAL: "normal",
    ANOMALOUS: "anomalous",
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
}

_N_BINS = 40
# Share of the scores that may lie beyond each end of a histogram's axis.
_TAIL = 0.005


def roc_curve(
    axes: Axes,
    false_positive_rate: ArrayLike,
    true_positive_rate: ArrayLike,
    operating_point: tuple[float, float] | None = None,
) -> Axes:
    """Draw a ROC curve beside the diagonal of chance.

    Parameters
    ----------
    axes : Axes
        Where to draw.
    false_positive_rate, true_positive_rate : array-like of shape (n,)
        The curve's points, in [0, 1].
    operating_point : tuple of float, optional
        False- and true-positive rate at the threshold in force, marked by a dot.

    Returns
    -------
    Axes
        `axes`.
    """
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 4)), label="chance")
    axes.plot(false_positive_rate, true_positive_rate, color=NORMAL, linewidth=2, label="detector")
    if operating_point is not None:
        axes.plot(
            *operating_point,
            marker="o",
            markersize=7,
            color=ANOMALOUS,
            linestyle="none",
            label="threshold in force",
            clip_on=False,
        )
    axes.set(xlabel="normal images flagged", ylabel="anomalous images caught")
    return _unit_square(axes, legend="lower right")


def precision_recall_curve(
    axes: Axes, precision: ArrayLike, recall: ArrayLike, chance: float
) -> Axes:
    """Draw precision over recall.

    Parameters
    ----------
    axes : Axes
        Where to draw.
    precision, recall : array-like of shape (n,)
        The curve's points, in [0, 1].
    chance : float
        The share of anomalous images, which is the precision of flagging at random.

    Returns
    -------
    Axes
        `axes`.
    """
    axes.axhline(chance, color=MUTED, linewidth=1, linestyle=(0, (4, 4)), label="chance")
    axes.step(recall, precision, where="post", color=NORMAL, linewidth=2, label="detector")
    axes.set(xlabel="anomalous images caught", ylabel="flagged images that are anomalous")
    return _unit_square(axes, legend="lower left")


def score_histogram(
    axes: Axes,
    scores: Mapping[str, ArrayLike],
    threshold: float | None = None,
    budget: float | None = None,
) -> Axes:
    """Draw the distribution of scores, one group of images beside the other.

    Parameters
    ----------
    axes : Axes
        Where to draw.
    scores : mapping of str to array-like of shape (n,)
        Finite scores by the group's name. The group named ``anomalous`` has its own colour.
        Bars are shares of their group, so that a small group can be compared with a large one;
        the outermost bars hold the half percent of scores beyond the axis.
    threshold : float, optional
        Drawn as an upright line, with what lies above it tinted.
    budget : float, optional
        The false-alarm budget that the threshold keeps, in (0, 1); written in the legend.

    Returns
    -------
    Axes
        `axes`.
    """
    groups = {name: np.asarray(values, dtype=np.float64) for name, values in scores.items()}
    low, high = np.quantile(np.concatenate(list(groups.values())), [_TAIL, 1 - _TAIL])
    if threshold is not None:
        low, high = min(low, threshold), max(high, threshold)
    edges = np.linspace(low, high if high > low else low + 1, _N_BINS + 1)
    for name, values in groups.items():
        colour = ANOMALOUS if name == "anomalous" else NORMAL
        axes.hist(
            np.clip(values, edges[0], edges[-1]),
            bins=edges.tolist(),
            weights=np.full(len(values), 1 / len(values)),
            color=colour,
            alpha=0.55,
            label=name,
        )
    if threshold is not None:
        label = "threshold" if budget is None else f"threshold (budget {100 * budget:.3g}%)"
        axes.axvline(threshold, color=INK, linewidth=1.5, linestyle=(0, (5, 3)), label=label)
        axes.axvspan(threshold, max(threshold, edges[-1]), color=MUTED, alpha=0.1, linewidth=0)
    axes.set(xlabel="score (higher is more anomalous)", ylabel="share of the images")
    return _dressed(_legend_above(axes, n_columns=2))


def training_curves(
    axes: Axes,
    steps: ArrayLike,
    curves: Mapping[str, ArrayLike],
    marks: Mapping[str, float] | None = None,
) -> Axes:
    """Draw losses over training steps.

    Parameters
    ----------
    axes : Axes
        Where to draw.
    steps : array-like of shape (n,)
        Training steps.
    curves : mapping of str to array-like of shape (n,)
        Value at each step by name; nan where there is none.
    marks : mapping of str to float, optional
        Steps to mark by an upright line, by what happened there.

    Returns
    -------
    Axes
        `axes`.
    """
    colours = (NORMAL, ANOMALOUS, MUTED, INK)
    for i, (name, values) in enumerate(curves.items()):
        axes.plot(steps, values, color=colours[i % len(colours)], linewidth=1.4, label=name)
    for name, step in (marks or {}).items():
        axes.axvline(step, color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
        axes.annotate(
            name,
            (step, 1),
            xycoords=("data", "axes fraction"),
            xytext=(4, -10),
            textcoords="offset points",
            color=MUTED,
        )
    axes.set(xlabel="step")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    if len(curves) > 1:
        _legend_above(axes)
    return _dressed(axes)


def image_grid(
    axes: Axes,
    images: ArrayLike,
    captions: Sequence[str] | None = None,
    n_columns: int = 8,
) -> Axes:
    """Draw images of one size in rows.

    Parameters
    ----------
    axes : Axes
        Where to draw.
    images : array-like of shape (n, H, W) or (n, H, W, C)
        Floats in [0, 1] or uint8; C is 1 or 3.
    captions : sequence of str, optional
        One for each image, written below it.
    n_columns : int, default=8
        Images in a row.

    Returns
    -------
    Axes
        `axes`.
    """
    stack = np.asarray(images)
    if stack.ndim == 4 and stack.shape[-1] == 1:
        stack = stack[..., 0]
    height, width = stack.shape[1:3]
    # Room between images, and below them for a caption, in pixels of the images.
    gap_x, gap_y = 0.08 * width, (0.35 if captions else 0.08) * height
    for i, image in enumerate(stack):
        row, column = divmod(i, n_columns)
        left, top = column * (width + gap_x), row * (height + gap_y)
        axes.imshow(
            image,
            extent=(left, left + width, top + height, top),
            cmap="gray",
            vmin=0,
            vmax=255 if stack.dtype == np.uint8 else 1,
            interpolation="nearest",
        )
        if captions:
            axes.text(
                left + width / 2, top + height + gap_y / 2, captions[i], ha="center", va="center"
            )
    n_rows = -(-len(stack) // n_columns)
    axes.set_xlim(0, min(len(stack), n_columns) * (width + gap_x))
    axes.set_ylim(n_rows * (height + gap_y), 0)
    axes.set_aspect("equal")
    axes.set_axis_off()
    return axes


def _unit_square(axes: Axes, legend: Literal["lower left", "lower right"]) -> Axes:
    """Set the scale of a plot of one rate over another."""
    axes.set(xlim=(0, 1), ylim=(0, 1.01), aspect="equal")
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25%", "50%", "75%", "100%"])
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25%", "50%", "75%", "100%"])
    axes.legend(loc=legend, frameon=False, labelcolor=INK)
    return _dressed(axes)


def _legend_above(axes: Axes, n_columns: int = 3) -> Axes:
    """Put the legend where it cannot cover the data."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=n_columns,
        frameon=False,
        labelcolor=INK,
        borderaxespad=0.2,
        columnspacing=1.2,
        handlelength=1.5,
    )
    return axes


def _dressed(axes: Axes) -> Axes:
    """Give the frame, grid and labels of every plot their common look."""
    axes.set_axisbelow(True)
    axes.grid(color=GRID, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(colors=MUTED, length=3)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.patch.set_alpha(0)
    return axes
