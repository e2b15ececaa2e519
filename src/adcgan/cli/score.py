"""``adcgan score``: score images with a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adcgan.cli import options
from adcgan.cli.inputs import check_output_file, images_to_score, make_folder
from adcgan.cli.terminal import print_json, print_table, say

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from adcgan.detectors import Detector
    from adcgan.detectors.assessment import Assessment

_SHOWN = 5


def score(
    model: options.Model,
    data: Annotated[
        str,
        typer.Argument(
            help="Images: a folder, a file, an .npy or .npz file, or a named set's test split."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The CSV file to write.")],
    heatmaps: Annotated[
        Path | None, typer.Option(help="A folder for a heatmap of each image.")
    ] = None,
    fpr: Annotated[
        float | None,
        typer.Option(help="Decide by this false-positive budget instead of the model's own."),
    ] = None,
    strict: options.Strict = False,
    json: options.Json = False,
    device: options.Device = "auto",
) -> None:
    """Score images: one CSV row for each input, unreadable ones included.

    Columns: path, score (higher is more anomalous), p_value, anomalous (0 or 1), the parts of the
    score, error.
    """
    from adcgan.detectors import load
    from adcgan.report import write_heatmaps, write_scores

    check_output_file(out)
    detector = load(model, device=device)
    threshold, in_force = _threshold(detector, fpr)
    images = images_to_score(detector, data, strict=strict)
    assessment = detector.assess(images)
    decided = _decided(assessment, threshold)
    if heatmaps is not None:
        hottest = write_heatmaps(heatmaps, detector, images, assessment.scores[images.positions])
        say(f"heatmaps in {heatmaps}; the top colour is an anomaly value of {hottest:.4g} or more")
    make_folder(out.parent)
    write_scores(out, assessment, decided)
    result = _result(assessment, decided) | {"threshold": threshold, "fpr": in_force}
    if json:
        print_json(result | {"scores": str(out)})
    else:
        _show(result, out)


def _threshold(detector: Detector, fpr: float | None) -> tuple[float, float | None]:
    """Return the threshold and the budget in force, warning where the one asked for is not."""
    from adcgan.report.wording import percent
    from adcgan.scoring import images_needed, threshold_for_budget

    if fpr is None:
        return detector.threshold_, detector.fpr_
    threshold = threshold_for_budget(detector.calibration_scores_, fpr)
    if not threshold.supported:
        say(
            f"warning: a budget of {percent(fpr, 4)} takes {images_needed(fpr):,} held-out normal "
            f"images; the model has {detector.n_calibration_:,}, so the budget in force is "
            f"{percent(threshold.fpr_in_force, 2)}"
        )
    return threshold.value, threshold.fpr_in_force


def _decided(assessment: Assessment, threshold: float) -> NDArray[np.int64]:
    """Return 1 anomalous, 0 normal, -1 unreadable, by `threshold`."""
    import numpy as np

    readable = np.array([not error for error in assessment.errors])
    return np.where(readable, assessment.scores > threshold, -1).astype(np.int64)


def _result(assessment: Assessment, decided: NDArray[np.int64]) -> dict[str, Any]:
    """Return the counts, and the few images with the highest scores."""
    import numpy as np

    n_unreadable = sum(map(bool, assessment.errors))
    ranked = np.argsort(-np.nan_to_num(assessment.scores, nan=-np.inf), kind="stable")
    return {
        "n_scored": len(decided) - n_unreadable,
        "n_anomalous": int((decided == 1).sum()),
        "n_unreadable": n_unreadable,
        "highest": [
            {
                "path": assessment.names[i],
                "score": float(assessment.scores[i]),
                "p_value": float(assessment.p_values[i]),
                "anomalous": int(decided[i]),
            }
            for i in ranked[: min(_SHOWN, len(decided) - n_unreadable)]
        ],
    }


def _show(result: dict[str, Any], out: Path) -> None:
    """Print the summary for people."""
    from adcgan.report.wording import counted, printable

    line = f"{counted(result['n_scored'], 'image')} scored, {result['n_anomalous']:,} anomalous "
    line += f"(score above {result['threshold']:.4g}), {result['n_unreadable']:,} unreadable"
    typer.echo(f"{line}; {out}")
    print_table(
        ["highest scores", "score", "p", "anomalous"],
        [
            [
                printable(row["path"]),
                f"{row['score']:.4g}",
                f"{row['p_value']:.3g}",
                "yes" if row["anomalous"] else "no",
            ]
            for row in result["highest"]
        ],
    )
