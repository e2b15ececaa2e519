"""With nine classes normal: what tells a new class from a rare one?

Critics alone, without the GAN and the autoencoder of adcgan-ss, learn from all classes but one and
are judged on development splits, as benchmarks/left_out.py judges detectors: by how much more
anomalous a class looks to a critic that did not learn from it than to one that did. Ways to train
and scores are both leads. The critics of a lead are trained for all classes given, then there is a
row for each pair of them in both orders, appended to the file; leads that the file has are left
out, so the same command goes on:

    python benchmarks/new_class_leads.py --dataset fashion-mnist --classes 2,5 --out FILE.jsonl
    python benchmarks/left_out.py --table FILE.jsonl

Compare rows of one precision alone.
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
from critic_scores import (
    MEANS,
    NEIGHBOURS,
    features_of,
    sample,
    scores_of,
    shift_of,
    together,
)
from critic_training import Lead, Trained, completed, train
from left_out import Judgement, compare, table
from torch import Tensor
from torch.nn import functional as F

from adcgan import load_named
from adcgan.benchmark.protocol import development_partition
from adcgan.data.transformations import TURNS
from adcgan.detectors.density import gaussian_whitening
from adcgan.networks import SelfSupervisedCritic
from adcgan.networks.critic import RESIDUAL_FROM
from adcgan.training.device import denormals_flushed

# Training images that features are compared with, and images of the class left out to judge.
REFERENCES, ANOMALOUS = 2000, 1000
# More means, with clusters or with fewer parts.
MORE_MEANS = {
    "score, 20 Gaussians": (*MEANS["score"], "20 Gaussians"),
    "score, logit, 20 Gaussians": (*MEANS["score, logit"], "20 Gaussians"),
    "logit, 20 Gaussians": ("logit", "20 Gaussians"),
    "logit, neighbours": ("logit", "neighbours"),
}

LEADS: dict[str, dict[str, Any]] = {
    "standard": {},
    "no-views": {"views": 0.0},
    "shifted-negatives": {"copies": 4},
    "one-question": {"together": True},
    "centre-loss": {"centre": 0.1},
    "10-clusters": {"clusters": 10},
    "50-clusters": {"clusters": 50},
}


def lead_of(name: str, side: int) -> Lead:
    """Return a lead on the trunk that takes minutes, which differs by the side of the images."""
    standing = Lead(trunk="small") if side >= RESIDUAL_FROM else Lead(trunk="paper", width=0.5)
    return replace(standing, **LEADS[name])


@torch.no_grad()
def scores(
    trained: Trained, images: Tensor, references: Tensor, precision: str = "float32"
) -> dict[str, Tensor]:
    """Return the scores (n,) of uint8 images by name, but for means of several.

    Those of `scores_of`, and of the features in the four turns: neighbours in whitened features and
    the same relative to the neighbours' own; of the local map, neighbours of its mean and of each
    place; of learned clusters, whether one fits all turns. `precision` is that of global features.
    """
    critic, cluster = trained
    found = scores_of(critic, images, references, references, precision)
    parts: dict[str, list[Tensor]] = {}
    seen, known = (features_of(critic, x, TURNS, precision) for x in (images, references))
    for features, others in zip(seen, known, strict=True):
        for name, values in of_features(F.normalize(features), F.normalize(others)).items():
            parts.setdefault(name, []).append(values)
    for t in TURNS:
        maps, known_maps = (
            torch.cat([local_map(critic, t(part, 0)) for part in x.split(250)])
            for x in (images, references)
        )
        means = (F.normalize(maps.mean(2)), F.normalize(known_maps.mean(2)))
        parts.setdefault("map, mean", []).append(nearest(*means)[0].mean(1))
        places = [
            nearest(F.normalize(maps[:, :, i]), F.normalize(known_maps[:, :, i]), 1)[0][:, 0]
            for i in range(maps.shape[2])
        ]
        parts.setdefault("map, places", []).append(torch.stack(places).mean(0))
    if cluster is not None:
        # One cluster for all turns, and with it what was done.
        log_p = F.log_softmax(cluster(seen), 2).mean(0)
        found["no cluster"] = -log_p.amax(1)
        found["recognition, no cluster"] = found["recognition"] + found["no cluster"]
    return found | {name: torch.stack(values).mean(0) for name, values in parts.items()}


def of_features(seen: Tensor, known: Tensor) -> dict[str, Tensor]:
    """Return scores (n,) of unit features (n, F) beside those (m, F) of training images."""
    mean, whitening = gaussian_whitening(known.numpy())
    white, white_known = (seen - mean) @ whitening, (known - mean) @ whitening
    distance, index = nearest(white, white_known)
    # Each is its own nearest.
    usual = nearest(white_known, white_known, NEIGHBOURS + 1)[0][:, 1:].mean(1)
    return {
        "neighbours, whitened": distance.mean(1),
        "neighbours, relative": distance.mean(1) / usual[index].mean(1),
    }


def nearest(seen: Tensor, known: Tensor, k: int = NEIGHBOURS) -> tuple[Tensor, Tensor]:
    """Return distances and indices (n, k) of the nearest of `known` (m, F) to each of (n, F)."""
    found = [torch.cdist(part, known).topk(k, dim=1, largest=False) for part in seen.split(1000)]
    return torch.cat([part.values for part in found]), torch.cat([part.indices for part in found])


def local_map(critic: SelfSupervisedCritic, images: Tensor) -> Tensor:
    """Return local features (n, K, M·M) of uint8 images, of 7 places a side at most."""
    local = critic.local_features(images.float() / 255)
    return F.adaptive_avg_pool2d(local, min(7, local.shape[-1])).flatten(2)


def judge(lead: Lead, dataset: str, class_: int, steps: int, seed: int) -> Judgement:
    """Train on all classes but one and score what its development split holds out."""
    images = load_named(dataset, "train")
    assert images.labels is not None
    part = development_partition(images.labels, scheme="all-vs-one", class_=class_)
    rng = np.random.default_rng(0)
    normal, anomalous = (rng.permutation(part.evaluation[part.labels == kind]) for kind in (0, 1))
    judged = np.concatenate([normal, anomalous[:ANOMALOUS]])
    learned = torch.from_numpy(images.images[part.train])
    with denormals_flushed():
        trained = train(lead, learned, steps, seed)
    references = sample(learned, REFERENCES)
    found = scores(trained, torch.from_numpy(images.images[judged]), references, lead.precision)
    is_normal = torch.arange(len(judged)) < len(normal)
    means = MEANS | MORE_MEANS
    found = {name: together(found, is_normal, of) for name, of in means.items()} | found
    values = {name: score.double().numpy() for name, score in found.items()}
    return Judgement(class_, images.labels[judged], values)


def main() -> None:
    """Measure the leads that the file does not have."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="fashion-mnist")
    parser.add_argument("--classes", default="2,5", help="left out in turn, two or more")
    parser.add_argument("--leads", default=",".join(LEADS))
    parser.add_argument("--steps", type=int, default=1200, help="of 128 images")
    parser.add_argument("--width", type=float, help="instead of a lead's own")
    parser.add_argument("--bf16", action="store_true", help="learn and look in bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="a file that rows are appended to")
    asked = parser.parse_args()
    classes = [int(class_) for class_ in asked.classes.split(",")]
    names = asked.leads.split(",")
    for name in set(names) - set(LEADS):
        parser.error(f"--leads must be of {', '.join(LEADS)}: {name}")
    if len(set(classes)) < 2:
        parser.error("--classes must be two at least")
    side = load_named(asked.dataset, "train").images.shape[-1]
    for name in names:
        lead = lead_of(name, side)
        if asked.width is not None:
            lead = replace(lead, width=asked.width)
        if asked.bf16:
            lead = replace(lead, precision="bf16")
        settings = {"lead": name, "steps": asked.steps}
        told = {"dataset": asked.dataset, "detector": "critic", "settings": settings}
        told |= {"seed": asked.seed, "max_train": None}
        told |= {"classes": classes, "lead": asdict(lead), "shift": shift_of(side)}
        if asked.out.exists() and any(
            told.items() <= completed(json.loads(line)).items()
            for line in asked.out.read_text().splitlines()
        ):
            continue
        start = time.process_time()
        judgements = [judge(lead, asked.dataset, c, asked.steps, asked.seed) for c in classes]
        spent = {"cpu_seconds": round(time.process_time() - start, 1)}
        command = (
            f"python benchmarks/new_class_leads.py --dataset {asked.dataset} "
            f"--classes {asked.classes} --steps {asked.steps} --seed {asked.seed} --leads {name}"
        )
        command += f" --width {asked.width:g}" if asked.width is not None else ""
        command += " --bf16" * asked.bf16
        more = spent | {"command": command} | circumstances()
        rows = [told | pair | more for pair in compare(judgements)]
        with asked.out.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        print(table(rows), flush=True)


if __name__ == "__main__":
    main()
