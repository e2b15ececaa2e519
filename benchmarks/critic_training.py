"""Ways to train a self-supervised critic, without the GAN and the autoencoder of adcgan-ss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from critic_scores import features_of, shift_of
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from adcgan.data.transformations import TURNS, TURNS_AND_SHIFTS, Transformer, asked_together
from adcgan.losses import transformation_loss, view_loss
from adcgan.networks import SelfSupervisedCritic
from adcgan.training.statistics import recompute_statistics

BATCH, TEMPERATURE, MARGIN = 128, 0.2, 1.0


@dataclass(frozen=True)
class Lead:
    """A way to train a critic.

    Attributes
    ----------
    trunk, width, blocks
        As for `SelfSupervisedCritic`.
    dropout : float
        In the trunk.
    together : bool
        Whether all transformations are the answers to one question.
    mirrored : {"asked", "drawn"}
        Whether mirroring is a question, from 32 px on, or half of the images are mirrored and the
        critic is not asked.
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
    decay : float
        Adam's L2 penalty.
    average : float
        Decay of averaged weights; 0: the last ones.
    centre : float
        Weight of the triplet centre loss of GOAD (Bergman and Hoshen 2020, Eq. 6), with learned
        centres.
    start : {"random", "whitened", "identity"}
        As in Jordan (2024, "94% on CIFAR-10 in 3.29 seconds on a single A100"): the first
        convolution whitens patches and stays as it is, or the others begin by passing on what they
        get.
    clusters : int
        From half of the steps on, the critic also tells which of so many clusters of its own
        features an image is in, however it is transformed; 0: none.
    precision : {"float32", "bf16"}
        Of convolutions and matrix products in training.
    """

    trunk: str = "full"
    width: float = 0.25
    blocks: int = 1
    dropout: float = 0.0
    together: bool = False
    mirrored: str = "asked"
    views: float = 0.3
    alike: int = 1
    copies: int = 1
    optimizer: str = "adam"
    lr: float = 1e-3
    schedule: str = "falling"
    decay: float = 0.0
    average: float = 0.0
    centre: float = 0.0
    start: str = "random"
    clusters: int = 0
    precision: str = "float32"


def completed(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of a file, its lead with the settings that there were not yet."""
    return row | {"lead": asdict(Lead(**row["lead"]))}


class Trained(NamedTuple):
    """What a lead makes of images.

    Attributes
    ----------
    critic : SelfSupervisedCritic
    cluster : Linear or None
        Maps the critic's features to logits of clusters, where it learned them.
    """

    critic: SelfSupervisedCritic
    cluster: nn.Linear | None


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
        betas, decay = (0.5, 0.999), lead.decay
        return [torch.optim.Adam(weights, lead.lr, betas, weight_decay=decay, fused=True)]
    inner = [w for w in weights if w.dim() == 4 and w.shape[1] > 3]
    others = [w for w in weights if all(w is not one for one in inner)]
    return [Muon(inner, lead.lr), torch.optim.Adam(others, 1e-3, (0.9, 0.999), fused=True)]


def rate(schedule: str, done: float) -> float:
    """Return the factor of the learning rate where this share of the steps is done."""
    if schedule == "triangle":
        return min(1.0, 20 * done + 0.01) * (1 - done)
    return 1.0 if schedule == "constant" else (1 + math.cos(math.pi * done)) / 2


def batches(n_images: int, n: int, steps: int, seed: int) -> Iterator[Tensor]:
    """Yield the indices of `steps` batches of `n` images, in an order drawn for each epoch."""
    rng = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if len(order) < n:
            order = torch.randperm(n_images, generator=rng)
        yield order[:n]
        order = order[n:]


def mirrored_at_random(x: Tensor) -> Tensor:
    """Return images (B, C, H, W), each mirrored or not."""
    return torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x, x.flip(3))


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


def train(lead: Lead, images: Tensor, steps: int, seed: int) -> Trained:
    """Return what a lead makes of uint8 images (n, C, H, H)."""
    torch.manual_seed(seed)
    channels, side = images.shape[1:3]
    critic = SelfSupervisedCritic(
        channels,
        side,
        width=lead.width,
        dropout=lead.dropout,
        trunk=lead.trunk,
        blocks=lead.blocks,
        together=lead.together,
    )
    if lead.mirrored == "drawn":
        unasked = TURNS_AND_SHIFTS
        critic.task = asked_together(unasked) if lead.together else unasked
        critic.answer = nn.Linear(critic.global_features, sum(critic.task.answers))
    begin(critic, lead.start, images)
    critic.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    task, cpu = critic.task, torch.device("cpu")
    transform = Transformer(task, side, shift_of(side), lead.alike, cpu)
    centres = nn.Parameter(0.1 * torch.randn(len(task.transformations), critic.global_features))
    cluster = nn.Linear(critic.global_features, lead.clusters) if lead.clusters else None
    more = [*([centres] if lead.centre else []), *(cluster.parameters() if cluster else [])]
    updates = optimizers(lead, critic, more)
    first = [group["lr"] for update in updates for group in update.param_groups]
    average = AveragedModel(critic, avg_fn=_decaying(lead.average)) if lead.average else None
    n = (BATCH // 2 if lead.views else BATCH) // lead.copies
    clusters = None

    def end() -> None:
        chosen = batches(len(images), min(BATCH, len(images)), 16, seed)
        some = (images[index].float() / 255 for index in chosen)
        recompute_statistics(critic, lambda x: critic.global_features_of(transform(x)[0]), some)

    for step, index in enumerate(batches(len(images), n, steps, seed)):
        if cluster is not None and step == steps // 2:
            end()
            clusters = clusters_of(critic, images, lead.clusters, seed)
            critic.train()
        x = (images[index].float() / 255).repeat(lead.copies, 1, 1, 1)
        if lead.mirrored == "drawn":
            x = mirrored_at_random(x)
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
        if cluster is not None and clusters is not None:
            own = clusters[index].repeat(len(both) // n)
            loss += F.cross_entropy(cluster(features.float()), own)
        for update in updates:
            update.zero_grad()
        loss.backward()
        for update in updates:
            update.step()
        if average is not None:
            average.update_parameters(critic)
    if average is not None:
        critic.load_state_dict(average.module.state_dict())
    end()
    return Trained(critic, cluster)


def clusters_of(critic: SelfSupervisedCritic, images: Tensor, n: int, seed: int) -> Tensor:
    """Return the number of each uint8 image's cluster (m,), by k-means of its features."""
    features = F.normalize(features_of(critic, images, TURNS[:1])[0], dim=1)
    found = MiniBatchKMeans(n, n_init=3, batch_size=4096, random_state=seed)
    return torch.from_numpy(found.fit_predict(features.numpy()).astype(np.int64))


def _decaying(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """Return the update of an average that forgets, without a share of the untrained weights."""

    def update(average: Tensor, weight: Tensor, count: Tensor | int) -> Tensor:
        return average + (weight - average) * (1 - decay) / (1 - decay ** (int(count) + 1))

    return update
