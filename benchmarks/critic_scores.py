"""Scores of images by a self-supervised critic alone, higher = more anomalous."""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import polygamma, psi
from torch import Tensor
from torch.nn import functional as F

from adcgan.data.transformations import TURNS, Task, Transformation
from adcgan.detectors.density import (
    clustered_gaussians,
    mahalanobis_distance,
    neighbour_distance,
    principal_directions,
)
from adcgan.detectors.selfsupervised import PRINCIPAL
from adcgan.losses import answer_losses
from adcgan.networks import SelfSupervisedCritic
from adcgan.networks.critic import RESIDUAL_FROM

NEIGHBOURS = 5
# Numbers of Gaussians, one for each cluster of features, and of principal components of these.
CLUSTERS = (5, 20, 50, 100)
# Training images whose answers the Dirichlet score is fitted to, and that features of all
# transformations are compared with.
ANSWERING = 500
# Scores that are means of others: that of adcgan-ss, with recognition of other kinds, and with
# several Gaussians in the place of one.
MEANS = {
    "score": ("recognition", "neighbours", "typicality"),
    "score, logit": ("logit", "neighbours", "typicality"),
    "score, Dirichlet": ("Dirichlet", "neighbours", "typicality"),
    "20 Gaussians for one": ("recognition", "neighbours", "20 Gaussians"),
    "50 Gaussians for one": ("recognition", "neighbours", "50 Gaussians"),
    "50 reduced for one": ("recognition", "neighbours", "50 Gaussians, reduced"),
    "100 reduced for one": ("recognition", "neighbours", "100 Gaussians, reduced"),
}


def shift_of(side: int) -> float:
    """Return how far a shift goes, as a share of the side: as in adcgan-ss."""
    return 1 / 4 if side >= RESIDUAL_FROM else 1 / 8


@torch.no_grad()
def features_of(
    critic: SelfSupervisedCritic,
    images: Tensor,
    done: tuple[Transformation, ...],
    precision: str = "float32",
) -> Tensor:
    """Return features (S, n, F) of uint8 images in S transformations, computed in "bf16" or not."""
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        found = [
            torch.cat(
                [
                    critic.global_features_of(t(part.float() / 255, shift_of(part.shape[-1])))
                    for part in images.split(250)
                ]
            )
            for t in done
        ]
    return torch.stack(found).float()


