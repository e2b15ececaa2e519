"""AD-CGAN: a contrastive GAN, an autoencoder that shares its generator, and a latent critic.

L. Rafiee Sevyeri and T. Fevens, "Contrastive Generative Adversarial Network for Anomaly
Detection". Equation and section numbers are the paper's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from adcgan.data.prepare import Split
from adcgan.data.ragged import Images
from adcgan.detectors.anomaly_map import smoothed
from adcgan.detectors.base import Detector
from adcgan.detectors.model import ComponentScale, Model, channels_last
from adcgan.detectors.settings import (
    batch_size_setting,
    learning_rate_setting,
    maybe,
    one_of,
    precision_setting,
    real,
    setting,
    whole,
    width_setting,
)
from adcgan.losses import (
    LATENT_KINDS,
    NEGATIVES,
    contrastive_loss,
    latent_critic_loss,
    latent_encoder_loss,
    latent_scoring_inputs,
    latent_training_inputs,
    reconstruction_loss,
    relativistic_critic_loss,
    relativistic_generator_loss,
)
from adcgan.networks import (
    Critic,
    Encoder,
    Generator,
    LatentCritic,
    SpectralNorms,
    default_latent_dim,
)
from adcgan.progress import Progress
from adcgan.scoring import (
    Components,
    Scored,
    Shape,
    discrimination_loss,
    encoded_loss,
    latent_loss,
    normality_score,
    residual_loss,
    variants,
)
from adcgan.training import (
    COLLAPSE,
    SATURATED_CRITIC,
    STALLED_AUTOENCODER,
    Optimizers,
    Phase,
    Recipe,
    diversity_figures,
    frozen,
    reconstruction_figures,
)

if TYPE_CHECKING:
    from accelerate import Accelerator


class ADCGAN(Detector):
    """The paper's method: a contrastive GAN with a weight-sharing autoencoder and a latent critic.

    Examples
    --------
    >>> from adcgan import ADCGAN, load_named
    >>> digits = load_named("digits", "train")
    >>> zeros = digits.select(digits.labels == 0)
    >>> detector = ADCGAN(width=0.125, warmup_epochs=1, epochs=1, min_steps=0, fpr=0.1)
    >>> scores = detector.fit(zeros).decision_function(digits)
    >>> scores.shape == (len(digits),)
    True
    """

    name: ClassVar[str] = "adcgan"
    capturable: ClassVar[bool] = True

    latent_dim: int | None = setting(
        None,
        maybe(whole(1)),
        "Dimension z of the latent. None means 100, or 200 for images of 64 px and more.",
    )
    width: float = width_setting(1.0)
    batch_size: int = batch_size_setting(32)
    warmup_epochs: int = setting(
        5, whole(0), "Passes over the images that train only the autoencoder."
    )
    epochs: int = setting(15, whole(1), "Passes over the images that train all networks.")
    min_steps: int = setting(
        2500,
        whole(0),
        "Minimum total number of steps; both phases are lengthened in proportion to reach it.",
    )
    lr: float = learning_rate_setting(3e-4, "the critic, the generator and D_z")
    lr_autoencoder: float = learning_rate_setting(2e-4, "the autoencoder")
    alpha: float = setting(0.3, real(0), "Weight of the generator's contrastive loss (Eq. 2).")
    beta: float = setting(0.3, real(0), "Weight of the critic's contrastive loss (Eq. 2).")
    critic_steps: int = setting(1, whole(1), "Critic updates per step.")
    negatives: Literal["batch", "self", "all"] = setting(
        "batch",
        one_of(*NEGATIVES),
        'Negatives of the contrastive loss (Eq. 1). A constant map minimises the loss with "self".',
    )
    latent: Literal["pair", "single", "none"] = setting(
        "pair",
        one_of(*LATENT_KINDS, "none"),
        'Input of D_z: "pair" judges pairs of latents (Eq. 3 as written), "single" judges single '
        'latents, "none" leaves D_z out.',
    )
    dropout: float = setting(0.2, real(0, 1, below=True), "Dropout in the encoder and the critic.")
    batch_statistics: Literal["recomputed", "running"] = setting(
        "recomputed",
        one_of("recomputed", "running"),
        'BatchNorm statistics for scoring: "recomputed" on training images after the last step, or '
        'the "running" averages from training, which mix generated and reconstructed images.',
    )
    lam: float = setting(0.1, real(0, 1), "λ of the normality score (Eq. 4).")
    rho: float = setting(0.5, real(0, 1), "ρ of the normality score (Eq. 4).")
    reduction: Literal["sum", "mean"] = setting(
        "sum", one_of("sum", "mean"), "How the score reduces over pixels and features."
    )
    normalise: Literal["none", "validation"] = setting(
        "none",
        one_of("none", "validation"),
        '"validation" standardises each component on held-out normal images before weighting.',
    )
    n_latents: int = setting(16, whole(1), "Fixed draws of z over which L_FL (Eq. 5) is averaged.")
    precision: str = precision_setting()

    def make_model(self, shape: Shape) -> ADCGANModel:
        """Return E, G, the critic and D_z for images of `shape` (C, H, W)."""
        return ADCGANModel(self, shape)


class ADCGANModel(Model):
    """E, G, the critic and D_z. The autoencoder's decoder is G itself (Table 2)."""

    encoded_draws: Tensor  # E(G(z)) of D_z's draws (K, z)

    def __init__(self, settings: ADCGAN, shape: Shape) -> None:
        super().__init__(shape)
        self.settings = settings
        channels, size, _ = shape
        scale, dropout = settings.width, settings.dropout
        z = self.latent_dim = settings.latent_dim or default_latent_dim(size)
        self.encoder = Encoder(channels, size, z, width=scale, dropout=dropout)
        self.generator = Generator(channels, size, z, width=scale)
        self.critic = Critic(channels, size, width=scale, dropout=dropout)
        # A separate generator, so that the number of draws changes nothing else.
        rng = torch.Generator().manual_seed(settings.random_state)
        draws = torch.randn(settings.n_latents, z, generator=rng)
        self.latent_critic = (
            None
            if settings.latent == "none"
            else LatentCritic(2 * z if settings.latent == "pair" else z, draws)
        )
        self.register_buffer("encoded_draws", torch.zeros_like(draws))
        parts = ["discrimination", "residual", "encoded", "latent"]
        if settings.normalise == "validation":
            self.scale = ComponentScale(*parts[: 3 if self.latent_critic is None else 4])
        # Convolutions are fastest in channels-last layout, on CPUs and on tensor cores.
        channels_last(self)

    # -- normality score (section 2.2) ---------------------------------------------------------

    def forward(self, x: Tensor) -> Scored[Tensor]:
        """Return the components of Eq. 4 and 5, the map and G(E(x)) of images (B, C, H, W)."""
        e_x = self.encoder(x)
        x_hat = self.generator(e_x)
        f_x, f_x_hat = self.critic.local_features(x), self.critic.local_features(x_hat)
        reduction = self.settings.reduction
        components = {
            "discrimination": discrimination_loss(f_x, f_x_hat, reduction),
            "residual": residual_loss(x, x_hat, reduction),
            "encoded": encoded_loss(e_x, self.encoder(x_hat), reduction),
        }
        if self.latent_critic is not None:
            components["latent"] = self._latent_component(self.latent_critic, e_x)
        return Scored(components, self._map(x, x_hat, f_x, f_x_hat), x_hat)

    def _latent_component(self, judge: LatentCritic, e_x: Tensor) -> Tensor:
        """Return L_FL (B,) of Eq. 5, averaged over the model's fixed draws of z."""
        assert self.settings.latent != "none"
        z = judge.draws
        generated, image = latent_scoring_inputs(self.settings.latent, z, self.encoded_draws, e_x)
        p_image = judge(image).sigmoid().reshape(-1, len(z))
        return latent_loss(judge(generated).sigmoid(), p_image)

    def _map(self, x: Tensor, x_hat: Tensor, f_x: Tensor, f_x_hat: Tensor) -> Tensor:
        """Return each pixel's contribution to L_GR and L_GD, weighted as in Eq. 4, smoothed."""
        lam = self.settings.lam
        residual = (x - x_hat).abs().sum(1)
        features = (f_x - f_x_hat).abs().sum(1, keepdim=True)
        cells = residual[0].numel() / features[0].numel()
        spread = F.interpolate(features, x.shape[2:], mode="bilinear").squeeze(1) / cells
        return smoothed((1 - lam) * residual + lam * spread)

    def combine(self, components: Components) -> NDArray[np.float64]:
        """Return the normality scores (n,) of Eq. 4."""
        return normality_score(self._weighed(components), self.settings.lam, self.settings.rho)

    def variants(self, components: Components) -> dict[str, NDArray[np.float64]]:
        """Return Table 4's scores "LG", "LFE", "LFL" and "GF" (n,)."""
        return variants(self._weighed(components), self.settings.lam, self.settings.rho)

    def _weighed(self, components: Components) -> Components:
        return components if self.scale is None else self.scale(components)

    def learn(self, images: Images, split: Split, progress: Progress) -> None:
        """Store E(G(z)) for D_z's draws."""
        del images, split, progress
        if self.latent_critic is not None:
            with torch.no_grad():
                self.encoded_draws = self.encoder(self.generator(self.latent_critic.draws))

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        """Return G(z) (n, C, H, W) in [0, 1] for `n` latents drawn with `rng`."""
        x: Tensor = self.generator(torch.randn(n, self.latent_dim, generator=rng).to(self.device))
        return x

    # -- training (section 2.1, appendix A.3) --------------------------------------------------

    def recipe(self, n_train: int, accelerator: Accelerator) -> Recipe:
        """Return the warm-up and joint phases for `n_train` images."""
        settings = self.settings
        parameters = {
            "generator": list(self.generator.parameters()),
            "critic": list(self.critic.parameters()),
            "autoencoder": [*self.encoder.parameters(), *self.generator.parameters()],
        }
        if self.latent_critic is not None:
            parameters["latent_critic"] = list(self.latent_critic.parameters())
        rates = dict.fromkeys(parameters, settings.lr) | {"autoencoder": settings.lr_autoencoder}
        optimizers = Optimizers(parameters, rates, accelerator=accelerator)
        steps = _Steps(self, optimizers)
        warmup, joint = self._step_counts(n_train)
        recomputed = settings.batch_statistics == "recomputed"
        return Recipe(
            networks=self,
            optimizers=optimizers,
            phases=(Phase("warm-up", warmup, steps.warm_up), Phase("joint", joint, steps.joint)),
            batch_size=settings.batch_size,
            probe=steps.probe,
            checks=(COLLAPSE, SATURATED_CRITIC, STALLED_AUTOENCODER),
            scoring_pass=steps.scoring_pass if recomputed else None,
        )

    def _step_counts(self, n_train: int) -> tuple[int, int]:
        """Return the number of steps of each phase, scaled up to reach `min_steps` in total."""
        settings = self.settings
        per_epoch = n_train // min(settings.batch_size, n_train)
        warmup, joint = settings.warmup_epochs * per_epoch, settings.epochs * per_epoch
        stretch = max(1.0, settings.min_steps / (warmup + joint))
        return round(warmup * stretch), round(joint * stretch)


