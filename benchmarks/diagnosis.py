"""What AD-CGAN learns, epoch by epoch, judged on a development split alone.

After every epoch: the AUROC of each score component, how well normal and anomalous images are
reconstructed, and what D_z answers, with both kinds of BatchNorm statistics. No test image takes
part. Training is that of ``fit``, stopped after every epoch and gone on with.

    python benchmarks/diagnosis.py --dataset fashion-mnist --classes 0,6 --out FILE.jsonl
    python benchmarks/diagnosis.py --dataset mnist --classes 4 --set latent=none --out FILE.jsonl
    python benchmarks/diagnosis.py --table FILE.jsonl
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from circumstances import circumstances
from numpy.typing import NDArray
from torch import Tensor

from adcgan import ADCGAN, load_named
from adcgan.benchmark.metrics import auroc
from adcgan.benchmark.protocol import development_partition
from adcgan.cli.benchmark import numbers
from adcgan.cli.settings import settings
from adcgan.data.prepare import Split, split_held_out
from adcgan.detectors.adcgan import ADCGANModel
from adcgan.losses import latent_scoring_inputs, latent_training_inputs
from adcgan.networks import LatentCritic
from adcgan.progress import silent
from adcgan.training import Phase, Recipe, RunLog, Session, make_accelerator, train

MOST_JUDGED = 1000
STATISTICS = ("running", "recomputed")


@dataclass(frozen=True)
class Material:
    """Images (n, C, H, W) of one class's development split, and which of them are anomalous."""

    train: NDArray[np.uint8]
    judged: NDArray[np.uint8]
    labels: NDArray[np.int64]


def material(dataset: str, class_: int) -> Material:
    """Return the development split of one class, with `MOST_JUDGED` images of each kind."""
    images = load_named(dataset, "train")
    assert images.labels is not None
    part = development_partition(images.labels, scheme="one-vs-all", class_=class_)
    rng = np.random.default_rng(0)
    some = np.concatenate(
        [rng.permutation(np.flatnonzero(part.labels == kind))[:MOST_JUDGED] for kind in (0, 1)]
    )
    return Material(
        images.images[part.train], images.images[part.evaluation[some]], part.labels[some]
    )


def epochs(detector: ADCGAN, images: NDArray[np.uint8]) -> Iterator[tuple[int, str, str]]:
    """Train `detector` and yield (epoch, phase, statistics) whenever it can be judged."""
    accelerator = make_accelerator("cpu", "float32")
    split = split_held_out(len(images), detector.validation_fraction, detector.random_state)
    detector.image_shape_ = images.shape[1:]
    with torch.random.fork_rng():
        torch.manual_seed(detector.random_state)
        model = detector.model_ = detector.make_model(detector.image_shape_).eval()
    recipe = model.recipe(len(split.train), accelerator)
    whole = sum(phase.steps for phase in recipe.phases)
    total = detector.warmup_epochs + detector.epochs
    with tempfile.TemporaryDirectory() as folder:
        session = Session(
            accelerator=accelerator,
            log=RunLog(None),
            seed=detector.random_state,
            progress=silent,
            resume=True,
            checkpoint_every=whole + 1,
            folder=Path(folder),
        )
        for epoch in range(1, total + 1):
            part = _shortened(recipe, round(epoch / total * whole))
            for statistics in STATISTICS:
                # The second call finds its steps done, and changes the statistics alone.
                _train(part, images, split, session, statistics)
                model.learn(images, split, silent)  # E(G(z)) of these weights
                yield epoch, part.phases[-1].name, statistics


def _shortened(recipe: Recipe, steps: int) -> Recipe:
    """Return the first `steps` steps of `recipe`."""
    phases: list[Phase] = []
    for phase in recipe.phases:
        taken = min(phase.steps, steps - sum(before.steps for before in phases))
        phases += [replace(phase, steps=taken)] if taken else []
    return replace(recipe, phases=phases)


def _train(
    recipe: Recipe, images: NDArray[np.uint8], split: Split, session: Session, statistics: str
) -> None:
    running = statistics == "running"
    recipe = replace(recipe, scoring_pass=None) if running else recipe
    for _ in train(recipe, images, split, session):
        pass


