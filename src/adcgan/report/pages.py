"""Whole pages: of an evaluation, and of a model that was not evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from adcgan.report import sections
from adcgan.report.page import Page, Tile
from adcgan.report.wording import counted, percent, printable

if TYPE_CHECKING:
    from adcgan.benchmark import Evaluation
    from adcgan.data import ImageSet
    from adcgan.scoring import Scorer


def evaluation_page(
    detector: Scorer,
    images: ImageSet,
    evaluation: Evaluation,
    run: Mapping[str, Any] | None = None,
) -> Page:
    """Return the page of an evaluation.

    Parameters
    ----------
    detector : Scorer
        What was evaluated.
    images : ImageSet
        What it was evaluated on.
    evaluation : Evaluation
        What `adcgan.benchmark.evaluate` returned for the two.
    run : mapping, optional
        The training run's record (``run.json`` of the model folder).

    Returns
    -------
    Page
        To be given to `adcgan.report.render`.
    """
    metrics = evaluation.metrics
    tested = counted(metrics["n_normal"], "normal image") + " and "
    tested += counted(metrics["n_anomalous"], "anomalous image") + f" of {metrics['data']}"
    parts = [
        sections.facts(_trained(detector, metrics["detector"], run) | {"Tested on": tested}),
        sections.figures(metrics),
        sections.defects(metrics),
        sections.curves(evaluation),
        sections.pictures(detector, images, evaluation),
        sections.components(detector, evaluation),
        sections.samples(detector),
        sections.training(detector),
        sections.calibration(detector),
        sections.configuration(
            {
                "Settings": metrics["settings"],
                "Versions": metrics["versions"],
                "Hardware": metrics["hardware"],
            }
        ),
    ]
    return Page(
        title=f"{metrics['detector']} on {printable(metrics['data'])}",
        verdict=verdict(metrics),
        tiles=_tiles(metrics),
        sections=[part for part in parts if part is not None],
        footer=f"Evaluated {metrics['date']} by adcgan {metrics['versions']['adcgan']}.",
    )


def model_page(
    detector: Scorer, detector_name: str, model_name: str, run: Mapping[str, Any]
) -> Page:
    """Return the page of a model without an evaluation.

    Parameters
    ----------
    detector : Scorer
        The fitted detector.
    detector_name : str
        Its name on the command line.
    model_name : str
        The name of the model folder.
    run : mapping
        The training run's record (``run.json`` of the model folder).

    Returns
    -------
    Page
        To be given to `adcgan.report.render`.
    """
    parts = [
        sections.facts(_trained(detector, detector_name, run)),
        sections.samples(detector),
        sections.training(detector),
        sections.calibration(detector),
        sections.configuration(
            {"Settings": detector.get_params()}
            | {name.capitalize(): run[name] for name in ("versions", "hardware") if name in run}
        ),
    ]
    tiles = [
        Tile("Training images", f"{detector.n_train_:,}"),
        Tile("Held-out images", f"{detector.n_calibration_:,}"),
        Tile("Threshold", f"{detector.threshold_:.4g}"),
    ]
    if detector.fpr_ is not None:
        tiles.append(Tile("False-alarm budget", percent(detector.fpr_, 2)))
    return Page(
        title=f"{detector_name} model {printable(model_name)}",
        verdict=(
            f"Trained on {counted(detector.n_train_, 'normal image')}; an image is called "
            f"anomalous when its score is above {detector.threshold_:.4g}. Evaluate the model to "
            "know how many anomalous images that catches."
        ),
        tiles=tiles,
        sections=[part for part in parts if part is not None],
        footer="Made from the model folder.",
    )


def verdict(metrics: Mapping[str, Any]) -> str:
    """Return the evaluation in one sentence; `metrics` as `adcgan.benchmark.evaluate` makes it."""
    at = metrics["at_threshold"]
    low, high = metrics["auroc_ci95"]
    opening = "No better than chance on these images: " if low <= 0.5 <= high else ""
    if high < 0.5:
        opening = "Worse than chance: normal images score higher than anomalous ones. "
    return (
        f"{opening}AUROC {metrics['auroc']:.3f} (95% interval {low:.3f} to {high:.3f}); the "
        f"threshold catches {percent(at['true_positive_rate'])} of "
        f"{counted(metrics['n_anomalous'], 'anomalous image')} and flags "
        f"{percent(at['false_positive_rate'])} of {counted(metrics['n_normal'], 'normal image')}."
    )


def _tiles(metrics: Mapping[str, Any]) -> list[Tile]:
    at = metrics["at_threshold"]
    low, high = metrics["auroc_ci95"]
    return [
        Tile("AUROC", f"{metrics['auroc']:.3f}", f"95% interval {low:.3f} to {high:.3f}"),
        Tile("Average precision", f"{metrics['average_precision']:.3f}"),
        Tile("Caught at the threshold", percent(at["true_positive_rate"])),
        Tile(
            "False alarms",
            percent(at["false_positive_rate"]),
            "" if at["fpr"] is None else f"budget {percent(at['fpr'], 2)}",
        ),
    ]


def _trained(detector: Scorer, detector_name: str, run: Mapping[str, Any] | None) -> dict[str, str]:
    """Return what was trained on what, by the name of the fact."""
    channels, height, width = detector.image_shape_
    colour = {1: "grey", 3: "colour"}[channels]
    source = f" of {run['source']}" if run else ""
    rows = {
        "Detector": detector_name,
        "Trained on": counted(detector.n_train_, "normal image") + source,
        "Held out": f"{counted(detector.n_calibration_, 'normal image')}, for the threshold",
        "Images": f"{height}×{width} pixels, {colour}",
    }
    steps = [row["step"] for row in detector.history_ if "step" in row]
    if steps:
        rows["Steps"] = f"{max(steps) + 1:,}"
    if run:
        hardware = run["hardware"]
        rows["Trained on device"] = f"{hardware['device']} ({hardware['name']})"
    return rows
