"""``adcgan audit``: how much of the released evaluation's figure is a leak of labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adcgan.cli import options
from adcgan.cli.inputs import check_output_folder, make_folder
from adcgan.cli.terminal import print_json, print_table, say
from adcgan.errors import InputError
from adcgan.files import replacing, write_json, write_text

if TYPE_CHECKING:
    from adcgan.benchmark.audit import Audit

_PAGE = """# Audit of the released evaluation

**{warning}.** One trained model, {normal:,} normal and {anomalous:,} anomalous images of {data}.

| who gets which z in L_FL | AUROC |
|---|---|
| the model's own score: fixed draws, the same for every image | {honest:.4f} |
| the release's arithmetic, a fresh z for every image | {fresh:.4f} |
| as released: a fresh z for each normal image, one for all anomalies | {released} |
| as released, the normal images themselves in the place of the anomalies | {control} |

The last two lines are {draws} draws of that one z. Model and images are the same throughout, so
their spread is not detection: the score of an anomalous image depends on a draw that it shares with
all other anomalous images and with no normal one. The last line has nothing to detect. Whatever
differs from 0.5 there is what the protocol gives away.

![AUROC by the shared z](audit.png)

{method}
"""
_METHODS = {
    "single": "The latent critic judges one latent at a time, as in the release.",
    "pair": "This model's latent critic was trained on pairs of latents (Eq. 3 as written) and "
    "judges pairs here. The release's judges one latent at a time: fit with --set latent=single.",
}


def audit(
    model: options.Model,
    dataset: Annotated[str, typer.Argument(help="A named set; see 'adcgan data list'.")],
    out: Annotated[Path, typer.Option(help="The folder for audit.json, audit.md and audit.png.")],
    normal: options.Normal = None,
    anomalous: options.Anomalous = None,
    draws: Annotated[int, typer.Option(help="How many shared z to try.", min=1)] = 200,
    seed: Annotated[int, typer.Option(help="Draws every z.", min=0)] = 0,
    training_anomalies: Annotated[
        bool,
        typer.Option(
            "--training-anomalies",
            help="Add the training split's anomalous images, as the release does.",
        ),
    ] = False,
    json: options.Json = False,
    device: options.Device = "auto",
) -> None:
    """Show how the released evaluation's AUROC varies with one draw of z, on one model.

    In the release all anomalous images share one z while each normal image gets its own. The
    honest protocol on the same model and images stands beside it.
    """
    from adcgan.benchmark.audit import audit as audited
    from adcgan.benchmark.audit import audited_images
    from adcgan.data import DATASETS, load_named
    from adcgan.detectors import load

    check_output_folder(out, resume=True)
    if dataset not in DATASETS:
        raise InputError(f"DATASET must be one of {', '.join(DATASETS)}. Got {dataset!r} instead.")
    scheme, class_ = _singled_out(dataset, normal, anomalous)
    detector = load(model, device=device)
    channels, size, _ = detector.image_shape_
    test = load_named(dataset, "test", image_size=size, channels=channels)
    train = None
    if training_anomalies:
        train = load_named(dataset, "train", image_size=size, channels=channels)
    images = audited_images(test, train, scheme, class_)
    result = audited(detector, *images, draws=draws, seed=seed)
    figures = {
        "model": str(model),
        "dataset": dataset,
        "scheme": scheme,
        "class": class_,
        "training_anomalies": training_anomalies,
        "seed": seed,
        "settings": detector.get_params(),
        **result.as_dict(),
    }
    make_folder(out)
    _write(out, result, figures)
    if json:
        print_json(figures)
    else:
        _show(figures)
    say(f"audit      {out / 'audit.md'}")


def _singled_out(dataset: str, normal: str | None, anomalous: str | None) -> tuple[str, int]:
    """Return the scheme and the number of the class that the options name."""
    import numpy as np

    from adcgan.data import DATASETS, anomaly_labels

    names = DATASETS[dataset].class_names
    marked = anomaly_labels(np.arange(len(names)), names, normal=normal, anomalous=anomalous)
    if normal is not None:
        return "one-vs-all", int(np.flatnonzero(marked == 0)[0])
    return "all-vs-one", int(np.flatnonzero(marked == 1)[0])


def _write(out: Path, result: Audit, figures: dict[str, Any]) -> None:
    """Write the histogram, the figures and the page."""
    from matplotlib.figure import Figure

    from adcgan.report.comparison import audit_histogram

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    audit_histogram(axes, result.released, result.control, result.honest, result.fresh)
    figure.suptitle(f"released protocol: {figures['warning']}", fontsize=9)
    with replacing(out / "audit.png") as temporary:
        figure.savefig(temporary, format="png", dpi=150)
    write_json(out / "audit.json", figures)
    write_text(out / "audit.md", _page(figures))


def _page(figures: dict[str, Any]) -> str:
    """Return the page for people."""
    singled = "normal" if figures["scheme"] == "one-vs-all" else "anomalous"
    return _PAGE.format(
        warning=figures["warning"][0].upper() + figures["warning"][1:],
        normal=figures["n_normal"],
        anomalous=figures["n_anomalous"],
        data=f"{figures['dataset']}, class {figures['class']} {singled}",
        honest=figures["honest"]["auroc"],
        fresh=figures["fresh"]["auroc"],
        released=_range(figures["released"]),
        control=_range(figures["control"]),
        draws=figures["draws"],
        method=_METHODS[figures["settings"]["latent"]],
    )


def _range(aurocs: dict[str, Any]) -> str:
    """Return where the AUROCs of all draws lie."""
    return f"{aurocs['minimum']:.4f} to {aurocs['maximum']:.4f}, median {aurocs['median']:.4f}"


def _show(figures: dict[str, Any]) -> None:
    """Print the figures for people."""
    say(f"released protocol: {figures['warning']}; {figures['draws']} draws of z")
    print_table(
        ["protocol", "AUROC"],
        [
            ["honest: the model's own score", f"{figures['honest']['auroc']:.4f}"],
            ["released, but a fresh z for every image", f"{figures['fresh']['auroc']:.4f}"],
            ["released: anomalies share one z", _range(figures["released"])],
            ["released, with nothing to detect", _range(figures["control"])],
        ],
    )
