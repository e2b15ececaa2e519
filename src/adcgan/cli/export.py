"""``adcgan export``: one .onnx file that scores without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adcgan.cli import options
from adcgan.cli.inputs import check_output_file
from adcgan.cli.terminal import print_json, say


def export(
    model: options.Model,
    out: Annotated[Path, typer.Option(help="The .onnx file to write.")],
    json: options.Json = False,
) -> None:
    """Export a model to one .onnx file: preprocessing, score, heatmap and calibration.

    The file is checked against the model before it is written. It scores with ONNX Runtime, NumPy
    and Pillow, without torch: 'adcgan score', 'adcgan serve' and adcgan.load take it where they
    take a model folder. Detectors that search for each image, that compare it with every training
    image or that compute on raw pixels cannot be exported.
    """
    check_output_file(out)
    from adcgan.detectors import load
    from adcgan.onnx.export import check_exportable, export_onnx

    detector = load(model, device="cpu")
    check_exportable(detector, out)
    say("exporting, and checking the file against the model")
    made = export_onnx(detector, out)
    if json:
        print_json(
            {
                "path": str(made.path),
                "bytes": made.n_bytes,
                "parity": made.parity,
                "images_checked": made.n_checked,
            }
        )
        return
    typer.echo(
        f"{made.path}: {made.n_bytes / 1e6:.1f} MB; scores differ from the model's by at "
        f"most {made.parity:.1g} of their value, over {made.n_checked} images"
    )
    typer.echo(f"score with it: adcgan score {made.path} DATA --out scores.csv")
    typer.echo(f'or in Python:  adcgan.load("{made.path}")')
