"""``adcgan score``: score images with a model."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adcgan.cli import options
from adcgan.cli.inputs import check_output_file, check_writable, images_to_score, make_folder
from adcgan.cli.terminal import print_json, print_table, say
from adcgan.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from adcgan.scoring import Assessment, Drift

_SHOWN = 5


def score(
    model: options.ModelOrExport,
    data: Annotated[
        str,
        typer.Argument(
            help="Images: a folder, a file, a manifest (.csv, .parquet), an .npy or .npz file, or "
            "a named set's test split. With --ray no manifest, but .parquet files of images, and "
            "URIs such as s3://BUCKET/FOLDER."
        ),
    ],
    out: Annotated[
        str,
        typer.Option(
            metavar="PATH", help="The CSV file to write; with --ray, the folder or URI for shards."
        ),
    ],
    heatmaps: Annotated[
        Path | None, typer.Option(help="Write a heatmap of each image to this folder.")
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(
            help="Write a mask of each image to this folder: white where it is anomalous."
        ),
    ] = None,
    regions: Annotated[
        Path | None,
        typer.Option(help="Write the anomalous regions to this CSV file: box, area, peak."),
    ] = None,
    fpr: Annotated[
        float | None,
        typer.Option(help="Override the model's false-positive budget."),
    ] = None,
    strict: options.Strict = False,
    json: options.Json = False,
    device: options.Device = "auto",
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Score on a Ray cluster: HOST:PORT, auto or local. Resumes from OUT.",
        ),
    ] = None,
    shard_size: Annotated[
        int | None, typer.Option(help="With --ray: images per output file.", min=1)
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="With --ray: number of worker processes.", min=1)
    ] = None,
    gpus: Annotated[
        float | None, typer.Option(help="With --ray: GPU share of each worker.", min=0)
    ] = None,
) -> None:
    """Score images: one CSV row for each input, unreadable ones included.

    Columns: path, score (higher is more anomalous), p_value, anomalous (0 or 1), the parts of the
    score, error. With --ray, for more images than one machine can score in time, Parquet files
    with the same columns.
    """
    tuning = {"shard_size": shard_size, "workers": workers, "gpus": gpus}
    given = {name: value for name, value in tuning.items() if value is not None}
    if ray is None:
        _refuse("needs --ray", given)
        if "://" in out:
            raise InputError(f"--out must be a file, unless with --ray. Got {out!r} instead.")
        pictures = _Pictures(heatmaps, masks, regions)
        result = _here(model, data, Path(out), pictures, fpr, strict, device)
    else:
        files = {"heatmaps": heatmaps, "masks": masks, "regions": regions}
        given_files = {name: path for name, path in files.items() if path is not None}
        _refuse("cannot be combined with --ray", given_files)
        result = _on_cluster(model, data, out, fpr, ray=ray, device=device, **given)
    if json:
        print_json(result)
    else:
        _show(result)
    if ray is not None and strict and result["n_unreadable"]:
        raise InputError(
            f"{result['n_unreadable']:,} images cannot be read; their rows in "
            f"{result['scores']} say why."
        )


def _refuse(what: str, given: dict[str, Any]) -> None:
    """Refuse options that do not apply."""
    for name in given:
        raise InputError(f"--{name.replace('_', '-')} {what}.")


@dataclass(frozen=True)
class _Pictures:
    """Where pictures of anomaly maps go: folders of heatmaps and masks, a file of regions."""

    heatmaps: Path | None
    masks: Path | None
    regions: Path | None

    @property
    def any(self) -> bool:
        """Whether maps are needed at all."""
        return self != _Pictures(None, None, None)


def _here(
    model: Path,
    data: str,
    out: Path,
    pictures: _Pictures,
    fpr: float | None,
    strict: bool,
    device: str,
) -> dict[str, Any]:
    """Score on this machine and return the counts."""
    from adcgan import load
    from adcgan.report import write_scores

    check_output_file(out)
    if pictures.regions is not None:
        check_output_file(pictures.regions)
    for folder in (pictures.heatmaps, pictures.masks):
        if folder is not None:
            check_writable(folder)
    if pictures.heatmaps is not None and find_spec("matplotlib") is None:
        raise MissingExtraError("--heatmaps needs matplotlib: pip install matplotlib")
    detector = load(model, device=device)
    pixels = None
    if pictures.masks is not None or pictures.regions is not None:
        # Refused before any work where there is none.
        pixels = detector.pixel_verdict(fpr)
    images = images_to_score(detector, data, strict=strict)
    assessment = detector.assess(images, maps=pictures.any, fpr=fpr)
    if pictures.heatmaps is not None and assessment.maps is not None:
        from adcgan.report import write_heatmaps

        hottest = write_heatmaps(
            pictures.heatmaps, images, assessment.maps, assessment.scores[images.positions]
        )
        say(
            f"heatmaps in {pictures.heatmaps}; the top colour is an anomaly value of "
            f"{hottest:.4g} or more"
        )
    found: dict[str, Any] = {}
    if pixels is not None and assessment.maps is not None:
        from adcgan.report import write_regions

        if pixels.warning and pixels.fpr != assessment.verdict.fpr:
            warnings.warn(pixels.warning, stacklevel=2)
        if pictures.regions is not None:
            make_folder(pictures.regions.parent)
        found["n_regions"] = write_regions(
            images,
            assessment.maps,
            detector.resize,
            pixels.threshold,
            masks=pictures.masks,
            table=pictures.regions,
        )
        found["pixel_threshold"] = pixels.threshold
        say(f"{found['n_regions']:,} regions above an anomaly value of {pixels.threshold:.4g}")
    make_folder(out.parent)
    write_scores(out, assessment)
    verdict = assessment.verdict
    drift = verdict.drift(assessment.scores)
    written = {
        "threshold": verdict.threshold,
        "fpr": verdict.fpr,
        "drift": _told(drift),
        "scores": str(out),
    }
    return _result(assessment) | written | found


def _on_cluster(
    model: Path, data: str, out: str, fpr: float | None, **settings: Any
) -> dict[str, Any]:
    """Score on a Ray cluster, and return the counts."""
    from adcgan.bulk.scoring import score_in_bulk
    from adcgan.bulk.worker import LostWorkersError
    from adcgan.report.wording import counted

    try:
        outcome = score_in_bulk(model, data, out, fpr=fpr, **settings)
    except LostWorkersError as error:
        say(f"error: {error}")
        say("finished shards are kept; the same command continues")
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        say("finished shards are kept; the same command continues")
        raise
    if outcome.n_images_before:
        say(f"{outcome.n_images_before:,} of {outcome.n_images:,} images were already scored")
    if outcome.n_repeated:
        say(f"{counted(outcome.n_repeated, 'shard')} done again after workers were lost")
    return {
        "n_scored": outcome.n_images - outcome.summary.n_unreadable,
        **asdict(outcome.summary),
        "threshold": outcome.threshold,
        "fpr": outcome.fpr,
        "n_shards": outcome.n_shards,
        "n_images_before": outcome.n_images_before,
        "n_repeated": outcome.n_repeated,
        "drift": _told(outcome.drift),
        "seconds": outcome.seconds,
        "images_per_second": outcome.images_per_second,
        "scores": outcome.out,
    }


def _told(drift: Drift) -> dict[str, Any]:
    """Return how the images differ from the held-out ones, and warn if they differ much."""
    warning = drift.warning()
    if warning:
        say(f"warning: {warning}")
    return {**asdict(drift), "unlike": drift.unlike}


def _result(assessment: Assessment) -> dict[str, Any]:
    """Return the counts, and the few images with the highest scores."""
    import numpy as np

    decided = assessment.anomalous
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


def _show(result: dict[str, Any]) -> None:
    from adcgan.report.wording import counted, printable

    line = f"{counted(result['n_scored'], 'image')} scored, {result['n_anomalous']:,} anomalous "
    line += f"(score above {result['threshold']:.4g}), {result['n_unreadable']:,} unreadable"
    typer.echo(f"{line}; {result['scores']}")
    drift = result["drift"]
    if drift["n"]:
        typer.echo(
            f"{drift['share_above']:.1%} above the threshold; Kolmogorov-Smirnov distance from "
            f"held-out normal images {drift['statistic']:.2f}, p = {drift['p_value']:.2g}"
        )
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
