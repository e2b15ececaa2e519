"""The sections of a page, each made from what a detector or an evaluation knows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from adcgan.benchmark import precision_recall_points, roc_points
from adcgan.data.thumbnails import contact_sheet, data_uri
from adcgan.errors import InputError
from adcgan.report import plots
from adcgan.report.gallery import gallery
from adcgan.report.page import Section
from adcgan.report.pictures import svg, to_uint8
from adcgan.report.shares import Share, mean_difference, shares
from adcgan.report.wording import counted, percent, value
from adcgan.scoring import false_alarm_interval, images_needed, smallest_budget

if TYPE_CHECKING:
    from adcgan.benchmark import Evaluation
    from adcgan.data import ImageSet
    from adcgan.scoring import Scorer

# Columns of the training history that are not losses or figures of health.
_NOT_CURVES = {"step", "epoch", "seconds", "warning"}
_MANY_POINTS = 500
_LISTED = 20
_SAMPLES, _SAMPLE_COLUMNS, _SAMPLE_SEED, _SAMPLE_SIDE = 24, 6, 0, 64
# Budgets that people ask for.
_BUDGETS = (0.1, 0.05, 0.01, 0.001)


def figures(metrics: Mapping[str, Any]) -> Section:
    """Return the table of figures; `metrics` as `adcgan.benchmark.evaluate` makes it."""
    low, high = metrics["auroc_ci95"]
    at = metrics["at_threshold"]
    rows = [
        (
            "AUROC",
            f"{metrics['auroc']:.4f}",
            f"95% interval {low:.4f} to {high:.4f} over the choice of test images. The chance that "
            "an anomalous image scores above a normal one; 0.5 is chance, and it is never flipped.",
        ),
        (
            "Average precision",
            f"{metrics['average_precision']:.4f}",
            f"Chance is {_prevalence(metrics):.4f}, the share of anomalous images.",
        ),
        (
            "False alarms at 95% caught",
            percent(metrics["fpr95"], 2),
            "Share of normal images flagged when 95% of the anomalous ones are.",
        ),
        (
            "Caught at the threshold",
            percent(at["true_positive_rate"], 2),
            f"Share of the {counted(metrics['n_anomalous'], 'anomalous image')}.",
        ),
        (
            "False alarms at the threshold",
            percent(at["false_positive_rate"], 2),
            f"Share of the {counted(metrics['n_normal'], 'normal image')}"
            + ("." if at["fpr"] is None else f"; the budget is {percent(at['fpr'], 2)}."),
        ),
    ]
    unreadable = metrics["unreadable"]
    data = {"rows": rows, "unreadable": unreadable[:_LISTED], "n_unreadable": len(unreadable)}
    return Section("figures", "Figures", data)


# What the columns of figures over pixels are called, and the keys of `pixel_summary`.
PIXEL_COLUMNS = {
    "Pixel AUROC": "pixel_auroc",
    "Pixel average precision": "pixel_average_precision",
    "PRO to 30%": "pro30",
    "Best F1": "pixel_best_f1",
    "at threshold": "pixel_best_f1_threshold_chosen_on_test",
}


def defects(metrics: Mapping[str, Any]) -> Section | None:
    """Return a table of the types of defects, None where nothing is known of them.

    Its ``rows`` are (name, images, AUROC, share caught, figures over pixels), the last for all
    defects together; its ``columns`` name the figures over pixels, none where there are none.
    """
    pixels, left_out = metrics["pixels"], metrics["pixels_left_out"]
    if not metrics["defects"] and pixels is None and not left_out:
        return None
    everything = {
        "n": metrics["n_anomalous"],
        "auroc": metrics["auroc"],
        "caught": metrics["at_threshold"]["true_positive_rate"],
        "pixels": pixels,
    }
    rows = [
        (
            name,
            f"{row['n']:,}",
            f"{row['auroc']:.4f}",
            percent(row["caught"]),
            _over_pixels(row["pixels"]) if pixels is not None else [],
        )
        for name, row in {**metrics["defects"], "all defects": everything}.items()
    ]
    data = {
        "rows": rows,
        "columns": [] if pixels is None else list(PIXEL_COLUMNS),
        "left_out": left_out,
        "pixels": pixels,
        "n_normal": metrics["n_normal"],
    }
    return Section("defects", "Types of defects", data)


def _over_pixels(figures: Mapping[str, Any] | None) -> list[str]:
    """Return the figures over pixels as text, in the order of `PIXEL_COLUMNS`."""
    if figures is None:
        return ["–"] * len(PIXEL_COLUMNS)
    *shares, threshold = (figures[key] for key in PIXEL_COLUMNS.values())
    return [f"{share:.4f}" for share in shares] + [value(threshold)]


def curves(evaluation: Evaluation) -> Section:
    """Return the ROC and precision-recall curves and the distribution of scores."""
    known = evaluation.labels >= 0
    labels, scores = evaluation.labels[known], evaluation.assessment.scores[known]
    metrics = evaluation.metrics
    at = metrics["at_threshold"]
    point = (at["false_positive_rate"], at["true_positive_rate"])
    roc, precision_recall = roc_points(labels, scores), precision_recall_points(labels, scores)
    groups = {"normal": scores[labels == 0], "anomalous": scores[labels == 1]}
    drawn = [
        (
            "Scores",
            "The less normal and anomalous images overlap, the better. " + _at_the_threshold(at),
            svg(
                lambda axes: plots.score_histogram(axes, groups, at["threshold"], at["fpr"]),
                "Histogram of the scores of normal and anomalous images, with the threshold at "
                f"{at['threshold']:.4g}. {_at_the_threshold(at)}",
            ),
        ),
        (
            "ROC curve",
            "What catching more anomalous images costs in false alarms.",
            svg(
                lambda axes: plots.roc_curve(axes, *roc, operating_point=point),
                f"ROC curve with an area of {metrics['auroc']:.4f}; at the threshold in force "
                f"{percent(point[1])} are caught with {percent(point[0])} false alarms.",
            ),
        ),
        (
            "Precision and recall",
            "How many of the flagged images are anomalous, with this share of anomalous images.",
            svg(
                lambda axes: plots.precision_recall_curve(
                    axes, *precision_recall, chance=_prevalence(metrics)
                ),
                "Precision-recall curve with an average precision of "
                f"{metrics['average_precision']:.4f}.",
            ),
        ),
    ]
    return Section("curves", "Separation", {"plots": _plots(drawn)})


def pictures(detector: Scorer, images: ImageSet, evaluation: Evaluation) -> Section:
    """Return the most anomalous, the borderline and the most normal images."""
    rows, hottest = gallery(detector, images, evaluation)
    cards = [card for row in rows for card in row.cards]
    data = {
        "rows": rows,
        "hottest": hottest,
        "large": any(card.large for card in cards),
        "marked": any(card.marked for card in cards),
        "found": any(card.found for card in cards),
    }
    return Section("pictures", "Images", data)


def components(detector: Scorer, evaluation: Evaluation) -> Section | None:
    """Return each part's share in the score, and other scores of the same parts.

    None where the detector gives no parts. The figures are those of `adcgan.report.shares.Share`.
    """
    if not evaluation.assessment.components:
        return None
    known = evaluation.labels >= 0
    parts = {name: part[known] for name, part in evaluation.assessment.components.items()}
    contributions = detector.score_contributions(parts)
    labels = evaluation.labels[known]
    found = shares(parts, contributions, labels)
    data = {
        "shares": found,
        "finding": _finding(found),
        "difference": mean_difference(np.sum(list(contributions.values()), axis=0), labels == 0),
        "variants": evaluation.metrics["variants"],
        "whole": evaluation.metrics["auroc"],
    }
    return Section("components", "Which part decides", data)


def _finding(found: list[Share]) -> str:
    """Say in one sentence which part decides."""
    brought = {share.name: share.of_difference for share in found}
    known = {name: share for name, share in brought.items() if share is not None}
    if not known:
        return (
            "No part decides: the score of anomalous images is not higher on average than that of "
            "normal ones."
        )
    first = max(known, key=lambda name: known[name])
    return (
        f"The part named {first} decides most: it accounts for {percent(known[first])} of what "
        "sets anomalous images apart from normal ones on average."
    )


def samples(detector: Scorer) -> Section | None:
    """Return images that the generator makes, None for detectors without one."""
    try:
        made = to_uint8(detector.generate(_SAMPLES, seed=_SAMPLE_SEED))
    except InputError:
        return None
    sheet = contact_sheet(made, _SAMPLE_COLUMNS, gap=max(1, made.shape[1] // 16))
    # Shown at about the size of the other pictures, whatever the detector's.
    times = max(1.0, _SAMPLE_SIDE / made.shape[1])
    data = {
        "n": len(made),
        "seed": _SAMPLE_SEED,
        "sheet": data_uri(sheet),
        "n_rows": -(-len(made) // _SAMPLE_COLUMNS),
        "height": round(sheet.shape[0] * times),
        "width": round(sheet.shape[1] * times),
    }
    return Section("samples", "Generated images", data)


def training(detector: Scorer) -> Section | None:
    """Return the training curves and the warnings of the health watch, None without a history."""
    rows = [row for row in detector.history_ if "warning" not in row]
    warnings = [row for row in detector.history_ if "warning" in row]
    names = list(dict.fromkeys(key for row in rows for key in row if _is_curve(key, row[key])))
    if not names and not warnings:
        return None
    thin = rows[:: math.ceil(len(rows) / _MANY_POINTS)] if rows else []
    phases = _phase_starts(rows)
    drawn = []
    for name in names:
        points = [(row["step"], row[name]) for row in thin if name in row]
        drawn.append(_training_plot(name, np.array(points, dtype=np.float64), phases))
    return Section("training", "Training", {"plots": _plots(drawn), "warnings": warnings})


def _training_plot(
    name: str, points: NDArray[np.float64], phases: dict[str, float]
) -> tuple[str, str, str]:
    """Return title, note and picture of one training curve through points (n, 2)."""
    title = name.replace("_", " ").replace("/", ": ")
    steps, series = points.T
    # A phase that a loss begins with needs no mark of its own.
    marks = {phase: step for phase, step in phases.items() if step > steps[0]}
    picture = svg(
        lambda axes: plots.training_curves(axes, steps, {title: series}, marks),
        f"{title} over the training steps; the last value is {value(float(series[-1]))}.",
        size=(3.2, 2.1),
    )
    return title, "", picture


def calibration(detector: Scorer) -> Section:
    """Return where the threshold comes from and what budget it can keep."""
    n = int(detector.n_calibration_)
    scores = np.asarray(detector.calibration_scores_, dtype=np.float64)
    threshold = float(detector.threshold_)
    drawn = []
    if n:
        drawn.append(
            (
                "Held-out normal images",
                "",
                svg(
                    lambda axes: plots.score_histogram(
                        axes, {"held out": scores}, detector.threshold_, detector.fpr_
                    ),
                    f"Histogram of the scores of {counted(n, 'held-out normal image')}, with the "
                    f"threshold at {detector.threshold_:.4g}.",
                ),
            )
        )
    data = {
        "n": n,
        "threshold": threshold,
        "contamination": detector.contamination,
        "smallest": smallest_budget(n),
        "requested": detector.fpr,
        "in_force": detector.fpr_,
        "needed": images_needed(detector.fpr),
        "interval": None if detector.fpr_ is None else false_alarm_interval(scores, threshold),
        "budgets": [(budget, images_needed(budget)) for budget in _BUDGETS],
        "plots": _plots(drawn),
    }
    return Section("calibration", "Calibration", data)


def configuration(tables: Mapping[str, Mapping[str, Any]]) -> Section:
    """Return tables of names and values, by the table's title."""
    return Section("configuration", "Configuration", {"tables": tables})


