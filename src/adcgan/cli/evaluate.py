"""``adcgan evaluate``: how good a model is on labelled images."""

from __future__ import annotations

import json as json_text
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adcgan.cli import options
from adcgan.cli.inputs import check_output_folder, images_to_judge, make_folder
from adcgan.cli.terminal import finite, print_json, print_table, say
from adcgan.files import write_json, write_text

if TYPE_CHECKING:
    from adcgan.benchmark import Evaluation
    from adcgan.data import ImageSet
    from adcgan.scoring import Scorer


def evaluate(
    model: options.ModelOrExport,
    data: Annotated[
        str,
        typer.Argument(
            help="A folder with normal/ and anomalous/ in it, or with test/good/, test/DEFECT/ and "
            "ground_truth/DEFECT/; a manifest (.csv, .parquet) with labels; a named set (its test "
            "split), or an .npz file with labels."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The folder for the results.")],
    normal: options.Normal = None,
    anomalous: options.Anomalous = None,
    strict: options.Strict = False,
    json: options.Json = False,
    device: options.Device = "auto",
) -> None:
    """Evaluate a model on labelled images: metrics.json, scores.csv and report.html.

    Types of defects have figures of their own and, where masks mark them, figures over pixels.

    An .npz file whose labels are 0 (normal) and 1 (anomalous) needs neither --normal nor
    --anomalous.
    """
    from adcgan import load

    check_output_folder(out, resume=True)
    detector = load(model, device=device)
    images = images_to_judge(detector, data, normal=normal, anomalous=anomalous, strict=strict)
    make_folder(out)
    evaluation = evaluate_into(out, detector, images, model)
    if json:
        print_json(evaluation.metrics)
    else:
        show(evaluation.metrics)
    say(f"report     {out / 'report.html'}")


def evaluate_into(out: Path, detector: Scorer, images: ImageSet, model: Path) -> Evaluation:
    """Evaluate and write scores.csv, metrics.json and report.html into the folder `out`."""
    from adcgan.benchmark import evaluate as evaluated
    from adcgan.report import evaluation_page, render, write_scores

    evaluation = evaluated(detector, images)
    write_scores(out / "scores.csv", evaluation.assessment)
    write_json(out / "metrics.json", finite(evaluation.metrics))
    page = evaluation_page(detector, images, evaluation, read_run(model))
    write_text(out / "report.html", render(page))
    return evaluation


def read_run(model: Path) -> dict[str, Any]:
    """Return the training run's record, empty for a model that was saved without one."""
    path = model / "run.json"
    if not path.exists():
        return {}
    run: dict[str, Any] = json_text.loads(path.read_text(encoding="utf-8"))
    return run


def show(metrics: dict[str, Any]) -> None:
    """Print the figures for people."""
    from adcgan.report.sections import defects, figures

    rows = [row[:2] for row in figures(metrics).data["rows"]]
    low, high = metrics["auroc_ci95"]
    rows.insert(1, ("  95% interval", f"{low:.4f} to {high:.4f}"))
    rows += [(f"AUROC of {name}", f"{value:.4f}") for name, value in metrics["components"].items()]
    rows.append(("Images", f"{metrics['n_normal']:,} normal, {metrics['n_anomalous']:,} anomalous"))
    if metrics["n_unreadable"]:
        rows.append(("Unreadable, left out", f"{metrics['n_unreadable']:,}"))
    print_table(["figure", "value"], rows)
    section = defects(metrics)
    if section is None:
        return
    table = section.data
    print_table(["defect", "images", "AUROC", "caught"], [list(row[:4]) for row in table["rows"]])
    if table["columns"]:
        print_table(["defect", *table["columns"]], [[row[0], *row[4]] for row in table["rows"]])
        typer.echo("The threshold of best F1 is chosen on test data, never used.")
    for line in table["left_out"]:
        say(f"pixels     {line}")
