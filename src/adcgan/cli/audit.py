"""``adcgan audit``: how far leaked labels move the released evaluation's figure."""

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
The model's own score, with draws of z that are the same for every image: AUROC {honest:.4f}.

| the released evaluation: who gets which z in L_FL | {heads} |
|---|{rules}
| no L_FL at all, so no z | {without} |
| a fresh z for every image | {fresh} |
| as released: a fresh z for each normal image, one for all anomalies | {released} |
| as released, the normal images themselves in the place of the anomalies | {control} |

The last two lines are {draws} draws of that one z. Model and images are the same throughout, so
their spread is not detection: the score of an anomalous image depends on a draw that it shares with
all other anomalous images and with no normal one. The last line has nothing to detect. Whatever
differs from 0.5 there is what the protocol gives away. Which way it goes is a matter of the draw.

{method}

![AUROC by the shared z](audit.png)
"""
_METHODS = {
    "single": "This model's latent critic judges one latent at a time, as the release's does. The "
    "equations' arithmetic compares its probabilities with this model's ρ; the release's own adds "
    "up two differences of its logits, which go through a LeakyReLU, with ρ = 0.1.",
    "pair": "This model's latent critic was trained on pairs of latents (Eq. 3 as written) and "
    "judges pairs here. The release's judges one latent at a time, and its own arithmetic needs "
    "such a model: fit with --set latent=single.",
}
_KINDS = {"paper": "the equations' arithmetic", "as_is": "the release's arithmetic as it is"}


def audit(
    model: options.Model,
    dataset: Annotated[str, typer.Argument(help="A named set; see 'adcgan data list'.")],
    out: Annotated[Path, typer.Option(help="The folder for audit.json, audit.md and audit.png.")],
    normal: options.Normal = None,
    anomalous: options.Anomalous = None,
    draws: Annotated[int, typer.Option(help="Number of shared z to try.", min=1)] = 200,
    seed: Annotated[int, typer.Option(help="Seed of the z.", min=0)] = 0,
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

    kinds = {"paper": result.paper} | ({} if result.as_is is None else {"as_is": result.as_is})
    figure = Figure(figsize=(6, 3.6 * len(kinds)), layout="constrained")
    for axes, (kind, found) in zip(
        figure.subplots(len(kinds), squeeze=False)[:, 0], kinds.items(), strict=True
    ):
        audit_histogram(axes, found.released, found.control, result.honest, found.fresh)
        axes.set_xlabel(f"AUROC by {_KINDS[kind]}")
    with replacing(out / "audit.png") as temporary:
        figure.savefig(temporary, format="png", dpi=150)
    write_json(out / "audit.json", figures)
    write_text(out / "audit.md", _page(figures))


def _page(figures: dict[str, Any]) -> str:
    singled = "normal" if figures["scheme"] == "one-vs-all" else "anomalous"
    kinds = [kind for kind in _KINDS if figures[kind] is not None]
    return _PAGE.format(
        warning=figures["warning"][0].upper() + figures["warning"][1:],
        normal=figures["n_normal"],
        anomalous=figures["n_anomalous"],
        data=f"{figures['dataset']}, class {figures['class']} {singled}",
        honest=figures["honest"]["auroc"],
        heads=" | ".join(_KINDS[kind] for kind in kinds),
        rules="---|" * len(kinds),
        **{
            line: " | ".join(_said(figures[kind][line]) for kind in kinds)
            for line in ("fresh", "released", "control")
        },
        without=" | ".join(_said(figures[kind]["without_latent"]) for kind in kinds),
        draws=figures["draws"],
        method=_METHODS[figures["settings"]["latent"]],
    )


def _said(found: dict[str, Any]) -> str:
    """Return an AUROC, or the range and median over draws, as text."""
    return f"{found['auroc']:.4f}" if "auroc" in found else _range(found)


def _range(aurocs: dict[str, Any]) -> str:
    return f"{aurocs['minimum']:.4f} to {aurocs['maximum']:.4f}, median {aurocs['median']:.4f}"


def _show(figures: dict[str, Any]) -> None:
    """Print the figures for people."""
    say(f"released protocol: {figures['warning']}; {figures['draws']} draws of z")
    rows = [["honest: the model's own score", "", f"{figures['honest']['auroc']:.4f}"]]
    lines = {
        "without_latent": "released, without L_FL",
        "fresh": "released, but a fresh z for every image",
        "released": "released: anomalies share one z",
        "control": "released, with nothing to detect",
    }
    for kind, called in _KINDS.items():
        if figures[kind] is not None:
            rows += [[text, called, _said(figures[kind][line])] for line, text in lines.items()]
    print_table(["protocol", "by", "AUROC"], rows)