class _Steps:
    """The training step of each phase. A joint step updates critic, generator, D_z, autoencoder."""

    def __init__(self, model: ADCGANModel, optimizers: Optimizers) -> None:
        self.settings, self.latent_dim = model.settings, model.latent_dim
        self.encoder, self.generator = model.encoder, model.generator
        self.critic, self.latent_critic = model.critic, model.latent_critic
        self.encoder_norms = SpectralNorms(model.encoder)
        self.critic_norms = SpectralNorms(model.critic)
        if model.latent_critic is not None:
            self.latent_norms = SpectralNorms(model.latent_critic)
        self.update = optimizers.update

    def _noise(self, like: Tensor, rng: torch.Generator) -> Tensor:
        """Draw latents (B, z) from the standard normal distribution."""
        return torch.randn(len(like), self.latent_dim, device=like.device, generator=rng)

    def warm_up(self, x: Tensor, rng: torch.Generator) -> None:
        """Train only the autoencoder, on L_AE."""
        del rng
        with self.encoder_norms.shared():
            x_hat = self.generator(self.encoder(x))
        self.update("autoencoder", {"reconstruction": reconstruction_loss(x, x_hat)})

    def joint(self, x: Tensor, rng: torch.Generator) -> None:
        """Train every network once."""
        z, fake = self._critic_steps(x, rng)
        self._generator_step(x, fake)
        with self.encoder_norms.shared():
            e_x = self.encoder(x)
        losses = {}
        if self.latent_critic is not None:
            assert self.settings.latent != "none"
            on_z, on_e_x = latent_training_inputs(self.settings.latent, z, e_x)
            judge = self.latent_critic
            with self.latent_norms.shared():
                real = judge(on_z)
            with self.latent_norms.shared():
                fake = judge(on_e_x.detach())
            self.update("latent_critic", {"adversarial": latent_critic_loss(real, fake)})
            with frozen(judge), self.latent_norms.shared():
                losses["latent"] = latent_encoder_loss(judge(on_e_x))
        losses["reconstruction"] = reconstruction_loss(x, self.generator(e_x))
        self.update("autoencoder", losses)

    def _critic_steps(self, x: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Train the critic and φ: Eq. 6 on pairs and Eq. 1 on the features of real images.

        Returns the last z and G(z), with the graph through which the generator step backpropagates.
        """
        for _ in range(self.settings.critic_steps):
            z = self._noise(x, rng)
            fake = self.generator(z)
            # The same weights judge real and generated images: compute the spectral norm once.
            with self.critic_norms.shared():
                on_real, fake_logits = self.critic.compare(x, fake.detach())
                query = self.critic.project(on_real.global_)
            self.update(
                "critic",
                {
                    "adversarial": relativistic_critic_loss(on_real.logit, fake_logits),
                    "contrastive": self.settings.beta
                    * contrastive_loss(on_real.local, query, self.settings.negatives),
                },
            )
        return z, fake

    def _generator_step(self, x: Tensor, fake: Tensor) -> None:
        """Train the generator: Eq. 6 on pairs and Eq. 1 on the features of generated images."""
        with frozen(self.critic), self.critic_norms.shared():
            with torch.no_grad():
                on_real = self.critic(x)
            on_fake = self.critic(fake)
            query = self.critic.project(on_fake.global_)
        self.update(
            "generator",
            {
                "adversarial": relativistic_generator_loss(on_real.logit, on_fake.logit),
                "contrastive": self.settings.alpha
                * contrastive_loss(on_fake.local, query, self.settings.negatives),
            },
        )

    def scoring_pass(self, x: Tensor) -> None:
        """Pass images through E, G and the critic as scoring does."""
        x_hat = self.generator(self.encoder(x))
        for seen in (x, x_hat):
            self.critic(seen)
        self.encoder(x_hat)

    def probe(self, x: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Return figures on held-out images: reconstruction error and the generator's diversity."""
        made = self.generator(self._noise(x, rng))
        reconstructed = self.generator(self.encoder(x))
        return reconstruction_figures(x, reconstructed) | diversity_figures(x, made)
