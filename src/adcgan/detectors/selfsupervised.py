"""AD-CGAN with a critic that also learns normal images by self-supervision.

The contrastive GAN and the weight-sharing autoencoder are those of `adcgan.detectors.adcgan`. The
critic also learns to recognise which transformation was applied to a training image, as in
self-supervised GANs (Chen et al., "Self-Supervised GANs via Auxiliary Rotation Loss", 2019). The
score measures how well it does so (Golan and El-Yaniv, "Deep Anomaly Detection Using Geometric
Transformations", 2018) and how far the image's features are from those of the training images. For
images of 32 px and more, the critic also learns to tell two views of one image from views of other
images (Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", 2020).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from adcgan.data.prepare import Split
from adcgan.data.ragged import Images
from adcgan.data.transformations import TURNS, Task, Transformation, Transformer
from adcgan.detectors.anomaly_map import residual_map
from adcgan.detectors.base import Detector
from adcgan.detectors.density import (
    clustered_gaussians,
    mahalanobis_distance,
    neighbour_distance,
    principal_directions,
)
from adcgan.detectors.effort import by_effort, chosen, effort_setting
from adcgan.detectors.model import ComponentScale, Model, channels_last
from adcgan.detectors.settings import (
    learning_rate_setting,
    maybe,
    one_of,
    precision_setting,
    real,
    setting,
    whole,
)
from adcgan.losses import (
    answer_losses,
    contrastive_loss,
    reconstruction_loss,
    relativistic_critic_loss,
    relativistic_generator_loss,
    transformation_loss,
    view_loss,
)
from adcgan.networks import (
    Encoder,
    Generator,
    SelfSupervisedCritic,
    SpectralNorms,
    default_latent_dim,
)
from adcgan.networks.critic import TRUNKS
from adcgan.progress import Progress
from adcgan.scoring import Components, Scored, Shape, residual_loss
from adcgan.training import (
    COLLAPSE,
    STALLED_AUTOENCODER,
    Optimizers,
    Phase,
    Recipe,
    diversity_figures,
    frozen,
    reconstruction_figures,
    step_count,
)

if TYPE_CHECKING:
    from accelerate import Accelerator

WEIGHED = ("recognition", "neighbours", "typicality")
COMPONENTS = (*WEIGHED, "residual")
# Temperature of the contrastive loss between views.
TEMPERATURE = 0.2
# Maximum number of training images whose features serve as the reference.
MOST_REFERENCES = 4096
# With several clusters: principal components of the features, and images per cluster at least.
PRINCIPAL, LEAST_IN_CLUSTER = 64, 40


class SelfSupervisedADCGAN(Detector):
    """AD-CGAN with a self-supervised critic, scored by its recognition and its features.

    Settings that are None depend only on `effort` and the size of the images, not on their content.

    Notes
    -----
    The components of the score, each the mean over transformations t:

    - "recognition": −log p(t | t(x)), the critic's cross-entropy, summed over those questions
      (rotation, shift to the right, shift down; flipping from 32 px up) that it answers better than
      chance on held-out normal images;
    - "neighbours": the mean cosine distance of E_ψ(t(x)) from its nearest neighbours among the
      training images;
    - "typicality": the Mahalanobis distance of E_ψ(t(x)), scaled to unit length, from the training
      images, or, with several clusters, from the nearest of them, in their principal components;
    - "residual": L_GR = mean |x − G(E(x))|, which has no weight in the score.

    Each is standardised on held-out normal images; the score is the mean of the first three.
    """

    name: ClassVar[str] = "adcgan-ss"
    capturable: ClassVar[bool] = True
    candidate: ClassVar[bool] = True
    own_steps: ClassVar[bool] = True
    # Two to four times as fast. With AVX-512 BF16 alone, some processors are faster in float32.
    bf16_on_cpus: ClassVar[str] = "amx"

    latent_dim: int | None = setting(
        None,
        maybe(whole(1)),
        "Dimension z of the latent. None means 100, or 200 for images of 64 px and more.",
    )
    effort: str = effort_setting()
    trunk: str | None = by_effort(
        one_of(*TRUNKS),
        'Trunk of the critic: "paper", "small" (residual, with a first map of at most 16 px), '
        '"medium" or "full" (residual, at the resolution of the image up to 32 px or 64 px).',
        quick=("paper", "small"),
        thorough=("medium", "small", "medium"),
    )
    blocks: int | None = by_effort(
        whole(1, 8),
        "Blocks in each of the three stages of a residual trunk.",
        quick=1,
        thorough=(1, 1, 2),
    )
    width: float | None = by_effort(
        real(0, 4, above=True),
        "Factor on all hidden widths.",
        quick=(0.5, 0.25),
        standard=(0.5, 0.25),
        thorough=(0.25, 0.5, 0.25),
    )
    batch_size: int = setting(
        128,
        whole(2),
        "Transformed images per step; with `views`, half as many, in two views each.",
    )
    gan_batch_size: int = setting(
        32,
        whole(2),
        "How many of these images the GAN and the autoencoder see, untransformed.",
    )
    warmup_steps: int = setting(100, whole(0), "Steps that train only the autoencoder.")
    epochs: int = setting(8, whole(1), "Passes over the images that train all networks.")
    min_steps: int | None = by_effort(
        whole(0),
        "Minimum number of steps in these epochs, for small sets.",
        quick=(600, 2000),
        standard=(1500, 9000),
        thorough=(4000, 9000, 16000),
    )
    lr: float = learning_rate_setting(1e-3, "the critic and the autoencoder")
    lr_gan: float = learning_rate_setting(3e-4, "the generator")
    last_rate: float | None = by_effort(
        real(0, 1),
        "Final fraction of the learning rates, reached by half a cosine.",
        quick=1,
        standard=0,
    )
    transformation: float = setting(
        1.0, real(0), "Weight of the critic's cross-entropy on transformations."
    )
    questions: str = setting(
        "separate",
        one_of("separate", "together"),
        "Whether the critic predicts rotation, shifts and flips separately or as one joint class.",
    )
    alike: int | None = by_effort(
        whole(1),
        "Consecutive images that share a transformation.",
        quick=16,
        standard=1,
    )
    adversarial: float | None = by_effort(
        real(0),
        "Weight of the critic's adversarial loss (Eq. 6); 0 leaves out the GAN, and G is then only "
        "the autoencoder's decoder.",
        quick=(1, 0.1),
    )
    alpha: float | None = by_effort(
        real(0), "Weight of the generator's contrastive loss (Eq. 2).", quick=(0.3, 0.03)
    )
    beta: float | None = by_effort(
        real(0), "Weight of the critic's contrastive loss (Eq. 2).", quick=(0.3, 0.03)
    )
    views: float | None = by_effort(
        real(0),
        "Weight of the contrastive loss between two views of each transformed image; 0 leaves it "
        "out.",
        quick=(0, 0.3),
        standard=(0.3, 0.3, 0),
    )
    shift: float | None = by_effort(
        real(0, 0.5, above=True),
        "Distance of a shift, as a fraction of the image's side.",
        quick=(1 / 8, 1 / 4),
    )
    critic_steps: int | None = by_effort(
        whole(1),
        "Steps on the critic's recognition task per step that also trains the GAN, the contrastive "
        "loss and the autoencoder.",
        quick=(1, 4),
        standard=(1, 16),
        thorough=(4, 16, 32),
    )
    dropout: float | None = by_effort(
        real(0, 1, below=True), "Dropout in the critic.", quick=(0.2, 0)
    )
    n_neighbors: int = setting(
        5, whole(1), "Nearest training images that the features are compared with."
    )
    n_clusters: int | None = by_effort(
        whole(1, 1000),
        "Clusters of the training images' features, each with a Gaussian of its own, at most one "
        "for every 40 images.",
        quick=1,
        standard=(100, 1),
    )
    precision: str = precision_setting()

    def make_model(self, shape: Shape) -> SelfSupervisedModel:
        """Return E, G and the critic for images of `shape` (C, H, W)."""
        return SelfSupervisedModel(self, shape)

    def for_size(self, size: int) -> dict[str, Any]:
        """Return the settings that depend on the effort and the image side, with None resolved."""
        return chosen(self, self.effort, size)


class SelfSupervisedModel(Model):
    """E, G and the critic. The autoencoder's decoder is G itself."""

    informed: Tensor  # (Q,) bool: which questions the critic answers better than chance
    reference: Tensor  # (4, n, F): unit features of rotated training images
    basis: Tensor  # (4, F, P): principal directions; empty for one cluster, where P is F
    mean: Tensor  # (4, K, P): of K clusters
    whitening: Tensor  # (4, K, P, P)

    def __init__(self, settings: SelfSupervisedADCGAN, shape: Shape) -> None:
        super().__init__(shape)
        self.settings, self.chosen = settings, settings.for_size(shape[1])
        channels, size, _ = shape
        scale, dropout = self.chosen["width"], self.chosen["dropout"]
        z = self.latent_dim = settings.latent_dim or default_latent_dim(size)
        self.encoder = Encoder(channels, size, z, width=scale, dropout=0.0)
        self.generator = Generator(channels, size, z, width=scale)
        self.critic = SelfSupervisedCritic(
            channels,
            size,
            width=scale,
            dropout=dropout,
            trunk=self.chosen["trunk"],
            blocks=self.chosen["blocks"],
            together=settings.questions == "together",
        )
        channels_last(self)
        self.register_buffer("informed", torch.zeros(len(self.critic.task.answers)).bool())
        for name in ("reference", "basis", "mean", "whitening"):
            self.register_buffer(name, torch.empty(0))
        self.scale = ComponentScale(*COMPONENTS)

    # -- score ---------------------------------------------------------------------------------

    def forward(self, x: Tensor) -> Scored[Tensor]:
        """Return the components, the map and G(E(x)) of images (B, C, H, W) in [0, 1]."""
        parts: dict[str, list[Tensor]] = {name: [] for name in WEIGHED}
        task = self.critic.task
        for t in task.scored:
            features = self._features(t, x)
            truth = task.truth([t]).to(x.device).expand(x.shape[0], -1)
            losses = answer_losses(self.critic.answers(features), truth, task.answers)
            parts["recognition"].append((losses * self.informed).sum(1))
            if t in TURNS:
                direction, reference = _direction(features), self.reference[t.turns]
                k = min(self.settings.n_neighbors, len(reference))
                parts["neighbours"].append(neighbour_distance(direction, reference, k))
                place, gaussians = direction, (self.mean[t.turns], self.whitening[t.turns])
                if self.basis.numel():
                    place = direction @ self.basis[t.turns]
                parts["typicality"].append(mahalanobis_distance(place, *gaussians))
        components = {name: torch.stack(values).mean(0) for name, values in parts.items()}
        x_hat = self.generator(self.encoder(x))
        components["residual"] = residual_loss(x, x_hat, "mean")
        return Scored(components, residual_map(x, x_hat), x_hat)

    def _features(self, t: Transformation, x: Tensor) -> Tensor:
        """Return E_ψ(t(x)) (B, F) of images (B, C, H, W)."""
        return self.critic.global_features_of(t(x, self.chosen["shift"]))

    def combine(self, components: Components) -> NDArray[np.float64]:
        """Return the mean (n,) of recognition, neighbours and typicality, each standardised."""
        assert self.scale is not None
        scaled = self.scale(components)
        score: NDArray[np.float64] = np.mean([scaled[name] for name in WEIGHED], axis=0)
        return score

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        """Return G(z) (n, C, H, W) in [0, 1] for `n` latents drawn with `rng`."""
        x: Tensor = self.generator(torch.randn(n, self.latent_dim, generator=rng).to(self.device))
        return x

    # -- learning ------------------------------------------------------------------------------

    def recipe(self, n_train: int, accelerator: Accelerator) -> Recipe:
        """Return the warm-up and joint phases for `n_train` images."""
        settings = self.settings
        parameters = {
            "critic": list(self.critic.parameters()),
            "generator": list(self.generator.parameters()),
            "autoencoder": [*self.encoder.parameters(), *self.generator.parameters()],
        }
        rates = {"critic": settings.lr, "generator": settings.lr_gan, "autoencoder": settings.lr}
        joint = step_count(n_train, settings.batch_size, settings.epochs, self.chosen["min_steps"])
        last, n_steps = self.chosen["last_rate"], settings.warmup_steps + joint
        optimizers = Optimizers(
            parameters,
            rates,
            decay=None if last == 1 else lambda step: falling(step, n_steps, last),
            accelerator=accelerator,
        )
        steps = _Steps(self, optimizers)
        return Recipe(
            networks=self,
            optimizers=optimizers,
            phases=(
                Phase("warm-up", settings.warmup_steps, steps.warm_up),
                Phase("joint", joint, steps.joint, cycle=steps.critic_steps),
            ),
            batch_size=settings.batch_size,
            probe=steps.probe,
            checks=(COLLAPSE, STALLED_AUTOENCODER) if steps.has_gan else (STALLED_AUTOENCODER,),
            scoring_pass=steps.scoring_pass,
        )

    def learn(self, images: Images, split: Split, progress: Progress) -> None:
        """Store features of training images and find which questions the critic has learned."""
        del progress
        some = split.train[:: max(1, -(-len(split.train) // MOST_REFERENCES))]
        with torch.no_grad():
            seen = [
                torch.stack([_direction(self._features(t, x)) for t in TURNS])
                for x in self.batches(images, some)
            ]
            right = [self._right(x) for x in self.batches(images, split.held_out)]
        self.reference = torch.cat(seen, 1)
        self._fit_gaussians([part.cpu().numpy() for part in self.reference])
        # Without held-out images, no question can be ruled out.
        task = self.critic.task
        known = informed(torch.cat(right), task) if right else torch.ones(len(task.answers)).bool()
        self.informed = known.to(self.device)

    def _fit_gaussians(self, features: Sequence[NDArray[np.float32]]) -> None:
        """Fit Gaussians to the clusters of features (n, F) in each turn."""
        n_clusters = min(self.chosen["n_clusters"], max(1, len(features[0]) // LEAST_IN_CLUSTER))
        bases = []
        if n_clusters > 1:
            # The few images of a cluster tell the covariance of few features.
            bases = [principal_directions(part, PRINCIPAL) for part in features]
            features = [part @ basis.numpy() for part, basis in zip(features, bases, strict=True)]
        fitted = [clustered_gaussians(part, n_clusters) for part in features]
        self.mean = torch.stack([means for means, _ in fitted]).to(self.device)
        self.whitening = torch.stack([matrices for _, matrices in fitted]).to(self.device)
        self.basis = (torch.stack(bases) if bases else torch.empty(0)).to(self.device)

    def _right(self, x: Tensor) -> Tensor:
        """Return which answers are right: bool (B, S, Q), for the S scored transformations."""
        task = self.critic.task
        logits = torch.stack([self.critic.answers(self._features(t, x)) for t in task.scored], 1)
        given = torch.stack(
            [part.argmax(2) for part in torch.split(logits, list(task.answers), dim=2)], 2
        )
        return given == task.truth(task.scored).to(x.device)


class _Steps:
    """The training step of each phase. A joint step updates critic, generator, autoencoder."""

    def __init__(self, model: SelfSupervisedModel, optimizers: Optimizers) -> None:
        self.encoder, self.generator, self.critic = model.encoder, model.generator, model.critic
        self.latent_dim, self.gan_batch_size = model.latent_dim, model.settings.gan_batch_size
        self.encoder_norms, self.critic_norms = (
            SpectralNorms(model.encoder),
            SpectralNorms(model.critic),
        )
        self.optimizers, self.update = optimizers, optimizers.update
        self.weight = {**model.chosen, "transformation": model.settings.transformation}
        self.shift, self.critic_steps = model.chosen["shift"], model.chosen["critic_steps"]
        where = optimizers.accelerator.device
        self.transformer = Transformer(
            model.critic.task, model.shape[1], self.shift, model.chosen["alike"], where
        )
        self.has_gan = self.weight["adversarial"] > 0

    def _noise(self, like: Tensor, rng: torch.Generator) -> Tensor:
        return torch.randn(len(like), self.latent_dim, device=like.device, generator=rng)

    def warm_up(self, x: Tensor, rng: torch.Generator) -> None:
        """Train only the autoencoder, on L_AE."""
        del rng
        x = x[: self.gan_batch_size]
        with self.encoder_norms.shared():
            x_hat = self.generator(self.encoder(x))
        self.update("autoencoder", {"reconstruction": reconstruction_loss(x, x_hat)})

    def joint(self, x: Tensor, rng: torch.Generator) -> None:
        """Train the critic on recognition and, every `critic_steps`-th step, all networks."""
        few = x[: self.gan_batch_size]
        if self.optimizers.step % self.critic_steps:
            self._critic_step(x, few[:0], None)
            return
        fake = self.generator(self._noise(few, rng)) if self.has_gan else None
        self._critic_step(x, few, fake)
        if fake is not None:
            self._generator_step(few, fake)
        with self.encoder_norms.shared():
            x_hat = self.generator(self.encoder(few))
        self.update("autoencoder", {"reconstruction": reconstruction_loss(few, x_hat)})

    def _critic_step(self, x: Tensor, few: Tensor, fake: Tensor | None) -> None:
        losses = {}
        with self.critic_norms.shared():
            asked, has_views = self.critic.task.answers, self.weight["views"] > 0
            some = x[: (len(x) + 1) // 2] if has_views else x
            draw = self.transformer.in_two_views if has_views else self.transformer
            turned, truth = draw(some)
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
        with frozen(self.critic), self.critic_norms.shared():
            with torch.no_grad():
                on_real = self.critic(x)
            on_fake = self.critic(fake)
            query = self.critic.project(on_fake.global_)
        losses = {"adversarial": relativistic_generator_loss(on_real.logit, on_fake.logit)}
        if alpha := self.weight["alpha"]:
            losses["contrastive"] = alpha * contrastive_loss(on_fake.local, query, "batch")
        self.update("generator", losses)

    def scoring_pass(self, x: Tensor) -> None:
        """Pass images through E, G and the critic as scoring does."""
        self.generator(self.encoder(x))
        # Mix all transformations in one batch, as in training, so that the statistics match.
        scored = self.critic.task.scored
        n = len(scored)
        mixed = [t(x[i::n], self.shift) for i, t in enumerate(scored[: len(x)])]
        self.critic.global_features_of(torch.cat(mixed))

    def probe(self, x: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Return figures on held-out images: reconstruction error and the generator's diversity."""
        figures = reconstruction_figures(x, self.generator(self.encoder(x)))
        if self.has_gan:
            figures |= diversity_figures(x, self.generator(self._noise(x, rng)))
        return figures


def _direction(features: Tensor) -> Tensor:
    """Normalise features (B, F) to unit length, as their length says little about normality."""
    return F.normalize(features, dim=1)


def falling(step: int, n_steps: int, last: float) -> float:
    """Return the factor of the learning rate, which falls from 1 to `last` by half a cosine."""
    return last + (1 - last) * (1 + math.cos(math.pi * step / n_steps)) / 2


def informed(right: Tensor, task: Task) -> Tensor:
    """Return which questions a critic answers better than chance: bool (Q,).

    A question counts if its balanced accuracy (the mean recall over its answers) exceeds one over
    the number of answers by more than twice its standard error.

    Parameters
    ----------
    right : Tensor of bool (n, S, Q)
        Whether the answers for n images, each in the S scored transformations, are right.
    task : Task
        The critic's task.
    """
    truth = task.truth(task.scored)
    found = []
    for q, n_answers in enumerate(task.answers):
        recognised = [right[:, truth[:, q] == a, q].float().mean(1) for a in range(n_answers)]
        # Summed over the answers, guessing gives exactly 1.
        total = torch.stack(recognised).sum(0)
        error = total.std(correction=0) / len(total) ** 0.5
        found.append(total.mean() > 1 + 2 * error)
    return torch.stack(found)
