"""The lines of result tables, and statistics over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.special import stdtrit

from adcgan.benchmark.published import Subject

# Minimum number of seeds for a confidence interval.
SEEDS_FOR_A_CLAIM = 3
MISSING = "missing"


@dataclass(frozen=True)
class Line:
    """One of our figures and the paper's figure.

    Attributes
    ----------
    dataset, scheme, detector : str
        The data set, the scheme and the detector.
    subject : str
        "average" over classes, the number of a class, or a variant of the score.
    settings : str
        Settings that differ from the benchmark's defaults, "" if none do.
    seeds : tuple of int
        Seeds over which `ours` is averaged.
    ours, spread : float or None
        Mean and standard deviation over seeds in percent; with one seed, there is no spread.
    interval : tuple of float or None
        Student's 95% interval of the mean over seeds, if there are `SEEDS_FOR_A_CLAIM` or more.
    paper : float or None
        The paper's figure in percent.
    state : str
        Why we have no figure: "missing", or how many of the classes are done.
    """

    dataset: str
    scheme: str
    subject: str
    detector: str
    settings: str = ""
    seeds: tuple[int, ...] = ()
    ours: float | None = None
    spread: float | None = None
    interval: tuple[float, float] | None = None
    paper: float | None = None
    state: str = ""


@dataclass(frozen=True)
class Table:
    """One of the paper's tables, the same table for another league, or a table of categories.

    Attributes
    ----------
    number : int
        1, 3 or 4, as in the paper; for another league, the number of the paper's table with the
        same subjects; 0 for images with defects, which are not in the paper.
    title : str
        Title of the table, which starts with a warning if the figures are not honest ones.
    lines : sequence of Line
        Lines in the paper's order.
    notes : sequence of str
        Notes to the figures.
    protocol, split : str
        Protocol and split of all underlying rows.
    league : str
        "" for the paper's tables, otherwise the `Detector.league` of its detectors.
    figure : str
        With `number` 0, the figure that is shown, one line per category and detector.
    """

    number: int
    title: str
    lines: Sequence[Line]
    notes: Sequence[str] = field(default=())
    protocol: str = "paper"
    split: str = "test"
    league: str = ""
    figure: str = ""


def line_of(
    key: Subject,
    settings: str,
    by_seed: Mapping[int, float],
    paper: float | None,
    state: str,
) -> Line:
    """Build a line from one value in percent per seed; `state` is used if there are none.

    Parameters
    ----------
    key : tuple of str
        Data set, scheme, subject and detector.
    settings : str
        Settings that differ from the benchmark's defaults.
    by_seed : mapping of int to float
        Values by seed; may be empty.
    paper : float or None
        The paper's figure in percent.
    state : str
        Why there are no values.
    """
    dataset, scheme, subject, detector = key
    if not by_seed:
        return Line(dataset, scheme, subject, detector, settings, paper=paper, state=state)
    seeds = tuple(sorted(by_seed))
    values = [by_seed[seed] for seed in seeds]
    mean, spread = mean_and_spread(values)
    return Line(
        dataset, scheme, subject, detector, settings, seeds, mean, spread, interval(values), paper
    )


def mean_and_spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and, for more than one value, the sample standard deviation."""
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return float(np.mean(values)), spread


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return Student's 95% interval of the mean, or None below `SEEDS_FOR_A_CLAIM` values.

    Equal values also give None: repeating a deterministic detector does not add certainty.
    """
    mean, spread = mean_and_spread(values)
    n = len(values)
    if n < SEEDS_FOR_A_CLAIM or not spread:
        return None
    half = float(stdtrit(n - 1, 0.975)) * spread / n**0.5
    return mean - half, mean + half