def figures(detector: ADCGAN, data: Material) -> dict[str, Any]:
    """Return the AUROC of components and score, reconstruction errors, and what D_z answers."""
    model = detector.model_
    assert isinstance(model, ADCGANModel)
    parts: dict[str, list[NDArray[np.float64]]] = {}
    errors, answers = [], []
    with torch.no_grad():
        for x in model.batches(data.judged):
            scored = model(x)
            for name, values in scored.components.items():
                parts.setdefault(name, []).append(values.double().numpy())
            errors.append((x - scored.reconstruction).square().flatten(1).mean(1).numpy())
            if model.latent_critic is not None:
                answers.append(_answers(model, model.latent_critic, x))
    components = {name: np.concatenate(values) for name, values in parts.items()}
    scores = {"score": model.combine(components), **components}
    error = np.concatenate(errors)
    found: dict[str, Any] = {
        "auroc": {name: 100 * auroc(data.labels, values) for name, values in scores.items()},
        "squared_error": _by_kind(error, data.labels),
    }
    if answers:
        of_images = {key: np.concatenate([a[key] for a in answers]) for key in answers[0]}
        found["judged"] = {key: _by_kind(p, data.labels) for key, p in of_images.items()}
        assert model.latent_critic is not None
        found["judged"] |= _answers_to_draws(model, model.latent_critic)
    return found


def _answers(model: ADCGANModel, judge: LatentCritic, x: Tensor) -> dict[str, NDArray[np.float32]]:
    """Return D_z's mean probabilities (B,) for each image: in training's pairs and in L_FL's."""
    e_x, draws, kind = model.encoder(x), judge.draws, model.settings.latent
    assert kind != "none"
    _, in_score = latent_scoring_inputs(kind, draws, model.encoded_draws, e_x)
    in_training = torch.stack(
        [judge(latent_training_inputs(kind, z.expand_as(e_x), e_x)[1]) for z in draws], 1
    )
    return {
        "z, E(x)": in_training.sigmoid().mean(1).numpy(),
        "E(x), E(G(z))": judge(in_score).sigmoid().reshape(len(x), -1).mean(1).numpy(),
    }


def _answers_to_draws(model: ADCGANModel, judge: LatentCritic) -> dict[str, float]:
    """Return D_z's mean probability for what belongs to no image, and how far E(G(z)) is from z."""
    z, e_g_z, kind = judge.draws, model.encoded_draws, model.settings.latent
    assert kind != "none"
    with torch.no_grad():
        real = judge(latent_training_inputs(kind, z, z)[0]).sigmoid()
        generated = judge(latent_scoring_inputs(kind, z, e_g_z, z[:1])[0]).sigmoid()
        correlation = torch.nn.functional.cosine_similarity(e_g_z, z, dim=1)
        alike = torch.nn.functional.cosine_similarity(e_g_z, e_g_z.mean(0, keepdim=True), dim=1)
    return {
        "z, z": real.mean().item(),
        "E(G(z)), z": generated.mean().item(),
        "cosine of E(G(z)) and z": correlation.mean().item(),
        "cosine of E(G(z)) and their mean": alike.mean().item(),
    }


def _by_kind(values: NDArray[Any], labels: NDArray[np.int64]) -> dict[str, float]:
    """Return the means over normal and anomalous images."""
    names = ("normal", "anomalous")
    return {name: float(values[labels == kind].mean()) for kind, name in enumerate(names)}


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table, one line for each epoch and kind of statistics."""
    names = list(dict.fromkeys(name for row in rows for name in row["auroc"]))
    head = ["set", "class", "settings", "epoch", "phase", "statistics", *names]
    head += ["error, normal", "anomalous"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        given = ", ".join(f"{key}={value}" for key, value in row["settings"].items())
        place = [row["dataset"], row["class"], given, row["epoch"], row["phase"]]
        shown = [f"{row['auroc'][name]:.1f}" if name in row["auroc"] else "" for name in names]
        error = [f"{row['squared_error'][kind]:.4f}" for kind in ("normal", "anomalous")]
        lines.append([*map(str, place), row["statistics"], *shown, *error])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Measure and append rows to a file, or print a file as a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--classes", default="4", help="numbers and ranges, such as 0-2,5")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    parser.add_argument("--out", type=Path, help="a file that rows are appended to")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the rows of FILE")
    asked = parser.parse_args()
    if asked.table:
        print(table([json.loads(line) for line in asked.table.read_text().splitlines()]))
        return
    given = settings(ADCGAN, asked.settings, {})
    command = f"python benchmarks/diagnosis.py --dataset {asked.dataset} --classes {asked.classes}"
    command += "".join(f" --set {assignment}" for assignment in asked.settings)
    for class_ in numbers("--classes", asked.classes):
        data, detector = material(asked.dataset, class_), ADCGAN(**given)
        detector.check_parameters()
        for epoch, phase, statistics in epochs(detector, data.train):
            row = {"dataset": asked.dataset, "class": class_, "settings": given, "epoch": epoch}
            row |= {"phase": phase, "statistics": statistics, **figures(detector, data)}
            row |= {"n_train": len(data.train), "command": command, **circumstances()}
            print(table([row]).splitlines()[-1], flush=True)
            if asked.out:
                with asked.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
