"""The lines of a table of results, and what several seeds say together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.special import stdtrit

from adcgan.benchmark.published import Subject

# Below this many seeds nothing is said of how sure a figure is.
SEEDS_FOR_A_CLAIM = 3
MISSING = "missing"


@dataclass(frozen=True)
class Line:
    """One figure of ours beside the paper's.

    Attributes
    ----------
    dataset, scheme, detector : str
        What was measured.
    subject : str
        "average" over classes, the number of one class, or a variant of the score.
    settings : str
        What differs from the benchmark's defaults, "" if nothing does.
    seeds : tuple of int
        The seeds that `ours` is the mean of.
    ours, spread : float or None
        Mean and standard deviation over seeds in percent; no spread with one seed.
    interval : tuple of float or None
        Student's 95% interval of the mean over seeds, from `SEEDS_FOR_A_CLAIM` seeds on.
    paper : float or None
        The paper's figure in percent.
    state : str
        Why there is no figure of ours: "missing", or how many of the classes there are.
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
    """One of the paper's tables, one like it for another league, or one of categories.

    Attributes
    ----------
    number : int
        1, 3 or 4; of another league, that of the paper's table with the same subjects; 0 for
        photographs with defects, of which the paper has none.
    title : str
        What it shows; says so first if the figures are no honest ones.
    lines : sequence of Line
        In the paper's order.
    notes : sequence of str
        What a reader must know beside the figures.
    protocol, split : str
        What all rows behind it have in common.
    league : str
        "" for the paper's tables, else the `Detector.league` of its detectors.
    figure : str
        With `number` 0, what is shown: a line for each category and detector.
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
    """Return a line from one value in percent for each seed; `state` is for none.

    Parameters
    ----------
    key : tuple of str
        Data set, scheme, subject and detector.
    settings : str
        What differs from the benchmark's defaults.
    by_seed : mapping of int to float
        May be empty.
    paper : float or None
        The paper's figure in percent.
    state : str
        Why there is no value.
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
    """Return the mean, and the standard deviation of a sample if there is more than one value."""
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return float(np.mean(values)), spread


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return Student's 95% interval of the mean, None below `SEEDS_FOR_A_CLAIM` values.

    Equal values have none either: a detector without randomness is not surer for more seeds.
    """
    mean, spread = mean_and_spread(values)
    n = len(values)
    if n < SEEDS_FOR_A_CLAIM or not spread:
        return None
    half = float(stdtrit(n - 1, 0.975)) * spread / n**0.5
    return mean - half, mean + half
