"""What makes a self-supervised critic a better judge: leads, each trained and judged alike.

A critic alone, without the GAN and the autoencoder of adcgan-ss, learns from a class of a set and
is judged on its development split, by scores that are leads themselves. Each lead and class is a
row, appended as it is done; those that the file has are left out, so the same command goes on:

    python benchmarks/critic_leads.py --dataset cifar10 --classes 0,3 --steps 1200 --out FILE.jsonl
    python benchmarks/critic_leads.py --table FILE.jsonl

With --bf16 they train in bfloat16, twice as fast where the processor has fast instructions for it;
compare rows of one precision alone.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from circumstances import circumstances
from scipy.special import polygamma, psi
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from adcgan import load_named
from adcgan.benchmark.metrics import auroc
from adcgan.benchmark.protocol import development_partition
from adcgan.data.transformations import TURNS, Task, Transformation, Transformer
from adcgan.detectors.density import (
    gaussian_whitening,
    mahalanobis_distance,
    neighbour_distance,
)
from adcgan.losses import answer_losses, transformation_loss, view_loss
from adcgan.networks import SelfSupervisedCritic
from adcgan.training.device import denormals_flushed
from adcgan.training.statistics import recompute_statistics

BATCH, SHIFT, TEMPERATURE = 128, 1 / 4, 0.2
# Training images that features are compared with, and images of either kind to judge by at most.
REFERENCES, NORMAL, ANOMALOUS = 500, 1000, 1000
NEIGHBOURS, MARGIN = 5, 1.0


@dataclass(frozen=True)
class Lead:
    """A way to train a critic.

    Attributes
    ----------
    trunk, width, blocks
        As for `SelfSupervisedCritic`.
    together : bool
        Whether all transformations are the answers to one question.
    views : float
        Weight of the contrastive loss between two views, as in adcgan-ss.
    alike : int
        Images in a row that are transformed alike.
    copies : int
        How often each image of a batch is there, in transformations of its own. With views, each
        copy is told from the others: shifted instances as negatives (CSI, Tack et al. 2020).
    optimizer : {"adam", "sgd", "muon"}
        "muon" (Jordan 2024) takes orthogonal steps in the convolutions, Adam's in the rest.
    lr : float
    schedule : {"constant", "falling", "triangle"}
        Of the learning rate: half a cosine, or up over a twentieth of the steps and down.
    average : float
        Decay of averaged weights; 0: the last ones.
    centre : float
        Weight of the triplet centre loss of GOAD (Bergman and Hoshen 2020, Eq. 6), with learned
        centres.
    start : {"random", "whitened", "identity"}
        As in Jordan (2024, "94% on CIFAR-10 in 3.29 seconds on a single A100"): the first
        convolution whitens patches and stays as it is, or the others begin by passing on what they
        get.
    precision : {"float32", "bf16"}
        Of convolutions and matrix products in training.
    """

    trunk: str = "full"
    width: float = 0.25
    blocks: int = 1
    together: bool = False
    views: float = 0.3
    alike: int = 1
    copies: int = 1
    optimizer: str = "adam"
    lr: float = 1e-3
    schedule: str = "falling"
    average: float = 0.0
    centre: float = 0.0
    start: str = "random"
    precision: str = "float32"


LEADS: dict[str, Lead] = {
    "standard": Lead(),
    "no-views": Lead(views=0.0),
    "one-question": Lead(together=True),
    "one-question-no-views": Lead(together=True, views=0.0),
    "small-trunk": Lead(trunk="small"),
    "16-alike": Lead(alike=16),
    "shifted-negatives": Lead(copies=4),
    "constant-rate": Lead(schedule="constant"),
    "averaged-weights": Lead(schedule="constant", average=0.99),
    "centre-loss": Lead(centre=0.1),
    "centre-loss-no-views": Lead(centre=0.1, views=0.0),
    "momentum": Lead(optimizer="sgd", lr=0.1, schedule="triangle"),
    "muon": Lead(optimizer="muon", lr=0.05, schedule="triangle"),
    "width-0.5": Lead(width=0.5),
    "two-blocks": Lead(blocks=2),
    "whitened-start": Lead(start="whitened"),
    "identity-start": Lead(start="identity"),
}


class Muon(torch.optim.Optimizer):
    """Momentum whose steps are made orthogonal, for the weights of convolutions (Jordan 2024)."""

    def __init__(self, parameters: list[nn.Parameter], lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take a step of each weight, which keeps its length."""
        del closure
        for group in self.param_groups:
            for weight in group["params"]:
                momentum = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
                momentum.mul_(0.6).add_(weight.grad)
                step = _orthogonal((weight.grad + 0.6 * momentum).flatten(1))
                weight.mul_(len(weight) ** 0.5 / weight.norm())
                weight.sub_(step.view_as(weight), alpha=group["lr"])


