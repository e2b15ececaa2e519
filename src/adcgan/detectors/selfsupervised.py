"""AD-CGAN with a critic that also learns by itself what a normal image looks like.

The contrastive GAN and the shared-weight autoencoder are those of `adcgan.detectors.adcgan`. The
critic recognises, in addition, which transformation was applied to a training image, as in
self-supervised GANs (Chen et al., "Self-Supervised GANs via Auxiliary Rotation Loss", 2019), and
the score asks how well it does so (Golan and El-Yaniv, "Deep Anomaly Detection Using Geometric
Transformations", 2018) and how far the image's features lie from those of the training images.
From 32 px on it also tells two views of one image from those of others (Chen et al., "A Simple
Framework for Contrastive Learning of Visual Representations", 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from adcgan.data.prepare import Split
from adcgan.detectors.base import Components, Detector, Shape
from adcgan.detectors.density import (
    gaussian_whitening,
    mahalanobis_distance,
    neighbour_distance,
)
from adcgan.detectors.heatmaps import residual_map
from adcgan.detectors.parameters import Rule, maybe, one_of, real, whole
from adcgan.losses import (
    answer_losses,
    contrastive_loss,
    reconstruction_loss,
    relativistic_critic_loss,
    relativistic_generator_loss,
    transformation_loss,
    view_loss,
)
from adcgan.networks import Encoder, Generator, SelfSupervisedCritic, default_latent_dim
from adcgan.networks.critic import RESIDUAL_FROM
from adcgan.networks.transformations import TURNS, Task, Transformation, other_view
from adcgan.scoring import (
    location_and_scale,
    residual_loss,
    standardise,
)
from adcgan.training import (
    COLLAPSE,
    STALLED_AUTOENCODER,
    Optimizers,
    Phase,
    Recipe,
    Session,
    diversity_figures,
    reconstruction_figures,
)
from adcgan.training.device import PRECISIONS

if TYPE_CHECKING:
    from accelerate import Accelerator

WEIGHED = ("recognition", "neighbours", "typicality")
COMPONENTS = (*WEIGHED, "residual")
# What None stands for: below 32 px, and from there on, where the critic's trunk is residual.
BY_SIZE: dict[str, tuple[float, float]] = {
    "width": (0.5, 0.25),
    "min_steps": (600, 2000),
    "adversarial": (1.0, 0.1),
    "alpha": (0.3, 0.03),
    "beta": (0.3, 0.03),
    "views": (0.0, 0.3),
    "shift": (1 / 8, 1 / 4),
    "critic_steps": (1, 4),
    "dropout": (0.2, 0.0),
}
# Of the contrastive loss between views.
TEMPERATURE = 0.2
# Images of a step that are transformed alike.
ALIKE = 16
# Training images whose features describe what is normal.
MOST_REFERENCES = 4096


class SelfSupervisedADCGAN(Detector):
    """AD-CGAN whose critic also tells transformations apart and whose features are compared.

    What None stands for depends on the images' size alone, not on what they show.

    Parameters
    ----------
    image_size : int or None
        Side in pixels, 16 to 256; None takes 64 for folders and the arrays' own size.
    resize : {"squash", "crop", "pad"}
        How photographs become square.
    latent_dim : int or None
        Size z of the latent; None is 100, and 200 from 64 px on.
    width : float or None
        Scale of every hidden width; None is 0.5, and 0.25 from 32 px on, where the critic's trunk
        is residual.
    batch_size : int
        Images a step that are transformed; with `views`, half as many, in two views each.
    gan_batch_size : int
        How many of them the GAN and the autoencoder see, as they are.
    warmup_steps : int
        Steps of the autoencoder alone.
    epochs : int
        Passes over the images with all networks together.
    min_steps : int or None
        Steps that these are lengthened to for smaller sets; None is 600, and 2,000 from 32 px on.
    lr, lr_gan : float
        Adam's learning rate for critic and autoencoder, and for the generator.
    transformation : float
        Weight of the critic's cross-entropy on transformations.
    adversarial : float or None
        Weight of the critic's adversarial loss (Eq. 6); 0 leaves the GAN out, and G is then the
        autoencoder's decoder alone. None is 1, and 0.1 from 32 px on.
    alpha, beta : float or None
        Weights of the contrastive loss for the generator and the critic (Eq. 2). None is 0.3, and
        0.03 from 32 px on.
    views : float or None
        Weight of the contrastive loss between two views of each transformed image; 0 leaves it
        out. None is 0, and 0.3 from 32 px on.
    shift : float or None
        How far a shift moves an image, as a share of its side; None is 1/8, and 1/4 from 32 px on.
    critic_steps : int or None
        Steps of the critic's second task to one step of everything: the GAN, the contrastive loss
        and the autoencoder. None is 1, and 4 from 32 px on.
    dropout : float or None
        Dropout in the critic; None is 0.2, and 0 from 32 px on.
    n_neighbors : int
        Training images whose features an image is compared with.
    validation_fraction : float
        Share of the images held out for monitoring, scaling and calibration.
    fpr : float
        False-positive budget of the threshold.
    contamination : float or None
        If given, PyOD's rule sets the threshold instead: this share of the images given to ``fit``
        is called anomalous.
    precision : {"auto", "float32", "bf16"}
        Of training; scores are float32 always.
    device : str
        "auto", "cpu", "cuda", …
    random_state : int
        Seed of everything random.

    Notes
    -----
    The components of the score, each the mean over transformations t:

    - "recognition": −log p(t | t(x)), the critic's cross-entropy, summed over the questions (the
      turn, the shift to the right, the shift down) that it answers better than by a guess on
      held-out normal images;
    - "neighbours": mean cosine distance of E_ψ(t(x)) from the nearest training images';
    - "typicality": Mahalanobis distance of E_ψ(t(x)), scaled to length 1, from the training
      images';
    - "residual": L_GR = mean |x − G(E(x))|, which has no weight in the score.

    Each is put on the scale of held-out normal images before the first three are averaged.
    """

    rules: ClassVar[dict[str, Rule]] = {
        "latent_dim": maybe(whole(1)),
        "width": maybe(real(0, 4, above=True)),
        "batch_size": whole(2),
        "gan_batch_size": whole(2),
        "warmup_steps": whole(0),
        "epochs": whole(1),
        "min_steps": maybe(whole(0)),
        "lr": real(0, above=True),
        "lr_gan": real(0, above=True),
        "adversarial": maybe(real(0)),
        "alpha": maybe(real(0)),
        "beta": maybe(real(0)),
        "transformation": real(0),
        "views": maybe(real(0)),
        "shift": maybe(real(0, 0.5, above=True)),
        "critic_steps": maybe(whole(1)),
        "dropout": maybe(real(0, 1, below=True)),
        "n_neighbors": whole(1),
        "precision": one_of(*PRECISIONS),
    }

    def __init__(
        self,
        *,
        image_size: int | None = None,
        resize: str = "squash",
        latent_dim: int | None = None,
        width: float | None = None,
        batch_size: int = 128,
        gan_batch_size: int = 32,
        warmup_steps: int = 100,
        epochs: int = 8,
        min_steps: int | None = None,
        lr: float = 1e-3,
        lr_gan: float = 3e-4,
        adversarial: float | None = None,
        alpha: float | None = None,
        beta: float | None = None,
        transformation: float = 1.0,
        views: float | None = None,
        shift: float | None = None,
        critic_steps: int | None = None,
        dropout: float | None = None,
        n_neighbors: int = 5,
        validation_fraction: float = 0.1,
        fpr: float = 0.01,
        contamination: float | None = None,
        precision: str = "auto",
        device: str = "auto",
        random_state: int = 0,
    ) -> None:
        self.image_size = image_size
        self.resize = resize
        self.latent_dim = latent_dim
        self.width = width
        self.batch_size = batch_size
        self.gan_batch_size = gan_batch_size
        self.warmup_steps = warmup_steps
        self.epochs = epochs
        self.min_steps = min_steps
        self.lr = lr
        self.lr_gan = lr_gan
        self.adversarial = adversarial
        self.alpha = alpha
        self.beta = beta
        self.transformation = transformation
        self.views = views
        self.shift = shift
        self.critic_steps = critic_steps
        self.dropout = dropout
        self.n_neighbors = n_neighbors
        self.validation_fraction = validation_fraction
        self.fpr = fpr
        self.contamination = contamination
        self.precision = precision
        self.device = device
        self.random_state = random_state

    # -- networks ------------------------------------------------------------------------------

    def _latent_dim(self, shape: Shape) -> int:
        return self.latent_dim or default_latent_dim(shape[1])

    def _setting(self, name: str, shape: Shape) -> float:
        """Return the parameter `name`, or what None stands for with images of `shape`."""
        value = getattr(self, name)
        return BY_SIZE[name][shape[1] >= RESIDUAL_FROM] if value is None else value

    def _width(self, shape: Shape) -> float:
        return self._setting("width", shape)

    def _make_networks(self, shape: Shape, width: float) -> nn.ModuleDict:
        """Return E, G and the critic, each once: the autoencoder's decoder is G itself."""
        channels, size, _ = shape
        z = self._latent_dim(shape)
        dropout = self._setting("dropout", shape)
        networks = {
            "encoder": Encoder(channels, size, z, width=width, dropout=0.0),
            "generator": Generator(channels, size, z, width=width),
            "critic": SelfSupervisedCritic(channels, size, width=width, dropout=dropout),
        }
        modules = nn.ModuleDict(networks)
        return modules.to(memory_format=torch.channels_last)  # type: ignore[no-any-return, call-overload]

    # -- training ------------------------------------------------------------------------------

    def _recipe(self, networks: nn.ModuleDict, n_train: int, accelerator: Accelerator) -> Recipe:
        parameters = {name: list(networks[name].parameters()) for name in ("critic", "generator")}
        parameters["autoencoder"] = [
            *networks["encoder"].parameters(),
            *networks["generator"].parameters(),
        ]
        rates = {"critic": self.lr, "generator": self.lr_gan, "autoencoder": self.lr}
        optimizers = Optimizers(parameters, rates, accelerator=accelerator)
        steps = _Steps(self, networks, optimizers)
        return Recipe(
            networks=networks,
            optimizers=optimizers,
            phases=(
                Phase("warm-up", self.warmup_steps, steps.warm_up),
                Phase("joint", self._steps(n_train), steps.joint),
            ),
            batch_size=self.batch_size,
            probe=steps.probe,
            checks=(COLLAPSE, STALLED_AUTOENCODER) if steps.has_gan else (STALLED_AUTOENCODER,),
            scoring_pass=steps.scoring_pass,
        )

    def _steps(self, n_train: int) -> int:
        """Return the steps of all networks together."""
        per_epoch = n_train // min(self.batch_size, n_train)
        return max(self.epochs * per_epoch, int(self._setting("min_steps", self.image_shape_)))

    def _learn(self, images: NDArray[np.uint8], split: Split, session: Session) -> None:
        super()._learn(images, split, session)
        self._describe(images[split.train])
        with torch.no_grad():
            right = torch.cat([self._right(x) for x in self._batches(images[split.held_out])])
        self.informed_ = informed(right, self._critic.task).to(self._device())

    def _describe(self, images: NDArray[np.uint8]) -> None:
        """Keep what the critic sees in training images (n, C, H, W)."""
        some = images[:: max(1, -(-len(images) // MOST_REFERENCES))]
        with torch.no_grad():
            seen = [
                torch.stack([_direction(self._features(t, x)) for t in TURNS])
                for x in self._batches(some)
            ]
        self.reference_ = torch.cat(seen, 1)
        fitted = [gaussian_whitening(part.cpu().numpy()) for part in self.reference_]
        self.mean_ = torch.stack([mean for mean, _ in fitted]).to(self.reference_.device)
        self.whitening_ = torch.stack([matrix for _, matrix in fitted]).to(self.mean_.device)

    def _right(self, x: Tensor) -> Tensor:
        """Return which answers are right: bool (B, S, Q) for images and the S scored t."""
        answers, scored = self._critic.task
        logits = torch.stack([self._critic.answers(self._features(t, x)) for t in scored], 1)
        given = torch.stack(
            [part.argmax(2) for part in torch.split(logits, list(answers), dim=2)], 2
        )
        return given == _truth(scored, answers).to(x.device)

    # -- score ---------------------------------------------------------------------------------

    @property
    def _critic(self) -> SelfSupervisedCritic:
        return cast(SelfSupervisedCritic, self.networks_["critic"])

    def _features(self, t: Transformation, x: Tensor) -> Tensor:
        """Return E_ψ(t(x)) (B, F) of images (B, C, H, W)."""
        return self._critic.global_features_of(t(x, self._setting("shift", self.image_shape_)))

    def _component_batch(self, x: Tensor) -> dict[str, Tensor]:
        parts: dict[str, list[Tensor]] = {name: [] for name in WEIGHED}
        answers, scored = self._critic.task
        for t in scored:
            features = self._features(t, x)
            truth = _truth([t], answers).to(x.device).expand(x.shape[0], -1)
            losses = answer_losses(self._critic.answers(features), truth, answers)
            parts["recognition"].append((losses * self.informed_).sum(1))
            if t in TURNS:
                direction, reference = _direction(features), self.reference_[t.turns]
                k = min(self.n_neighbors, len(reference))
                parts["neighbours"].append(neighbour_distance(direction, reference, k))
                normal = self.mean_[t.turns], self.whitening_[t.turns]
                parts["typicality"].append(mahalanobis_distance(direction, *normal))
        components = {name: torch.stack(values).mean(0) for name, values in parts.items()}
        return {**components, "residual": residual_loss(x, self._reconstruct_batch(x), "mean")}

    def _fit_components(self, components: Components) -> None:
        self.component_location_, self.component_scale_ = location_and_scale(components)

    def _combine(self, components: Components) -> NDArray[np.float64]:
        scaled = standardise(components, self.component_location_, self.component_scale_)
        score: NDArray[np.float64] = np.mean([scaled[name] for name in WEIGHED], axis=0)
        return score

    def _reconstruct_batch(self, x: Tensor) -> Tensor:
        x_hat: Tensor = self.networks_["generator"](self.networks_["encoder"](x))
        return x_hat

    def _generated(self, generator: nn.Module, n: int, rng: torch.Generator) -> Tensor:
        z = torch.randn(n, self._latent_dim(self.image_shape_), generator=rng)
        x: Tensor = generator(z.to(self._device()))
        return x

    def _map_batch(self, x: Tensor) -> Tensor:
        return residual_map(x, self._reconstruct_batch(x))

    # -- storage -------------------------------------------------------------------------------

    def _extras(self) -> dict[str, Tensor]:
        scale = [[self.component_location_[k], self.component_scale_[k]] for k in COMPONENTS]
        return {
            "component_scale": torch.tensor(scale, dtype=torch.float64),
            "informed": self.informed_,
            "reference": self.reference_,
            "mean": self.mean_,
            "whitening": self.whitening_,
        }

    def _set_extras(self, extras: dict[str, Tensor]) -> None:
        locations, scales = extras["component_scale"].T.tolist()
        self.component_location_ = dict(zip(COMPONENTS, locations, strict=True))
        self.component_scale_ = dict(zip(COMPONENTS, scales, strict=True))
        for name in ("informed", "reference", "mean", "whitening"):
            setattr(self, f"{name}_", extras[name].to(self._device()))


class _Steps:
    """One training step of each phase. A step's order: critic, generator, autoencoder."""

    def __init__(
        self, detector: SelfSupervisedADCGAN, networks: nn.ModuleDict, optimizers: Optimizers
    ) -> None:
        self.gan_batch_size = detector.gan_batch_size
        self.encoder, self.generator = networks["encoder"], networks["generator"]
        self.critic = cast(SelfSupervisedCritic, networks["critic"])
        self.latent_dim = detector._latent_dim
        self.optimizers, self.update = optimizers, optimizers.update
        self.weight = {
            name: detector._setting(name, detector.image_shape_)
            for name in ("transformation", "adversarial", "alpha", "beta", "views")
        }
        self.shift = detector._setting("shift", detector.image_shape_)
        self.critic_steps = int(detector._setting("critic_steps", detector.image_shape_))
        self.has_gan = self.weight["adversarial"] > 0

    def _noise(self, like: Tensor, rng: torch.Generator) -> Tensor:
        z = self.latent_dim((like.shape[1], like.shape[2], like.shape[3]))
        return torch.randn(len(like), z, device=like.device, generator=rng)

    def warm_up(self, x: Tensor, rng: torch.Generator) -> None:  # noqa: ARG002
        """Train the autoencoder alone on L_AE."""
        x = x[: self.gan_batch_size]
        x_hat = self.generator(self.encoder(x))
        self.update("autoencoder", {"reconstruction": reconstruction_loss(x, x_hat)})

    def joint(self, x: Tensor, rng: torch.Generator) -> None:
        """Train the critic to recognise, and every `critic_steps`-th time all networks."""
        few = x[: self.gan_batch_size]
        if self.optimizers.step % self.critic_steps:
            self._critic_step(x, few[:0], None)
            return
        fake = self.generator(self._noise(few, rng)) if self.has_gan else None
        self._critic_step(x, few, fake)
        if fake is not None:
            self._generator_step(few, fake)
        x_hat = self.generator(self.encoder(few))
        self.update("autoencoder", {"reconstruction": reconstruction_loss(few, x_hat)})

    def _critic_step(self, x: Tensor, few: Tensor, fake: Tensor | None) -> None:
        losses = {}
        with parametrize.cached():
            asked, has_views = self.critic.task.answers, self.weight["views"] > 0
            some = x[: (len(x) + 1) // 2] if has_views else x
            turned, truth = transformed(some, self.shift, asked)
            if has_views:
                turned, truth = torch.cat([turned, other_view(turned)]), truth.repeat(2, 1)
            local = self.critic.local_features(torch.cat([few, turned]))
            global_ = self.critic.last_block(local).flatten(1)
            n = len(few)
            given = self.critic.answers(global_[n:])
            losses["transformation"] = transformation_loss(given, truth, asked).mean()
            if has_views:
                first, second = self.critic.view_features(global_[n:]).chunk(2)
                losses["views"] = view_loss(first, second, TEMPERATURE)
            if self.weight["beta"] and n:
                query = self.critic.project(global_[:n])
                losses["contrastive"] = contrastive_loss(local[:n], query, "batch")
            if fake is not None:
                real = self.critic.logit(global_[:n]).squeeze(1)
                judged = self.critic(fake.detach()).logit
                losses["adversarial"] = relativistic_critic_loss(real, judged)
        weights = {**self.weight, "contrastive": self.weight["beta"]}
        self.update("critic", {name: weights[name] * loss for name, loss in losses.items()})

    def _generator_step(self, x: Tensor, fake: Tensor) -> None:
        with parametrize.cached():
            with torch.no_grad():
                on_real = self.critic(x)
            on_fake = self.critic(fake)
            query = self.critic.project(on_fake.global_)
        losses = {"adversarial": relativistic_generator_loss(on_real.logit, on_fake.logit)}
        if alpha := self.weight["alpha"]:
            losses["contrastive"] = alpha * contrastive_loss(on_fake.local, query, "batch")
        self.update("generator", losses)

    def scoring_pass(self, x: Tensor) -> None:
        """Put images through E, G and the critic as the score does."""
        self.generator(self.encoder(x))
        # One batch of all transformations, as in training, so that its variance is theirs.
        scored = self.critic.task.scored
        n = len(scored)
        mixed = [t(x[i::n], self.shift) for i, t in enumerate(scored[: len(x)])]
        self.critic.global_features_of(torch.cat(mixed))

    def probe(self, x: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Return figures on held-out images: reconstruction, and the generator's diversity."""
        figures = reconstruction_figures(x, self.generator(self.encoder(x)))
        if self.has_gan:
            figures |= diversity_figures(x, self.generator(self._noise(x, rng)))
        return figures


def _direction(features: Tensor) -> Tensor:
    """Return features (B, F) scaled to length 1: their length tells little of what is normal."""
    return F.normalize(features, dim=1)


def transformed(x: Tensor, shift: float, answers: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Transform images (B, C, H, W) at random, each `ALIKE` of them alike.

    Returns them and the right answers (B, Q) to the questions with so many `answers`.
    """
    parts, done = [], []
    for start in range(0, len(x), ALIKE):
        part = x[start : start + ALIKE]
        t = Transformation(*(int(torch.randint(n, ())) for n in answers))
        parts.append(t(part, shift))
        done += [t] * len(part)
    return torch.cat(parts), _truth(done, answers).to(x.device, non_blocking=True)


def _truth(done: Sequence[Transformation], answers: Sequence[int]) -> Tensor:
    """Return the right answers (S, Q) to what was done, S transformations."""
    return torch.tensor([t[: len(answers)] for t in done])


def informed(right: Tensor, task: Task) -> Tensor:
    """Return which questions a critic answers better than by a guess: bool (Q,).

    A question counts if its balanced accuracy, the mean over its answers of the share that is
    recognised, is above one over the number of answers by more than twice its standard error.

    Parameters
    ----------
    right : Tensor of bool (n, S, Q)
        Whether the answers for n images, each transformed in the S ways that are scored, are right.
    task : Task
        What was asked.
    """
    truth = _truth(task.scored, task.answers)
    found = []
    for q, n_answers in enumerate(task.answers):
        recognised = [right[:, truth[:, q] == a, q].float().mean(1) for a in range(n_answers)]
        # Summed over the answers, a guess makes exactly 1.
        total = torch.stack(recognised).sum(0)
        error = total.std(correction=0) / len(total) ** 0.5
        found.append(total.mean() > 1 + 2 * error)
    return torch.stack(found)
