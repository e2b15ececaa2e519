"""AD-CGAN at every location of an image, for small defects in images of any size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from adcgan.data.defects import add_defects
from adcgan.data.prepare import Split
from adcgan.data.ragged import Images
from adcgan.detectors.base import Detector
from adcgan.detectors.density import gaussian_whitening, greedy_coreset
from adcgan.detectors.model import ComponentScale, Model, channels_last
from adcgan.detectors.settings import (
    batch_size_setting,
    epochs_setting,
    learning_rate_setting,
    longest_side_setting,
    min_steps_setting,
    precision_setting,
    real,
    resize_setting,
    setting,
    whole,
)
from adcgan.losses import relativistic_critic_loss, relativistic_generator_loss
from adcgan.networks.local import (
    FEATURE_STRIDE,
    LARGEST_STRIDE,
    VERDICT_STRIDE,
    LocalCritic,
    LocalEncoder,
    LocalGenerator,
    RealismCritic,
    upsampled,
)
from adcgan.progress import Progress
from adcgan.scoring import Components, Scored, Shape
from adcgan.training import Optimizers, Phase, Recipe, step_count

if TYPE_CHECKING:
    from accelerate import Accelerator

COMPONENTS = ("verdict", "density")
# Weight of the density in score and map; the verdict has weight 1.
DENSITY_WEIGHT = 0.25
# Channels of the code.
CODE = 16
# How many of a map's largest values make its component. Training uses more of them, so that more
# than one location gets gradients.
LARGEST_VERDICTS, LARGEST_DISTANCES, LARGEST_TRAINED = 1, 3, 5
# Lower bound on the variances of the features, as a fraction of the largest.
LEAST_VARIANCE = 1e-4
# Lower bound on the standard deviation of logits and distances over normal locations: values that
# hardly vary carry no information.
LEAST_DEVIATION = 0.05
# Candidate features per feature that the memory keeps.
CANDIDATES = 10
# Weight of position relative to the features, where positions are used. The unit is the side of
# the image; a quarter of it counts about half as much as a typical nearest-neighbour distance
# between normal locations.
PLACE_WEIGHT = 20.0
# Synthetic defects per held-out image when deciding whether to use positions.
DRAWS = 4
# Positions are used only if they raise the AUROC on these defects by at least this much and by at
# least this many standard errors.
LEAST_GAIN, STANDARD_ERRORS = 0.02, 2.0
# Features compared with the memory at a time.
COMPARED_TOGETHER = 4096
# Larger images are processed in tiles of this side, with a margin of the receptive field.
MOST_PIXELS, TILE, MARGIN = 1024**2, 512, 112
# A defect that covers this fraction of a crop weighs as much as the rest of the crop. The weight of
# smaller defects is raised, by at most this factor.
BALANCED_SHARE, MOST_WEIGHT = 0.02, 15.0


class LocalADCGAN(Detector):
    """AD-CGAN that judges every location of an image, at the image's original size.

    E and G learn to restore crops of normal images with synthetic defects. The critic sees a crop
    and its restoration and learns where the defects are. Its local features are also compared with
    those of the training images.

    Notes
    -----
    The components of the score:

    - "verdict": the largest of the critic's logits, averaged over 3 × 3 locations;
    - "density": the mean of the largest distances of the critic's whitened local features C_ψ from
      their nearest neighbours in a memory of normal features. Positions count as features too if
      that finds more synthetic defects in held-out images.

    Both are standardised on held-out normal images; the score is verdict + density / 4. Restoring a
    damaged image and judging the difference follows DRAEM (Zavrtanik et al. 2021); the memory
    follows PatchCore (Roth et al. 2022).
    """

    name: ClassVar[str] = "adcgan-local"
    candidate: ClassVar[bool] = True
    own_steps: ClassVar[bool] = True
    capturable: ClassVar[bool] = True
    # 1.5 times as fast with AVX-512 BF16, nearly twice with AMX.
    bf16_on_cpus: ClassVar[str] = "avx512"

    image_size: int | None = longest_side_setting()
    resize: str = resize_setting()
    crop: int = setting(128, whole(32, 512), "Side of the training crops in pixels.")
    width: float = setting(1.0, real(0, 4, above=True), "Factor on all hidden widths.")
    batch_size: int = batch_size_setting(16)
    epochs: int = epochs_setting(100)
    min_steps: int = min_steps_setting(4000)
    lr: float = learning_rate_setting(2e-3)
    reconstruction: float = setting(
        1.0,
        real(0),
        "Weight of the restoration loss; 0 leaves out E and G, and the critic sees only images.",
    )
    adversarial: float = setting(
        0.05, real(0), "Weight of the adversarial loss on restorations; 0 leaves it out."
    )
    memory: int = setting(4096, whole(64), "Maximum number of normal features to keep.")
    precision: str = precision_setting()

    def make_model(self, shape: Shape) -> LocalModel:
        """Return E, G and the critics for images of `shape` (C, H, W)."""
        return LocalModel(self, shape)


class LocalModel(Model):
    """E, G, the local critic and the adversary, and a memory of normal features."""

    mean: Tensor  # (F,) of the features of normal locations
    whitening: Tensor  # (F, F)
    reference: Tensor  # (n, F + 2): the memory, whitened, with weighted positions
    place_weight: Tensor  # (): weight of the position, 0 if positions do not count
    typical: Tensor  # (2, 2): mean and deviation of logits and distances over normal locations

    def __init__(self, settings: LocalADCGAN, shape: Shape) -> None:
        super().__init__(shape)
        self.settings = settings
        channels, width = shape[0], settings.width
        restores = settings.reconstruction > 0
        self.encoder = LocalEncoder(channels, CODE, width=width) if restores else None
        self.generator = LocalGenerator(channels, CODE, width=width) if restores else None
        self.critic = LocalCritic(channels, restored=restores, width=width)
        adversary = restores and settings.adversarial > 0
        self.adversary = RealismCritic(channels, width=width) if adversary else None
        channels_last(self)
        for name in ("mean", "whitening", "reference"):
            self.register_buffer(name, torch.empty(0))
        self.register_buffer("place_weight", torch.tensor(0.0))
        self.register_buffer("typical", torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
        self.scale = ComponentScale(*COMPONENTS)

    # -- score ---------------------------------------------------------------------------------

    def forward(self, x: Tensor) -> Scored[Tensor]:
        """Return the components, the map and G(E(x)) of images (B, C, H, W) in [0, 1]."""
        logits, distances, x_hat = self.places(x)
        logits = smoothed(logits)
        components = {
            "verdict": mean_of_top(logits, LARGEST_VERDICTS),
            "density": mean_of_top(distances, LARGEST_DISTANCES),
        }
        # On one scale and above 0, where the colours of heatmaps begin.
        at, by = self.typical.unbind(1)
        likely = upsampled((logits - at[0]) / by[0], VERDICT_STRIDE, x)
        unlike = upsampled((distances - at[1]) / by[1], FEATURE_STRIDE, x)
        return Scored(components, F.softplus(likely + DENSITY_WEIGHT * unlike).squeeze(1), x_hat)

    def places(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return logits, distances and restorations of images (B, C, H, W).

        Returns
        -------
        logits : Tensor (B, 1, ⌈H/4⌉, ⌈W/4⌉)
            Logits of the critic.
        distances : Tensor (B, 1, ⌈H/8⌉, ⌈W/8⌉)
            Distances of the features from their nearest neighbours in the memory.
        x_hat : Tensor (B, C, H, W) or None
            G(E(x)), in [0, 1].
        """
        height, width = x.shape[2:]
        if _is_tracing() or height * width <= MOST_PIXELS:
            return self._whole(x)
        logits = x.new_empty(len(x), 1, *_places((height, width), VERDICT_STRIDE))
        distances = x.new_empty(len(x), 1, *_places((height, width), FEATURE_STRIDE))
        x_hat = None if self.generator is None else torch.empty_like(x)
        for top in range(0, height, TILE):
            for left in range(0, width, TILE):
                first = max(0, top - MARGIN), max(0, left - MARGIN)
                last = top + TILE + MARGIN, left + TILE + MARGIN
                tile = x[:, :, first[0] : last[0], first[1] : last[1]]
                found = self._whole(tile, first, (height, width))
                inside = top - first[0], left - first[1]
                _put(logits, found[0], (top, left), inside, VERDICT_STRIDE)
                _put(distances, found[1], (top, left), inside, FEATURE_STRIDE)
                if x_hat is not None and found[2] is not None:
                    _put(x_hat, found[2], (top, left), inside, 1)
        return logits, distances, x_hat

    def _whole(
        self, x: Tensor, origin: tuple[int, int] = (0, 0), size: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the results of `places` for images processed whole, or for a part at `origin`.

        `size` is the size of the images of which x is a part.
        """
        restored = self.restored(x)
        logits, local = self.critic(x, restored)
        features = self.pooled(local)
        rows = features.flatten(2).transpose(1, 2)
        where = self.place_weight * where_places_are(features, origin, size or x.shape[2:])
        distances = self._distances(self.whitened(rows), where)
        x_hat = None if restored is None else restored.clamp(0, 1)
        return logits, distances.view(x.shape[0], 1, *features.shape[2:]), x_hat

    def restored(self, x: Tensor) -> Tensor | None:
        """Return G(E(x)), unclamped, of images (B, C, H, W); None without E and G."""
        if self.encoder is None or self.generator is None:
            return None
        x_hat: Tensor = self.generator(self.encoder(x))
        return x_hat[:, :, : x.shape[2], : x.shape[3]].float()

    @staticmethod
    def pooled(local: Tensor) -> Tensor:
        """Pool C_ψ (B, F, h, w) to the features (B, F, ⌈h/2⌉, ⌈w/2⌉) that the memory keeps."""
        # Equivalent to ceil_mode=True, which older versions of ONNX Runtime compute differently.
        return F.avg_pool2d(F.pad(local.float(), (0, 1, 0, 1), mode="replicate"), 2)

    def whitened(self, features: Tensor) -> Tensor:
        """Whiten features (…, F): uncorrelated, with variance 1 over normal locations."""
        return (features - self.mean) @ self.whitening

    def _distances(self, whitened: Tensor, where: Tensor) -> Tensor:
        """Return the distances (B, P) of features (B, P, F) at positions (P, 2) from the memory."""
        lengths = self.reference.square().sum(1)
        nearest = []
        together = torch.cat([whitened, where.expand(whitened.shape[0], -1, -1)], 2).flatten(0, 1)
        for part in (together,) if _is_tracing() else torch.split(together, COMPARED_TOGETHER):
            # |a − b|² = |a|² − 2ab + |b|², without |a|², which is the same for all b. The distance
            # is then recomputed, as the difference of large numbers has few significant digits.
            closest = self.reference[(lengths - 2 * part @ self.reference.T).argmin(1)]
            nearest.append((part - closest).square().sum(1).sqrt())
        return torch.cat(nearest).view(whitened.shape[:2])

    def combine(self, components: Components) -> NDArray[np.float64]:
        """Return verdict + density / 4 (n,), both standardised on normal images."""
        assert self.scale is not None
        scaled = self.scale(components)
        score: NDArray[np.float64] = scaled["verdict"] + DENSITY_WEIGHT * scaled["density"]
        return score

    # -- learning ------------------------------------------------------------------------------

    def recipe(self, n_train: int, accelerator: Accelerator) -> Recipe:
        """Return the recipe for training on crops of `n_train` images."""
        settings = self.settings
        n_steps = step_count(n_train, settings.batch_size, settings.epochs, settings.min_steps)
        learners = [part for part in (self.encoder, self.generator, self.critic) if part]
        parameters = {"places": [p for part in learners for p in part.parameters()]}
        rates = {"places": settings.lr}
        if self.adversary is not None:
            parameters["adversary"] = list(self.adversary.parameters())
            rates["adversary"] = settings.lr / 10
        optimizers = Optimizers(
            parameters,
            rates,
            betas=(0.9, 0.999),
            decay=lambda step: one_cycle(step, n_steps),
            accelerator=accelerator,
        )
        steps = _Steps(self, optimizers)
        # Crops are no larger than the images, rounded up to a multiple of the largest stride.
        least = min(self.shape[1:])
        side = min(settings.crop, LARGEST_STRIDE * math.ceil(least / LARGEST_STRIDE))
        return Recipe(
            networks=self,
            optimizers=optimizers,
            phases=(Phase("joint", n_steps, steps.joint),),
            batch_size=settings.batch_size,
            crop=side,
            probe=steps.probe,
        )

    def learn(self, images: Images, split: Split, progress: Progress) -> None:
        """Fill the memory and measure logits and distances at normal locations."""
        judged = split.held_out if len(split.held_out) else split.train
        rng = torch.Generator().manual_seed(self.settings.random_state)
        with torch.no_grad():
            features, where = self._normal_places(images, split.train, rng, progress)
            self.mean, self.whitening = (
                part.to(self.device)
                for part in gaussian_whitening(features.cpu().numpy(), LEAST_VARIANCE)
            )
            whitened = self.whitened(features)
            memories, found = [], []
            for weight in (0.0, PLACE_WEIGHT):
                rows = torch.cat([whitened, weight * where], 1)
                self.reference = rows[greedy_coreset(rows, self.settings.memory, rng)]
                self.place_weight.fill_(weight)
                memories.append(self.reference)
                found.append(self._distances_of_defects(images, judged))
            told_apart = finds_more(found[1], found[0])
            self.reference = memories[told_apart]
            self.place_weight.fill_(PLACE_WEIGHT if told_apart else 0.0)
            moments = torch.zeros(2, 2, device=self.device)
            for x in self.batches(images, judged):
                logits, distances, _ = self.places(x)
                for values, sums in zip((smoothed(logits), distances), moments, strict=True):
                    sums += len(x) * torch.stack([values.mean(), values.square().mean()])
            moments /= len(judged)
        variance = moments[:, 1] - moments[:, 0].square()
        deviation = variance.clamp(min=LEAST_DEVIATION**2).sqrt()
        self.typical = torch.stack([moments[:, 0], deviation], 1)

    def _normal_places(
        self,
        images: Images,
        index: NDArray[np.int64],
        rng: torch.Generator,
        progress: Progress,
    ) -> tuple[Tensor, Tensor]:
        """Return the features (n, F) and positions (n, 2) of locations drawn with `rng`."""
        each = max(2, math.ceil(CANDIDATES * self.settings.memory / len(index)))
        kept, where = [], []
        for x in self.batches(images, index, progress):
            part, origin = _window(x, rng)
            _, local = self.critic(part, self.restored(part))
            pooled = self.pooled(local)
            places = where_places_are(pooled, origin, x.shape[2:])
            for features in pooled.flatten(2).transpose(1, 2):
                some = torch.randperm(len(features), generator=rng)[:each].to(features.device)
                kept.append(features[some])
                where.append(places[some])
        return torch.cat(kept), torch.cat(where)

    def _distances_of_defects(
        self, images: Images, index: NDArray[np.int64]
    ) -> tuple[Tensor, Tensor]:
        """Return the distances of the images unchanged (n,) and with a synthetic defect (n, DRAWS).

        The defects are the same in each call.
        """
        rng = torch.Generator(device=self.device).manual_seed(self.settings.random_state)
        drawn: list[Tensor] = []
        for x in self.batches(images, index):
            part, origin = _window(x, torch.Generator().manual_seed(0))
            seen = [part, *(add_defects(part, rng)[0] for _ in range(DRAWS))]
            distances = [self._whole(each, origin, x.shape[2:])[1] for each in seen]
            drawn.append(torch.stack([mean_of_top(d, LARGEST_DISTANCES) for d in distances], 1))
        found = torch.cat(drawn)
        return found[:, 0], found[:, 1:]


class _Steps:
    """The training step and the figures to monitor."""

    def __init__(self, model: LocalModel, optimizers: Optimizers) -> None:
        self.model, self.optimizers, self.settings = model, optimizers, model.settings

    def joint(self, x: Tensor, rng: torch.Generator) -> None:
        """Train to find synthetic defects in crops and to restore the crops."""
        x = varied(x, rng)
        damaged, mask = add_defects(x, rng, clean=0.4, most=3)
        damaged = damaged.contiguous(memory_format=torch.channels_last)
        restored = self.model.restored(damaged)
        logits, _ = self.model.critic(damaged, restored)
        losses = verdict_losses(logits.float(), mask)
        adversary = self.model.adversary
        if restored is not None:
            difference = restored - x
            loss = 10 * difference.square().mean() + difference.abs().mean()
            losses["reconstruction"] = self.settings.reconstruction * loss
        if restored is not None and adversary is not None:
            # Not under no_grad: torch 2.6's autocast would cache weights without gradients.
            real, fake = adversary(x).detach(), adversary(restored)
            loss = relativistic_generator_loss(real.flatten(), fake.flatten())
            losses["adversarial"] = self.settings.adversarial * loss
        self.optimizers.update("places", losses)
        if restored is not None and adversary is not None:
            real, fake = adversary(x), adversary(restored.detach())
            loss = relativistic_critic_loss(real.flatten(), fake.flatten())
            self.optimizers.update("adversary", {"adversarial": loss})

    def probe(self, x: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Return the losses on defects in held-out crops."""
        damaged, mask = add_defects(x, rng, clean=0.4, most=3)
        restored = self.model.restored(damaged)
        logits, _ = self.model.critic(damaged, restored)
        figures = {f"held_out_{key}": v for key, v in verdict_losses(logits, mask).items()}
        if restored is not None:
            figures["held_out_residual"] = (restored - x).abs().mean()
        return figures


def varied(x: Tensor, rng: torch.Generator) -> Tensor:
    """Return crops (B, C, H, W), randomly flipped and up to 20% lighter or darker."""
    drawn = torch.rand((3, len(x), 1, 1, 1), generator=rng, device=rng.device).to(x.device)
    x = torch.where(drawn[0] < 0.5, x.flip(3), x)
    x = torch.where(drawn[1] < 0.5, x.flip(2), x)
    return (x * (0.8 + 0.4 * drawn[2])).clamp(0, 1)


def verdict_losses(logits: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Return the losses of verdicts on locations and on whole crops.

    Parameters
    ----------
    logits : Tensor of shape (B, 1, ⌈H/4⌉, ⌈W/4⌉)
        Logits of a defect.
    mask : Tensor of shape (B, 1, H, W)
        Mask of the defects, in [0, 1].

    Returns
    -------
    dict of str to Tensor of shape ()
        "verdict": the cross-entropy over locations, in which a small defect weighs as much as a
        large one. "image": the cross-entropy of the score, which must separate crops with a defect
        from crops without.
    """
    stride = VERDICT_STRIDE
    truth = F.max_pool2d(mask, stride, stride, ceil_mode=True)
    area = truth.sum((1, 2, 3), keepdim=True)
    weight = (BALANCED_SHARE * truth[0].numel() / area.clamp(min=1)).clamp(max=MOST_WEIGHT)
    losses = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    score = mean_of_top(smoothed(logits), LARGEST_TRAINED)
    image = F.binary_cross_entropy_with_logits(score, truth.amax((1, 2, 3)))
    return {"verdict": 5 * (losses * (1 + truth * weight)).mean(), "image": 0.3 * image}


def smoothed(logits: Tensor) -> Tensor:
    """Average logits (B, 1, h, w) over 3 × 3 locations, so that no single one decides."""
    return F.avg_pool2d(logits, 3, 1, 1, count_include_pad=False)


def mean_of_top(maps: Tensor, k: int) -> Tensor:
    """Return the mean (B,) of the `k` largest values of maps (B, 1, h, w)."""
    values = maps.flatten(1)
    return values.topk(min(k, values.shape[1]), dim=1).values.mean(1)


def one_cycle(step: int, n_steps: int) -> float:
    """Return the learning rate's factor: a rise over 10% of the steps, then a cosine decay to 0.

    Follows Smith (2018), without the momentum cycle.
    """
    done = step / n_steps
    rise = min(1.0, 10 * done + 1 / n_steps)
    return rise * (1 + math.cos(math.pi * max(0.0, (done - 0.1) / 0.9))) / 2


def _is_tracing() -> bool:
    """Return whether the model is being exported, when map sizes must not become constants."""
    return bool(torch.jit.is_tracing())  # type: ignore


def _window(x: Tensor, rng: torch.Generator) -> tuple[Tensor, tuple[int, int]]:
    """Return a random window of images (B, C, H, W), small enough to process whole.

    Also returns its first row and column.
    """
    side = math.isqrt(MOST_PIXELS)
    origin = [0, 0]
    for i, dimension in enumerate((2, 3)):
        excess = x.shape[dimension] - side
        if excess > 0:
            origin[i] = int(torch.randint(excess + 1, (), generator=rng))
            x = x.narrow(dimension, origin[i], side)
    return x, (origin[0], origin[1])


def finds_more(these: tuple[Tensor, Tensor], those: tuple[Tensor, Tensor]) -> bool:
    """Return whether `these` scores find significantly more synthetic defects than `those`.

    Each pair holds the scores of the same n images, unchanged (n,) and with defects (n, draws). The
    areas under the two ROC curves must differ by at least LEAST_GAIN and by at least
    STANDARD_ERRORS standard errors, estimated from each image's contribution to the areas (DeLong,
    DeLong and Clarke-Pearson 1988).
    """
    shares = []
    for clean, damaged in (these, those):
        above = (damaged[:, :, None] > clean).double()  # (n, draws, n)
        shares.append(torch.stack([above.mean((1, 2)), above.mean((0, 1))]))
    gains = shares[0] - shares[1]  # (2, n): of each image with defects, and unchanged
    images = gains.shape[1]
    if images == 1:
        return False
    error = gains.sum(0).std() / math.sqrt(images)
    return bool(gains[0].mean() > (STANDARD_ERRORS * error).clamp(min=LEAST_GAIN))


def where_places_are(features: Tensor, origin: tuple[int, int], size: Sequence[int]) -> Tensor:
    """Return the positions of features (B, F, h, w) in an image: (h · w, 2), from 0 to 1.

    Parameters
    ----------
    features : Tensor
        Features of images, or of a part of them that starts at `origin`.
    origin : (int, int)
        First row and column.
    size : (int, int)
        Height and width of the whole images.
    """
    sides = [
        (torch.arange(n, device=features.device) * FEATURE_STRIDE + first) / length
        for n, first, length in zip(features.shape[2:], origin, size, strict=True)
    ]
    rows, columns = torch.meshgrid(*sides, indexing="ij")
    return torch.stack([rows.flatten(), columns.flatten()], 1)


def _put(
    whole: Tensor, part: Tensor, place: tuple[int, int], inside: tuple[int, int], stride: int
) -> None:
    """Copy the tile that starts at `inside` of `part` to `place` of `whole`, both in pixels."""
    row, column = (pixel // stride for pixel in place)
    there = whole[:, :, row : row + TILE // stride, column : column + TILE // stride]
    row, column = (pixel // stride for pixel in inside)
    there.copy_(part[:, :, row : row + there.shape[2], column : column + there.shape[3]])


def _places(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """Return the height and width of a map with this `stride` for an image of `size`."""
    return -(-size[0] // stride), -(-size[1] // stride)