def _orthogonal(matrix: Tensor) -> Tensor:
    """Return about the nearest matrix with orthogonal rows, by three of Newton's iterations."""
    is_tall = len(matrix) > matrix.shape[1]
    x = (matrix.T if is_tall else matrix) / (matrix.norm() + 1e-7)
    for _ in range(3):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.T if is_tall else x


def optimizers(lead: Lead, critic: nn.Module, more: list[Tensor]) -> list[torch.optim.Optimizer]:
    """Return what updates the critic, and `more` parameters."""
    weights = [*(w for w in critic.parameters() if w.requires_grad), *more]
    if lead.optimizer == "sgd":
        return [torch.optim.SGD(weights, lead.lr, 0.9, nesterov=True, weight_decay=5e-4)]
    if lead.optimizer == "adam":
        return [torch.optim.Adam(weights, lead.lr, (0.5, 0.999), fused=True)]
    inner = [w for w in weights if w.dim() == 4 and w.shape[1] > 3]
    others = [w for w in weights if all(w is not one for one in inner)]
    return [Muon(inner, lead.lr), torch.optim.Adam(others, 1e-3, (0.9, 0.999), fused=True)]


def rate(schedule: str, done: float) -> float:
    """Return the factor of the learning rate where this share of the steps is done."""
    if schedule == "triangle":
        return min(1.0, 20 * done + 0.01) * (1 - done)
    return 1.0 if schedule == "constant" else (1 + math.cos(math.pi * done)) / 2


def batches(images: Tensor, n: int, steps: int, seed: int) -> Iterator[Tensor]:
    """Yield `steps` batches of `n` images in [0, 1], in an order that is drawn for each epoch."""
    rng = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if len(order) < n:
            order = torch.randperm(len(images), generator=rng)
        yield images[order[:n]].float() / 255
        order = order[n:]


def centre_loss(features: Tensor, numbers: Tensor, centres: Tensor) -> Tensor:
    """Return how much nearer than another's each one's own centre should still be, on average."""
    distances = torch.cdist(features, centres).square()
    own = distances.gather(1, numbers[:, None])
    others = distances.scatter(1, numbers[:, None], torch.inf)
    return F.relu(own[:, 0] + MARGIN - others.amin(1)).mean()


@torch.no_grad()
def begin(critic: nn.Module, start: str, images: Tensor) -> None:
    """Set the weights that a critic begins with, for uint8 images (n, C, H, H)."""
    first, *others = (m for m in critic.modules() if isinstance(m, nn.Conv2d))
    if start == "whitened":
        patches = F.unfold(images[:500].float() / 255, first.kernel_size).transpose(0, 1).flatten(1)
        variances, directions = torch.linalg.eigh(torch.cov(patches.double()))
        n = min(first.out_channels, len(variances))
        filters = (directions / (variances + 1e-4).sqrt()).T.flip(0)[:n]
        first.weight[:n] = filters.view(n, *first.weight.shape[1:]).to(first.weight.dtype)
        first.weight.requires_grad_(requires_grad=False)
    if start == "identity":
        for convolution in others:
            passed = convolution.weight[: convolution.in_channels]
            nn.init.dirac_(passed)


