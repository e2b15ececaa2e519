"""``adcgan demo``: the whole way from images to a report, offline, in two minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from adcgan.cli import options
from adcgan.cli.evaluate import evaluate_into, show
from adcgan.cli.inputs import check_output_folder, images_to_judge, training_images
from adcgan.cli.terminal import print_json, say
from adcgan.cli.training import train

DATA, NORMAL = "digits", "0"
# Small enough for a laptop's processor.
SETTINGS: dict[str, Any] = {"width": 0.25, "min_steps": 400, "fpr": 0.1}


def demo(
    out: Annotated[Path, typer.Option(help="The folder for the model and the report.")] = Path(
        "adcgan-demo"
    ),
    resume: options.Resume = False,
    json: options.Json = False,
) -> None:
    """Train on handwritten zeros, then tell them from other digits: offline, in two minutes.

    The images come with scikit-learn. The result is a model folder, the figures and a report.
    """
    from adcgan.detectors import ADCGAN, load

    check_output_folder(out, resume=resume)
    model = out / "model"
    images = training_images(
        DATA, normal=NORMAL, anomalous=None, image_size=None, resize="squash", strict=True
    )
    train(ADCGAN(**SETTINGS), images, model, name="adcgan", resume=resume)
    detector = load(model)
    tested = images_to_judge(detector, DATA, normal=NORMAL, anomalous=None, strict=True)
    evaluation = evaluate_into(out, detector, tested, model)
    if json:
        print_json(evaluation.metrics)
    else:
        show(evaluation.metrics)
    say(f"report     {out / 'report.html'}")
    say("next       adcgan compare FOLDER --out RESULT, with a folder of your own normal images")
