"""What makes a self-supervised critic a better judge: leads, each trained and judged alike.

A critic alone, without the GAN and the autoencoder of adcgan-ss, learns from a class of a set and
is judged on its development split, by scores that are leads themselves. Each lead and class is a
row, appended as it is done; those that the file has are left out, so the same command goes on:

    python benchmarks/critic_leads.py --dataset cifar10 --classes 0,3 --steps 1200 --out FILE.jsonl
    python benchmarks/critic_leads.py --table FILE.jsonl

With --bf16 they learn and look in bfloat16, twice as fast where the processor has fast instructions
for it; compare rows of one precision alone. With --crops the corners of an image are scored too,
which takes longer than all 72 transformations do.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from circumstances import circumstances
from critic_scores import MEANS, sample, scores, together
from critic_training import BATCH, Lead, completed, train

from adcgan import load_named
from adcgan.benchmark.metrics import auroc
from adcgan.benchmark.protocol import development_partition
from adcgan.training.device import denormals_flushed

# Training images that features are compared with, and images of either kind to judge by at most.
REFERENCES, NORMAL, ANOMALOUS = 4000, 1000, 1000

LEADS: dict[str, Lead] = {
    "standard": Lead(),
    "no-views": Lead(views=0.0),
    "one-question": Lead(together=True),
    "one-question-no-views": Lead(together=True, views=0.0),
    "small-trunk": Lead(trunk="small"),
    "small-trunk-decay": Lead(trunk="small", decay=5e-4),
    "small-trunk-dropout": Lead(trunk="small", dropout=0.3),
    "small-trunk-no-views": Lead(trunk="small", views=0.0),
    "small-trunk-two-blocks-no-views": Lead(trunk="small", blocks=2, views=0.0),
    "medium-trunk": Lead(trunk="medium"),
    "medium-trunk-no-views": Lead(trunk="medium", views=0.0),
    "medium-trunk-two-blocks-no-views": Lead(trunk="medium", blocks=2, views=0.0),
    "medium-trunk-four-blocks-no-views": Lead(trunk="medium", blocks=4, views=0.0),
    "16-alike": Lead(alike=16),
    "mirrored": Lead(mirrored="drawn"),
    "dropout": Lead(dropout=0.3),
    "shifted-negatives": Lead(copies=4),
    "constant-rate": Lead(schedule="constant"),
    "averaged-weights": Lead(schedule="constant", average=0.99),
    "centre-loss": Lead(centre=0.1),
    "centre-loss-no-views": Lead(centre=0.1, views=0.0),
    "weight-decay": Lead(decay=5e-4),
    "as-published": Lead(together=True, views=0.0, decay=5e-4),
    "momentum": Lead(optimizer="sgd", lr=0.1, schedule="triangle"),
    "muon": Lead(optimizer="muon", lr=0.05, schedule="triangle"),
    "width-0.5": Lead(width=0.5),
    "two-blocks": Lead(blocks=2),
    "whitened-start": Lead(start="whitened"),
    "identity-start": Lead(start="identity"),
}


def measure(
    lead: Lead, dataset: str, class_: int, steps: int, seed: int, crops: bool = False
) -> dict[str, Any]:
    """Train and judge one lead; return AUROCs in percent and what they took."""
    images = load_named(dataset, "train")
    assert images.labels is not None
    part = development_partition(images.labels, scheme="one-vs-all", class_=class_)
    rng = np.random.default_rng(0)
    normal, anomalous = (rng.permutation(part.evaluation[part.labels == kind]) for kind in (0, 1))
    judged = np.concatenate([normal[:NORMAL], anomalous[:ANOMALOUS]])
    labels = np.repeat([0, 1], [min(NORMAL, len(normal)), min(ANOMALOUS, len(anomalous))])
    learned = torch.from_numpy(images.images[part.train])
    start = time.process_time()
    with denormals_flushed():
        critic, _ = train(lead, learned, steps, seed)
    trained = time.process_time()
    references = sample(learned, REFERENCES)
    found = scores(
        critic, torch.from_numpy(images.images[judged]), references, lead.precision, crops
    )
    kinds = ("", ", all", *([", crops"] if crops else []))
    means = {
        f"{name}{kind}": together(found, torch.from_numpy(labels == 0), of, kind)
        for name, of in MEANS.items()
        for kind in kinds
        if all(f"{part}{kind}" in found for part in of)
    }
    return {
        "auroc": {
            name: round(100 * auroc(labels, values.double().numpy()), 2)
            for name, values in (found | means).items()
        },
        "n": [len(learned), int((labels == 0).sum()), int(labels.sum())],
        "train_cpu_seconds": round(trained - start, 1),
        "score_cpu_seconds": round(time.process_time() - trained, 1),
        "images_passed": steps * BATCH,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    names = list(dict.fromkeys(name for row in rows for name in row["auroc"]))
    head = ["lead", "set", "class", "steps", "seed", *names]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        told = [row["name"], row["dataset"], row["class"], row["steps"], row["seed"]]
        figures = (row["auroc"].get(name) for name in names)
        lines.append([*map(str, told), *("" if x is None else f"{x:.1f}" for x in figures)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Measure the leads that the file does not have, or print a file as a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--classes", default="0,3")
    parser.add_argument("--leads", default=",".join(LEADS))
    parser.add_argument("--steps", type=int, default=1200, help="of 128 images")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--crops", action="store_true", help="score corners of the images too")
    parser.add_argument("--width", type=float, help="instead of a lead's own")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--out", type=Path, help="a file that rows are appended to")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the rows of FILE")
    asked = parser.parse_args()
    if asked.table:
        print(table([json.loads(line) for line in asked.table.read_text().splitlines()]))
        return
    if asked.out is None:
        parser.error("--out is needed")
    names = [name.replace("+", ", ") for name in asked.leads.split(",")]
    for name in set(names) - set(LEADS):
        parser.error(
            f"--leads must be of {', '.join(LEADS)}, with + for a comma and a space: {name}"
        )
    for seed in map(int, asked.seeds.split(",")):
        for name in names:
            for class_ in map(int, asked.classes.split(",")):
                lead = LEADS[name]
                if asked.width is not None:
                    lead = replace(lead, width=asked.width)
                if asked.bf16:
                    lead = replace(lead, precision="bf16")
                told = {"name": name, "dataset": asked.dataset, "class": class_, "seed": seed}
                told |= {"steps": asked.steps, "lead": asdict(lead), "crops": asked.crops}
                if asked.out.exists() and any(
                    told.items() <= completed(json.loads(line)).items()
                    for line in asked.out.read_text().splitlines()
                ):
                    continue
                found = measure(lead, asked.dataset, class_, asked.steps, seed, asked.crops)
                command = (
                    f"python benchmarks/critic_leads.py --dataset {asked.dataset} "
                    f"--classes {class_} --steps {asked.steps} --seeds {seed} --leads {name}"
                )
                command += " --bf16" * asked.bf16 + " --crops" * asked.crops
                if asked.width is not None:
                    command += f" --width {asked.width:g}"
                row = told | found | {"command": command} | circumstances()
                with asked.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(table([row]), flush=True)


if __name__ == "__main__":
    main()
