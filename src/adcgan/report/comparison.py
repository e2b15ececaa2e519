"""Plots of our figures against the paper's, and of the audit. As in `adcgan.report.plots`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from adcgan.report.plots import ANOMALOUS, GRID, INK, MUTED, NORMAL

_CHANCE = 50
# Colours and marks that tell detectors apart, by shape alone too.
_LOOKS = list(
    zip(4 * (NORMAL, ANOMALOUS, INK, MUTED), (*"os^D", *"s^Do", *"^Dos", *"Dos^"), strict=True)
)


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
        Label of each pair of bars, from top to bottom.
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
    axes.barh(places - height / 2, ours, height, color=NORMAL, label="ours")
    whiskers = np.zeros(len(names)) if spread is None else np.nan_to_num(np.asarray(spread, float))
    known = np.flatnonzero(whiskers)
    axes.errorbar(
        np.asarray(ours, dtype=np.float64)[known],
        places[known] - height / 2,
        xerr=whiskers[known],
        fmt="none",
        ecolor=INK,
        elinewidth=1,
        capsize=2,
    )
    if np.isfinite(np.asarray(paper, dtype=np.float64)).any():
        axes.barh(places + height / 2, paper, height, color=ANOMALOUS, label="paper")
    axes.axvline(_CHANCE, color=MUTED, linewidth=1, linestyle=(0, (4, 4)), label="chance")
    axes.set_yticks(places, names)
    axes.set(xlim=(0, 100), xlabel="AUROC (%)")
    axes.invert_yaxis()
    return _dressed(axes)


def aurocs_by_class(axes: Axes, names: Sequence[str], points: Mapping[str, ArrayLike]) -> Axes:
    """Draw the AUROC of every class, one kind of mark for each detector.

    Parameters
    ----------
    axes : Axes
        Where to draw.
    names : sequence of str, length n
        The classes, from left to right.
    points : mapping of str to array-like of shape (n,)
        AUROCs in percent by detector; nan where there is none.

    Returns
    -------
    Axes
        `axes`.
    """
    places = np.arange(len(names))
    lowest = float(_CHANCE)
    for (name, values), (colour, marker) in zip(points.items(), cycle(_LOOKS), strict=False):
        aurocs = np.asarray(values, dtype=np.float64)
        axes.plot(places, aurocs, marker, markersize=5, color=colour, alpha=0.8, label=name)
        lowest = min(lowest, float(np.nanmin(aurocs, initial=_CHANCE)))
    axes.axhline(_CHANCE, color=MUTED, linewidth=1, linestyle=(0, (4, 4)), label="chance")
    axes.set_xticks(places, names)
    if max(map(len, names)) > 2:
        axes.tick_params(axis="x", rotation=45)
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    axes.set(ylim=(max(0, lowest - 5), 102), ylabel="AUROC (%)")
    return _dressed(axes, n_columns=2)


def scatter_against_paper(axes: Axes, points: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> Axes:
    """Draw our figures over the paper's; on the diagonal the two agree.

    Parameters
    ----------
    axes : Axes
        Where to draw.
    points : mapping of str to (ours, paper)
        AUROCs in percent by label, (n,) each.

    Returns
    -------
    Axes
        `axes`.
    """
    axes.plot([0, 100], [0, 100], color=MUTED, linewidth=1, linestyle=(0, (4, 4)), label="equal")
    for (name, (ours, paper)), (colour, marker) in zip(points.items(), cycle(_LOOKS), strict=False):
        axes.scatter(paper, ours, s=18, color=colour, marker=marker, alpha=0.8, label=name)
    axes.set(xlim=(0, 100), ylim=(0, 100), aspect="equal", xlabel="paper (AUROC, %)", ylabel="ours")
    # What a mark is of takes a line: data set, scheme, detector and settings.
    return _dressed(axes, n_columns=1)


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


def _dressed(axes: Axes, n_columns: int = 4) -> Axes:
    """Give a plot its grid, its legend above, and the common look."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=n_columns,
        frameon=False,
        labelcolor=INK,
        fontsize=8,
    )
    axes.set_axisbelow(True)
    axes.grid(color=GRID, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(colors=MUTED, length=3)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.patch.set_alpha(0)
    return axes
