"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

Model: TypeAlias = Annotated[Path, typer.Argument(help="Model folder, made by 'adcgan fit'.")]
ModelOrExport: TypeAlias = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="Model folder, made by 'adcgan fit', or .onnx file, made by 'adcgan export'.",
    ),
]
Normal: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="CLASS",
        help="Labelled data: the one normal class, by name or number; the others are anomalous.",
    ),
]
Anomalous: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="CLASS",
        help="Labelled data: the one anomalous class, by name or number; the others are normal.",
    ),
]
Device: TypeAlias = Annotated[
    str, typer.Option(help="Where to compute: auto, cpu, cuda, cuda:1, mps.")
]
CudaGraphs: TypeAlias = Annotated[
    bool | None,
    typer.Option(
        "--cuda-graphs/--no-cuda-graphs",
        help="Capture training steps as CUDA graphs. On by default where possible.",
    ),
]
Strict: TypeAlias = Annotated[
    bool, typer.Option("--strict", help="Exit with code 2 if an image cannot be read.")
]
Json: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON to standard output.")
]
Resume: TypeAlias = Annotated[
    bool, typer.Option("--resume", help="Resume the run in --out, or start a new one.")
]
