"""``adcgan fit``: learn from normal images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from adcgan.cli import options
from adcgan.cli.inputs import check_output_folder, suited_detector, training_images
from adcgan.cli.settings import detector_class, settings
from adcgan.cli.terminal import print_json, say
from adcgan.cli.training import train


def fit(
    data: Annotated[
        str,
        typer.Argument(
            help="Normal images: a folder (of normal/ beside anomalous/, or train/good/ beside "
            "test/, those alone), a manifest (.csv, .parquet), an .npy or .npz file, or a named "
            "set (see 'adcgan data list'; ./mnist is a folder of that name)."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The model folder to make.")],
    detector: Annotated[
        str | None,
        typer.Option(
            help="One of 'adcgan detectors'. By default adcgan-local for photographs, adcgan-ss "
            "for images of less than 128 pixels."
        ),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set a detector parameter. Repeatable."),
    ] = None,
    normal: options.Normal = None,
    anomalous: options.Anomalous = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the images.")] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Resize images to this height and width.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    device: Annotated[
        str | None, typer.Option(help="Where to compute: auto, cpu, cuda, cuda:1, mps.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="Arithmetic: auto, float32 or bf16.")
    ] = None,
    cuda_graphs: options.CudaGraphs = None,
    resume: options.Resume = False,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between checkpoints.", min=1)] = 500,
    tracker: Annotated[
        list[str] | None,
        typer.Option(help="tensorboard, wandb or mlflow. Repeatable."),
    ] = None,
    strict: options.Strict = False,
    json: options.Json = False,
) -> None:
    """Train a detector on normal images and write a model folder."""
    from adcgan.training.trackers import check_trackers

    name, why = (detector, "") if detector is not None else suited_detector(data)
    kind = detector_class(name)
    shorthands: dict[str, Any] = {
        "epochs": epochs,
        "image_size": image_size,
        "random_state": seed,
        "device": device,
        "precision": precision,
    }
    chosen = settings(kind, assignments or [], shorthands)
    untrained = kind(**chosen)
    untrained.check_parameters()
    untrained.check_packages()
    if cuda_graphs:
        untrained.check_cuda_graphs()
    check_output_folder(out, resume=resume)
    check_trackers(tracker or [], out)
    images = training_images(
        data,
        normal=normal,
        anomalous=anomalous,
        image_size=untrained.image_size,
        resize=untrained.resize,
        strict=strict,
    )
    if why:
        say(f"chosen     {name}, {why}; 'adcgan compare' tries others")
    result = train(
        untrained,
        images,
        out,
        name=name,
        resume=resume,
        checkpoint_every=checkpoint_every,
        trackers=tracker or [],
        cuda_graphs=cuda_graphs,
    )
    if json:
        print_json(result)
