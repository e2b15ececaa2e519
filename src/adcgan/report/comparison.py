"""Plots of our figures against the paper's, and of the audit. As in `adcgan.report.plots`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from adcgan.report.plots import ANOMALOUS, GRID, INK, MUTED, NORMAL

_CHANCE = 50


def bars_against_paper(
    axes: Axes,
    names: Sequence[str],
    ours: ArrayLike,
    paper: ArrayLike,
    spread: ArrayLike | None = None,
) -> Axes:
    """Draw our figure and the paper's beside one another.

    Parameters
    ----------
    axes : Axes
        Where to draw.
    names : sequence of str, length n
        What each pair of bars is of, from top to bottom.
    ours, paper : array-like of shape (n,)
        AUROCs in percent; nan where there is none.
    spread : array-like of shape (n,), optional
        Standard deviation of `ours`; nan or 0 draws no whisker.

    Returns
    -------
    Axes
        `axes`.
    """
    places, height = np.arange(len(names)), 0.36
    whiskers = None if spread is None else np.nan_to_num(np.asarray(spread, dtype=np.float64))
    axes.barh(
        places - height / 2,
        ours,
        height,
        xerr=whiskers,
        color=NORMAL,
        error_kw={"ecolor": INK, "elinewidth": 1, "capsize": 2},
        label="ours",
    )
    axes.barh(places + height / 2, paper, height, color=ANOMALOUS, label="paper")
    axes.axvline(_CHANCE, color=MUTED, linewidth=1, linestyle=(0, (4, 4)), label="chance")
    axes.set_yticks(places, names)
    axes.set(xlim=(0, 100), xlabel="AUROC (%)")
    axes.invert_yaxis()
    return _dressed(axes)


def scatter_against_paper(axes: Axes, points: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> Axes:
    """Draw our figures over the paper's; on the diagonal the two agree.

    Parameters
    ----------
    axes : Axes
        Where to draw.
    points : mapping of str to (ours, paper)
        AUROCs in percent by what they are of, (n,) each.

    Returns
    -------
    Axes
        `axes`.
    """
    axes.plot([0, 100], [0, 100], color=MUTED, linewidth=1, linestyle=(0, (4, 4)), label="equal")
    looks = [(c, m) for m in ("o", "s", "^", "D") for c in (NORMAL, ANOMALOUS, INK, MUTED)]
    for i, (name, (ours, paper)) in enumerate(points.items()):
        colour, marker = looks[i % len(looks)]
        axes.scatter(paper, ours, s=18, color=colour, marker=marker, alpha=0.8, label=name)
    axes.set(xlim=(0, 100), ylim=(0, 100), aspect="equal", xlabel="paper (AUROC, %)", ylabel="ours")
    return _dressed(axes)


def audit_histogram(
    axes: Axes, released: ArrayLike, control: ArrayLike, honest: float, fresh: float
) -> Axes:
    """Draw the AUROCs that one model gets by the z that anomalous images share.

    Parameters
    ----------
    axes : Axes
        Where to draw.
    released : array-like of shape (draws,)
        AUROC in [0, 1] for each shared z.
    control : array-like of shape (draws,)
        The same where there is nothing to detect.
    honest, fresh : float
        AUROC of the model's own score, and with a fresh z for every image.

    Returns
    -------
    Axes
        `axes`.
    """
    edges = np.linspace(0, 1, 51)
    axes.hist(control, bins=edges.tolist(), color=MUTED, alpha=0.5, label="nothing to detect")
    axes.hist(released, bins=edges.tolist(), color=ANOMALOUS, alpha=0.6, label="one z shared")
    axes.axvline(honest, color=NORMAL, linewidth=2, label="honest score")
    axes.axvline(fresh, color=INK, linewidth=1.5, linestyle=(0, (5, 3)), label="fresh z for each")
    axes.set(xlim=(0, 1), xlabel="AUROC", ylabel="draws of z")
    return _dressed(axes)


def _dressed(axes: Axes) -> Axes:
    """Give a plot its grid, its legend above, and the common look."""
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False, labelcolor=INK, fontsize=8
    )
    axes.set_axisbelow(True)
    axes.grid(color=GRID, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(colors=MUTED, length=3)
    return axes