def facts(rows: Mapping[str, str]) -> Section:
    """Return what was trained on what."""
    return Section("facts", "What was trained", {"rows": rows})


def _plots(drawn: list[tuple[str, str, str]]) -> list[dict[str, Any]]:
    """Name the parts of each plot; our own SVG text goes in unescaped."""
    return [
        {"title": title, "note": note, "svg": Markup(picture)} for title, note, picture in drawn
    ]


def _at_the_threshold(at: Mapping[str, Any]) -> str:
    """Say how many normal images the threshold promises to flag, and how many it flags."""
    flagged = percent(at["false_positive_rate"], 2)
    if at["fpr"] is None:
        return f"{flagged} of the normal images lie above the threshold."
    return (
        f"The false-alarm budget of the threshold is {percent(at['fpr'], 2)}; "
        f"{flagged} of these normal images lie above it."
    )


def _prevalence(metrics: Mapping[str, Any]) -> float:
    """Return the share of anomalous images."""
    n = metrics["n_anomalous"] + metrics["n_normal"]
    return float(metrics["n_anomalous"] / n)


def _is_curve(key: str, thing: object) -> bool:
    """Tell a loss or figure of health from the other columns of the history."""
    return (
        key not in _NOT_CURVES
        and isinstance(thing, (int, float))
        and not isinstance(thing, bool)
        and math.isfinite(thing)
    )


def _phase_starts(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the step at which each phase after the first begins."""
    starts: dict[str, float] = {}
    for row in rows:
        if "phase" in row:
            starts.setdefault(str(row["phase"]), float(row["step"]))
    return dict(list(starts.items())[1:])