def cropped(images: Tensor, corner: int) -> Tensor:
    """Return corners of uint8 images (n, C, H, H), seven eighths of a side, enlarged."""
    side = images.shape[-1]
    kept = side - side // 8
    top, left = (side - kept) * (corner // 2), (side - kept) * (corner % 2)
    part = images[:, :, top : top + kept, left : left + kept].float()
    found = F.interpolate(part, (side, side), mode="bilinear", align_corners=False)
    return found.round().clamp(0, 255).to(torch.uint8)


def scores(
    critic: SelfSupervisedCritic,
    images: Tensor,
    references: Tensor,
    precision: str = "float32",
    crops: bool = False,
) -> dict[str, Tensor]:
    """Return the scores (n,) of images by name, higher = more anomalous.

    Those of `scores_of` over the transformations that adcgan-ss scores; the same over all of them,
    with features of fewer training images; with `crops` the means of the former over an image and
    its corners, enlarged.
    """
    done = critic.task.transformations
    few = scored(critic.task)
    seen = features_of(critic, images, done, precision)
    some = sample(references, ANSWERING)
    known = features_of(critic, some, done, precision)
    near = features_of(critic, references, TURNS, precision)
    index = [done.index(t) for t in few]
    usual = _few_scores(critic, seen[index], known[index], near)
    every = recognition_scores(critic, seen, known, done) | density_scores(seen, known)
    found = usual | {f"{name}, all": values for name, values in every.items()}
    if crops:
        corners = [
            scores_of(critic, *(cropped(x, corner) for x in (images, references, some)), precision)
            for corner in range(4)
        ]
        for name, values in usual.items():
            ensemble = torch.stack([values, *(corner[name] for corner in corners)])
            found[f"{name}, crops"] = ensemble.mean(0)
    return found


def scores_of(
    critic: SelfSupervisedCritic,
    images: Tensor,
    references: Tensor,
    answering: Tensor,
    precision: str = "float32",
) -> dict[str, Tensor]:
    """Return the scores (n,) of uint8 images over the transformations that adcgan-ss scores.

    Those of `recognition_scores` beside the training images `answering`, and of `density_scores`
    beside `references`, in the four turns.
    """
    few = scored(critic.task)
    seen, known = (features_of(critic, x, few, precision) for x in (images, answering))
    return _few_scores(critic, seen, known, features_of(critic, references, TURNS, precision))


def _few_scores(
    critic: SelfSupervisedCritic, seen: Tensor, known: Tensor, near: Tensor
) -> dict[str, Tensor]:
    """Return the same of features (S, n, F) and (S, m, F) of what is scored, and (4, k, F)."""
    few = scored(critic.task)
    turns = seen[[few.index(t) for t in TURNS]]
    return recognition_scores(critic, seen, known, few) | density_scores(turns, near, CLUSTERS)


def scored(task: Task) -> tuple[Transformation, ...]:
    """Return what adcgan-ss does to an image: each turn, with at most one change more."""
    return tuple(t for t in task.transformations if sum(change > 0 for change in t[1:]) <= 1)


def sample(images: Tensor, n: int) -> Tensor:
    """Return `n` of the images at most, evenly spaced."""
    return images[:: max(1, -(-len(images) // n))]


def recognition_scores(
    critic: SelfSupervisedCritic, seen: Tensor, known: Tensor, done: tuple[Transformation, ...]
) -> dict[str, Tensor]:
    """Return the scores (n,) of features (S, n, F) by what the critic answers.

    They and those (S, m, F) of training images are of the S transformations `done`. The mean of
    −log p, of 1 − p, or of −logit of what was done, and Golan and El-Yaniv's Dirichlet score.
    """
    task = critic.task
    truth = task.truth(done)
    with torch.no_grad():
        logits, usual = critic.answers(seen), critic.answers(known)
    losses = torch.stack(
        [
            answer_losses(one, answer.expand(len(one), -1), task.answers)
            for one, answer in zip(logits, truth, strict=True)
        ]
    )
    return {
        "recognition": losses.sum(2).mean(0),
        "1 - p": 1 - losses.neg().exp().prod(2).mean(0),
        "logit": -_true_logits(logits, truth, task).mean(0),
        "Dirichlet": dirichlet(logits, usual, task),
    }


def density_scores(
    seen: Tensor, known: Tensor, clusters: tuple[int, ...] = ()
) -> dict[str, Tensor]:
    """Return the scores (n,) of features (S, n, F) by those (S, m, F) of training images.

    Means over S transformations of the cosine distance from the nearest, the Mahalanobis distance,
    and that from the nearest of some `clusters` with covariances of their own (SSD, Sehwag et al.
    2021), of all features or reduced to principal components.
    """
    found: dict[str, list[Tensor]] = {}
    for features, others in zip(F.normalize(seen, dim=2), F.normalize(known, dim=2), strict=True):
        parts = {
            "neighbours": neighbour_distance(features, others, NEIGHBOURS),
            "typicality": gaussian_distance(features, others),
        }
        if clusters:
            basis = principal_directions(others.numpy(), PRINCIPAL)
            reduced = (features @ basis, others @ basis)
        for k in clusters:
            parts[f"{k} Gaussians"] = gaussian_distance(features, others, k)
            parts[f"{k} Gaussians, reduced"] = gaussian_distance(*reduced, k)
        for name, values in parts.items():
            found.setdefault(name, []).append(values)
    return {name: torch.stack(values).mean(0) for name, values in found.items()}


def gaussian_distance(features: Tensor, others: Tensor, clusters: int = 1) -> Tensor:
    """Return distances (n,) of features (n, F) from the nearest cluster of others (m, F)."""
    fitted = clustered_gaussians(others.numpy(), min(clusters, len(others)))
    # A part at a time, which all clusters take a copy of.
    return torch.cat([mahalanobis_distance(part, *fitted) for part in features.split(250)])


def together(
    found: dict[str, Tensor], normal: Tensor, names: tuple[str, ...], called: str = ""
) -> Tensor:
    """Return the mean (n,) of scores by name, each on the scale of the `normal` images.

    After every name stands what the scores are `called`, as ", all".
    """
    parts = [found[f"{name}{called}"] for name in names]
    scaled = [(x - x[normal].mean()) / x[normal].std() for x in parts]
    return torch.stack([x.double() for x in scaled]).mean(0)


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
