"""AD-CGAN: a contrastive GAN, an autoencoder that shares its generator, a critic on latents.

L. Rafiee Sevyeri and T. Fevens, "Contrastive Generative Adversarial Network for Anomaly
Detection". Equation and section numbers are the paper's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from adcgan.detectors.base import Components, Detector, Shape
from adcgan.detectors.heatmaps import smoothed
from adcgan.detectors.parameters import Rule, maybe, one_of, real, whole
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
from adcgan.networks import Critic, Encoder, Generator, LatentCritic, default_latent_dim
from adcgan.scoring import (
    discrimination_loss,
    encoded_loss,
    latent_loss,
    location_and_scale,
    normality_score,
    residual_loss,
    standardise,
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
    reconstruction_figures,
)
from adcgan.training.device import PRECISIONS

if TYPE_CHECKING:
    from accelerate import Accelerator

CHECKS = (COLLAPSE, SATURATED_CRITIC, STALLED_AUTOENCODER)


class ADCGAN(Detector):
    """Contrastive GAN with a shared-weight autoencoder and a latent critic (the paper's method).

    Parameters
    ----------
    image_size : int or None
        Side in pixels, 16 to 256; None takes 64 for folders and the arrays' own size.
    resize : {"squash", "crop", "pad"}
        How photographs become square.
    latent_dim : int or None
        Size z of the latent; None is 100, and 200 from 64 px on.
    width : float
        Scale of every hidden width; 1 is the paper's, 0.25 is about 16 times cheaper.
    batch_size : int
        Images a step.
    warmup_epochs, epochs : int
        Epochs of the autoencoder alone, then of all networks together.
    min_steps : int
        Both phases are lengthened in proportion until they have this many steps; 0 never.
    lr, lr_autoencoder : float
        Adam's learning rate for critic, generator and D_z, and for the autoencoder.
    alpha, beta : float
        Weights of the contrastive loss for the generator and the critic (Eq. 2).
    critic_steps : int
        Critic updates a step.
    negatives : {"batch", "self", "all"}
        Negatives of the contrastive loss (Eq. 1). "self" has a constant map as its optimum.
    latent : {"pair", "single", "none"}
        Whether D_z judges pairs of latents (Eq. 3 as written), single ones, or is left out.
    dropout : float
        Dropout in encoder and critic.
    batch_statistics : {"recomputed", "running"}
        BatchNorm in scoring: its statistics recomputed on training images after the last step, or
        the running averages of training, which mix generated and reconstructed images.
    lam, rho : float
        λ and ρ of the normality score (Eq. 4).
    reduction : {"sum", "mean"}
        Over pixels and features in the score.
    normalise : {"none", "validation"}
        "validation" puts each component on the scale of held-out normal images before weighing.
    n_latents : int
        Fixed draws of z that L_FL (Eq. 5) is averaged over.
    validation_fraction : float
        Share of the images held out for monitoring and calibration.
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

    _capturable: ClassVar[bool] = True
    rules: ClassVar[dict[str, Rule]] = {
        "latent_dim": maybe(whole(1)),
        "width": real(0, 4, above=True),
        "batch_size": whole(2),
        "warmup_epochs": whole(0),
        "epochs": whole(1),
        "min_steps": whole(0),
        "lr": real(0, above=True),
        "lr_autoencoder": real(0, above=True),
        "alpha": real(0),
        "beta": real(0),
        "critic_steps": whole(1),
        "negatives": one_of(*NEGATIVES),
        "latent": one_of(*LATENT_KINDS, "none"),
        "dropout": real(0, 1, below=True),
        "batch_statistics": one_of("recomputed", "running"),
        "lam": real(0, 1),
        "rho": real(0, 1),
        "reduction": one_of("sum", "mean"),
        "normalise": one_of("none", "validation"),
        "n_latents": whole(1),
        "precision": one_of(*PRECISIONS),
    }

    def __init__(
        self,
        *,
        image_size: int | None = None,
        resize: str = "squash",
        latent_dim: int | None = None,
        width: float = 1.0,
        batch_size: int = 32,
        warmup_epochs: int = 5,
        epochs: int = 15,
        min_steps: int = 2500,
        lr: float = 3e-4,
        lr_autoencoder: float = 2e-4,
        alpha: float = 0.3,
        beta: float = 0.3,
        critic_steps: int = 1,
        negatives: Literal["batch", "self", "all"] = "batch",
        latent: Literal["pair", "single", "none"] = "pair",
        dropout: float = 0.2,
        batch_statistics: Literal["recomputed", "running"] = "recomputed",
        lam: float = 0.1,
        rho: float = 0.5,
        reduction: Literal["sum", "mean"] = "sum",
        normalise: str = "none",
        n_latents: int = 16,
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
        self.warmup_epochs = warmup_epochs
        self.epochs = epochs
        self.min_steps = min_steps
        self.lr = lr
        self.lr_autoencoder = lr_autoencoder
        self.alpha = alpha
        self.beta = beta
        self.critic_steps = critic_steps
        self.negatives = negatives
        self.latent = latent
        self.dropout = dropout
        self.batch_statistics = batch_statistics
        self.lam = lam
        self.rho = rho
        self.reduction = reduction
        self.normalise = normalise
        self.n_latents = n_latents
        self.validation_fraction = validation_fraction
        self.fpr = fpr
        self.contamination = contamination
        self.precision = precision
        self.device = device
        self.random_state = random_state

    # -- networks (Table 2) --------------------------------------------------------------------

    def _latent_dim(self, shape: Shape) -> int:
        return self.latent_dim or default_latent_dim(shape[1])

    def _make_networks(self, shape: Shape, width: float) -> nn.ModuleDict:
        """Return E, G, the critic and D_z, each once: the autoencoder's decoder is G itself."""
        channels, size, _ = shape
        z = self._latent_dim(shape)
        networks = {
            "encoder": Encoder(channels, size, z, width=width, dropout=self.dropout),
            "generator": Generator(channels, size, z, width=width),
            "critic": Critic(channels, size, width=width, dropout=self.dropout),
        }
        if self.latent != "none":
            # Their own generator, so that their number changes nothing else.
            rng = torch.Generator().manual_seed(self.random_state)
            draws = torch.randn(self.n_latents, z, generator=rng)
            networks["latent_critic"] = LatentCritic(2 * z if self.latent == "pair" else z, draws)
        # On CPUs and on tensor cores convolutions are fastest with the channels innermost.
        modules = nn.ModuleDict(networks)
        return modules.to(memory_format=torch.channels_last)  # type: ignore[no-any-return, call-overload]

    # -- training (section 2.1, appendix A.3) --------------------------------------------------

    def _recipe(self, networks: nn.ModuleDict, n_train: int, accelerator: Accelerator) -> Recipe:
        """Return the warm-up and joint phases for `n_train` images."""
        parameters = {name: list(network.parameters()) for name, network in networks.items()}
        parameters["autoencoder"] = parameters.pop("encoder") + parameters["generator"]
        rates = dict.fromkeys(parameters, self.lr) | {"autoencoder": self.lr_autoencoder}
        optimizers = Optimizers(parameters, rates, accelerator=accelerator)
        steps = _Steps(self, networks, optimizers)
        warmup, joint = self._step_counts(n_train)
        return Recipe(
            networks=networks,
            optimizers=optimizers,
            phases=(Phase("warm-up", warmup, steps.warm_up), Phase("joint", joint, steps.joint)),
            batch_size=self.batch_size,
            probe=steps.probe,
            checks=CHECKS,
            scoring_pass=steps.scoring_pass if self.batch_statistics == "recomputed" else None,
        )

    def _step_counts(self, n_train: int) -> tuple[int, int]:
        """Return the steps of both phases, lengthened in proportion to reach `min_steps`."""
        per_epoch = n_train // min(self.batch_size, n_train)
        warmup, joint = self.warmup_epochs * per_epoch, self.epochs * per_epoch
        stretch = max(1.0, self.min_steps / (warmup + joint))
        return round(warmup * stretch), round(joint * stretch)

    # -- normality score (section 2.2) ---------------------------------------------------------

    def _component_batch(self, x: Tensor) -> dict[str, Tensor]:
        encoder, features = self.networks_["encoder"], self._features
        e_x = encoder(x)
        x_hat = self.networks_["generator"](e_x)
        reduction = self.reduction
        components = {
            "discrimination": discrimination_loss(features(x), features(x_hat), reduction),
            "residual": residual_loss(x, x_hat, reduction),
            "encoded": encoded_loss(e_x, encoder(x_hat), reduction),
        }
        if self.latent != "none":
            components["latent"] = self._latent_component(e_x)
        return components

    def _latent_component(self, e_x: Tensor) -> Tensor:
        """Return L_FL (B,) of Eq. 5, averaged over the model's own draws of z."""
        assert self.latent != "none"
        judge = cast(LatentCritic, self.networks_["latent_critic"])
        z = judge.draws
        generated, image = latent_scoring_inputs(self.latent, z, self._encoded_draws(z), e_x)
        p_image = judge(image).sigmoid().reshape(-1, len(z))
        return latent_loss(judge(generated).sigmoid(), p_image)

    def _encoded_draws(self, z: Tensor) -> Tensor:
        """Return E(G(z)) of the model's draws (K, z), computed for the first batch alone."""
        e_g_z: Tensor
        networks, e_g_z = self.__dict__.get("_draws", (None, z))
        if networks is not self.networks_ or e_g_z.device != z.device:
            e_g_z = self.networks_["encoder"](self.networks_["generator"](z))
            # While a graph is recorded for export this is no tensor to keep.
            if not torch.compiler.is_compiling():
                self._draws = self.networks_, e_g_z
        return e_g_z

    def _features(self, x: Tensor) -> Tensor:
        """Return the critic's local features C_ψ (B, K, M, M) of images."""
        return cast(Critic, self.networks_["critic"]).local_features(x)

    def _fit_components(self, components: Components) -> None:
        self.component_location_, self.component_scale_ = location_and_scale(components)

    def _on_one_scale(self, components: Components) -> Components:
        if self.normalise == "none":
            return components
        return standardise(components, self.component_location_, self.component_scale_)

    def _combine(self, components: Components) -> NDArray[np.float64]:
        return normality_score(self._on_one_scale(components), self.lam, self.rho)

    def score_variants(self, components: Components) -> Components:
        """Return Table 4's scores "LG", "LFE", "LFL" and "GF" (n,), made of `components`."""
        return variants(self._on_one_scale(components), self.lam, self.rho)

    def _reconstruct_batch(self, x: Tensor) -> Tensor:
        x_hat: Tensor = self.networks_["generator"](self.networks_["encoder"](x))
        return x_hat

    def _generated(self, generator: nn.Module, n: int, rng: torch.Generator) -> Tensor:
        z = torch.randn(n, self._latent_dim(self.image_shape_), generator=rng)
        x: Tensor = generator(z.to(self._device()))
        return x

    def _map_batch(self, x: Tensor) -> Tensor:
        """Return the pixels' share of L_GR plus that of L_GD, weighed as in Eq. 4, smoothed."""
        x_hat = self._reconstruct_batch(x)
        residual = (x - x_hat).abs().sum(1)
        features = (self._features(x) - self._features(x_hat)).abs().sum(1, keepdim=True)
        cells = residual[0].numel() / features[0].numel()
        spread = F.interpolate(features, x.shape[2:], mode="bilinear").squeeze(1) / cells
        return smoothed((1 - self.lam) * residual + self.lam * spread)

    # -- storage -------------------------------------------------------------------------------

    def _extras(self) -> dict[str, Tensor]:
        scale = [[self.component_location_[k], self.component_scale_[k]] for k in self._parts()]
        return {"component_scale": torch.tensor(scale, dtype=torch.float64)}

    def _set_extras(self, extras: dict[str, Tensor]) -> None:
        rows = zip(self._parts(), extras["component_scale"].tolist(), strict=True)
        scale = {part: (location, spread) for part, (location, spread) in rows}
        self.component_location_ = {part: location for part, (location, _) in scale.items()}
        self.component_scale_ = {part: spread for part, (_, spread) in scale.items()}

    def _parts(self) -> list[str]:
        names = ["discrimination", "residual", "encoded"]
        return names if self.latent == "none" else [*names, "latent"]


class _Steps:
    """One training step of each phase. A step's order: critic, generator, D_z, autoencoder."""

    def __init__(self, detector: ADCGAN, networks: nn.ModuleDict, optimizers: Optimizers) -> None:
        self.settings = detector
        self.encoder, self.generator = networks["encoder"], networks["generator"]
        self.critic = cast(Critic, networks["critic"])
        self.latent_critic = networks["latent_critic"] if detector.latent != "none" else None
        self.latent_dim = detector._latent_dim
        self.update = optimizers.update

    def _noise(self, like: Tensor, rng: torch.Generator) -> Tensor:
        """Return latents (B, z) from the standard normal distribution."""
        z = self.latent_dim((like.shape[1], like.shape[2], like.shape[3]))
        return torch.randn(len(like), z, device=like.device, generator=rng)

    def warm_up(self, x: Tensor, rng: torch.Generator) -> None:  # noqa: ARG002
        """Train the autoencoder alone on L_AE."""
        x_hat = self.generator(self.encoder(x))
        self.update("autoencoder", {"reconstruction": reconstruction_loss(x, x_hat)})

    def joint(self, x: Tensor, rng: torch.Generator) -> None:
        """Train every network once."""
        z, fake = self._critic_steps(x, rng)
        self._generator_step(x, fake)
        e_x = self.encoder(x)
        losses = {}
        if self.settings.latent != "none":
            assert self.latent_critic is not None
            self._latent_critic_step(z, e_x.detach())
            judged = latent_training_inputs(self.settings.latent, z, e_x)[1]
            losses["latent"] = latent_encoder_loss(self.latent_critic(judged))
        losses["reconstruction"] = reconstruction_loss(x, self.generator(e_x))
        self.update("autoencoder", losses)

    def _critic_steps(self, x: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Train the critic and φ: Eq. 6 on pairs, and Eq. 1 on the features of real images.

        Returns the last z and G(z), with the graph that the generator's step goes back through.
        """
        for _ in range(self.settings.critic_steps):
            z = self._noise(x, rng)
            fake = self.generator(z)
            # Real and generated images are judged by the same weights: one spectral norm for both.
            with parametrize.cached():
                on_real, on_fake = self.critic(x), self.critic(fake.detach())
                query = self.critic.project(on_real.global_)
            self.update(
                "critic",
                {
                    "adversarial": relativistic_critic_loss(on_real.logit, on_fake.logit),
                    "contrastive": self.settings.beta
                    * contrastive_loss(on_real.local, query, self.settings.negatives),
                },
            )
        return z, fake

    def _generator_step(self, x: Tensor, fake: Tensor) -> None:
        """Train the generator: Eq. 6 on pairs, and Eq. 1 on the features of generated images."""
        with parametrize.cached():
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

    def _latent_critic_step(self, z: Tensor, e_x: Tensor) -> None:
        """Train D_z on Eq. 3."""
        assert self.latent_critic is not None
        assert self.settings.latent != "none"
        real, fake = latent_training_inputs(self.settings.latent, z, e_x)
        loss = latent_critic_loss(self.latent_critic(real), self.latent_critic(fake))
        self.update("latent_critic", {"adversarial": loss})

    def scoring_pass(self, x: Tensor) -> None:
        """Put images through E, G and the critic as the score does."""
        x_hat = self.generator(self.encoder(x))
        for seen in (x, x_hat):
            self.critic(seen)
        self.encoder(x_hat)

    def probe(self, x: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Return figures on held-out images: reconstruction, and the generator's diversity."""
        made = self.generator(self._noise(x, rng))
        reconstructed = self.generator(self.encoder(x))
        return reconstruction_figures(x, reconstructed) | diversity_figures(x, made)