def train(lead: Lead, images: Tensor, steps: int, seed: int) -> SelfSupervisedCritic:
    """Return the critic that a lead makes of uint8 images (n, C, H, H)."""
    torch.manual_seed(seed)
    channels, side = images.shape[1:3]
    critic = SelfSupervisedCritic(
        channels,
        side,
        width=lead.width,
        dropout=0.0,
        trunk=lead.trunk,
        blocks=lead.blocks,
        together=lead.together,
    )
    begin(critic, lead.start, images)
    critic.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    task, cpu = critic.task, torch.device("cpu")
    transform = Transformer(task, side, SHIFT, lead.alike, cpu)
    centres = nn.Parameter(0.1 * torch.randn(len(task.transformations), critic.global_features))
    updates = optimizers(lead, critic, [centres] if lead.centre else [])
    first = [group["lr"] for update in updates for group in update.param_groups]
    average = AveragedModel(critic, avg_fn=_decaying(lead.average)) if lead.average else None
    n = (BATCH // 2 if lead.views else BATCH) // lead.copies
    for step, images_of_step in enumerate(batches(images, n, steps, seed)):
        x = images_of_step.repeat(lead.copies, 1, 1, 1)
        groups = [group for update in updates for group in update.param_groups]
        for group, lr in zip(groups, first, strict=True):
            group["lr"] = lr * rate(lead.schedule, step / steps)
        both, truth = transform.in_two_views(x) if lead.views else transform(x)
        with torch.autocast("cpu", torch.bfloat16, enabled=lead.precision == "bf16"):
            features = critic.global_features_of(both)
            answers = critic.answers(features).float()
            seen = critic.view_features(features).float() if lead.views else features
        loss = transformation_loss(answers, truth, task.answers).mean()
        if lead.views:
            loss += lead.views * view_loss(*seen.chunk(2), TEMPERATURE)
        if lead.centre:
            numbers = truth[:, 0] if task.together else (truth * torch.tensor(task.steps)).sum(1)
            loss += lead.centre * centre_loss(features.float(), numbers, centres)
        for update in updates:
            update.zero_grad()
        loss.backward()
        for update in updates:
            update.step()
        if average is not None:
            average.update_parameters(critic)
    if average is not None:
        critic.load_state_dict(average.module.state_dict())
    some = batches(images, min(BATCH, len(images)), 16, seed)
    recompute_statistics(critic, lambda x: critic.global_features_of(transform(x)[0]), some)
    return critic


def _decaying(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """Return the update of an average that forgets, without a share of the untrained weights."""

    def update(average: Tensor, weight: Tensor, count: Tensor | int) -> Tensor:
        return average + (weight - average) * (1 - decay) / (1 - decay ** (int(count) + 1))

    return update


@torch.no_grad()
def features_of(
    critic: SelfSupervisedCritic, images: Tensor, done: tuple[Transformation, ...]
) -> Tensor:
    """Return features (S, n, F) of uint8 images in S transformations."""
    return torch.stack(
        [
            torch.cat(
                [
                    critic.global_features_of(t(part.float() / 255, SHIFT))
                    for part in images.split(250)
                ]
            )
            for t in done
        ]
    )


def cropped(images: Tensor, corner: int) -> Tensor:
    """Return corners of uint8 images (n, C, H, H), seven eighths of a side, enlarged."""
    side = images.shape[-1]
    kept = side - side // 8
    top, left = (side - kept) * (corner // 2), (side - kept) * (corner % 2)
    part = images[:, :, top : top + kept, left : left + kept].float()
    found = F.interpolate(part, (side, side), mode="bilinear", align_corners=False)
    return found.round().clamp(0, 255).to(torch.uint8)


def scores(critic: SelfSupervisedCritic, images: Tensor, references: Tensor) -> dict[str, Tensor]:
    """Return the scores (n,) of images by name, higher = more anomalous.

    Those of `scores_of` over all transformations and over those that adcgan-ss scores; and means of
    the latter over an image and its corners, enlarged.
    """
    done = critic.task.transformations
    few = tuple(t for t in done if sum(change > 0 for change in t[1:]) <= 1)
    usual = scores_of(critic, images, references, few)
    crops = [
        usual,
        *(
            scores_of(critic, cropped(images, corner), cropped(references, corner), few)
            for corner in range(4)
        ),
    ]
    every = scores_of(critic, images, references, done, features=done)
    return (
        usual
        | {f"{name}, all": values for name, values in every.items()}
        | {f"{name}, crops": torch.stack([crop[name] for crop in crops]).mean(0) for name in usual}
    )


def scores_of(
    critic: SelfSupervisedCritic,
    images: Tensor,
    references: Tensor,
    done: tuple[Transformation, ...],
    features: tuple[Transformation, ...] = TURNS,
) -> dict[str, Tensor]:
    """Return the scores (n,) of images by name, over the transformations `done`.

    Recognition by the mean of −log p, of 1 − p, or of −logit of what was done, or by Golan and
    El-Yaniv's Dirichlet score; neighbours and Mahalanobis distance over those in `features`.
    """
    task = critic.task
    seen, known = features_of(critic, images, done), features_of(critic, references, done)
    truth = task.truth(done)
    with torch.no_grad():
        logits, usual = critic.answers(seen), critic.answers(known)
    losses = torch.stack(
        [
            answer_losses(one, answer.expand(len(one), -1), task.answers)
            for one, answer in zip(logits, truth, strict=True)
        ]
    )
    directions, reference = F.normalize(seen, dim=2), F.normalize(known, dim=2)
    near, typical = [], []
    for i in (i for i, t in enumerate(done) if t in features):
        near.append(neighbour_distance(directions[i], reference[i], NEIGHBOURS))
        normal = gaussian_whitening(reference[i].numpy())
        typical.append(mahalanobis_distance(directions[i], *normal))
    return {
        "recognition": losses.sum(2).mean(0),
        "1 - p": 1 - losses.neg().exp().prod(2).mean(0),
        "logit": -_true_logits(logits, truth, task).mean(0),
        "Dirichlet": dirichlet(logits, usual, task),
        "neighbours": torch.stack(near).mean(0),
        "typicality": torch.stack(typical).mean(0),
    }


def _true_logits(logits: Tensor, truth: Tensor, task: Task) -> Tensor:
    """Return the logits (S, n) of what was done, summed over questions."""
    parts = logits.split(list(task.answers), 2)
    index = truth[:, :, None, None].expand(-1, -1, logits.shape[1], -1)
    return torch.stack([part.gather(2, index[:, q])[..., 0] for q, part in enumerate(parts)]).sum(0)


def dirichlet(logits: Tensor, usual: Tensor, task: Task) -> Tensor:
    """Return Golan and El-Yaniv's score (n,): unlikeness to what answers to normal images are.

    Answers are taken for draws of a Dirichlet distribution for each transformation and question,
    fitted to those for training images.
    """
    total = torch.zeros(logits.shape[1], dtype=torch.float64)
    for given, normal in zip(logits, usual, strict=True):
        parts = zip(given.split(task.answers, 1), normal.split(task.answers, 1), strict=True)
        for part, known in parts:
            log_p, log_q = (F.log_softmax(x.double(), 1).clamp(min=-30) for x in (part, known))
            total -= ((fitted_dirichlet(log_q) - 1) * log_p).sum(1)
    return total / len(logits)


def fitted_dirichlet(log_p: Tensor) -> Tensor:
    """Return the parameters (A,) most likely for draws whose logarithms (n, A) are given.

    Minka (2000), "Estimating a Dirichlet distribution": fixed point from a first guess.
    """
    mean, of_log = log_p.exp().mean(0).numpy(), log_p.mean(0).numpy()
    first = (len(mean) - 1) * -psi(1) / (mean * (np.log(mean) - of_log)).sum()
    a = np.maximum(first * mean, 1e-3)
    for _ in range(200):
        y = psi(a.sum()) + of_log
        new = np.where(y >= -2.22, np.exp(y) + 0.5, -1 / (y - psi(1)))
        for _ in range(5):
            new = new - (psi(new) - y) / polygamma(1, new)
        moved, a = np.abs(new - a).max(), new
        if moved < 1e-4:
            break
    return torch.from_numpy(a)


def measure(lead: Lead, dataset: str, class_: int, steps: int, seed: int) -> dict[str, Any]:
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
        critic = train(lead, learned, steps, seed)
    trained = time.process_time()
    step = max(1, -(-len(learned) // REFERENCES))
    found = scores(critic, torch.from_numpy(images.images[judged]), learned[::step])
    means = {
        f"score{called}": _together(found, labels, called) for called in ("", ", all", ", crops")
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


def _together(found: dict[str, Tensor], labels: np.ndarray[Any, Any], called: str) -> Tensor:
    """Return the mean of adcgan-ss's three components, each on the scale of the normal images."""
    normal = torch.from_numpy(labels == 0)
    parts = [found[f"{name}{called}"] for name in ("recognition", "neighbours", "typicality")]
    scaled = [(x - x[normal].mean()) / x[normal].std() for x in parts]
    return torch.stack([x.double() for x in scaled]).mean(0)


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    names = list(rows[0]["auroc"])
    head = ["lead", "set", "class", "steps", "seed", *names]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        told = [row["name"], row["dataset"], row["class"], row["steps"], row["seed"]]
        lines.append([*map(str, told), *(f"{row['auroc'][name]:.1f}" for name in names)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Measure the leads that the file does not have, or print a file as a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--classes", default="0,3")
    parser.add_argument("--leads", default=",".join(LEADS))
    parser.add_argument("--steps", type=int, default=1200, help="of 128 images")
    parser.add_argument("--bf16", action="store_true")
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
                told |= {"steps": asked.steps, "lead": asdict(lead)}
                if asked.out.exists() and any(
                    told.items() <= json.loads(line).items()
                    for line in asked.out.read_text().splitlines()
                ):
                    continue
                found = measure(lead, asked.dataset, class_, asked.steps, seed)
                command = (
                    f"python benchmarks/critic_leads.py --dataset {asked.dataset} "
                    f"--classes {class_} --steps {asked.steps} --seeds {seed} --leads {name}"
                )
                command += " --bf16" * asked.bf16
                if asked.width is not None:
                    command += f" --width {asked.width:g}"
                row = told | found | {"command": command} | circumstances()
                with asked.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(table([row]), flush=True)


if __name__ == "__main__":
    main()
