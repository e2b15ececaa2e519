"""AD-CGAN at every place of a photograph: small defects, at the photograph's own size."""

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
# Of the density, to one of the verdict, in score and map.
DENSITY_WEIGHT = 0.25
# Channels of a place of the code.
CODE = 16
# Of the largest values of a map, so many make its component; those that training asks for give
# gradients to more than one place.
LARGEST_VERDICTS, LARGEST_DISTANCES, LARGEST_TRAINED = 1, 3, 5
# Of the features, as a share of the largest.
LEAST_VARIANCE = 1e-4
# Of logits and distances over normal places: of those that hardly vary, nothing was learned.
LEAST_DEVIATION = 0.05
# The memory is chosen from so many features for each that it keeps.
CANDIDATES = 10
# What a side of the image counts beside the features, where places are told apart: a quarter of it
# about half as much as one normal place differs from the nearest other.
PLACE_WEIGHT = 20.0
# Synthetic defects in each image that decides whether they are.
DRAWS = 4
# By so much more of them must be found, and by so many standard errors, else the simpler memory is
# kept.
LEAST_GAIN, STANDARD_ERRORS = 0.02, 2.0
# Features that are compared with the memory at a time.
COMPARED_TOGETHER = 4096
# Images of more pixels are judged in tiles of this side, with as much around them as a place sees.
MOST_PIXELS, TILE, MARGIN = 1024**2, 512, 112
# A defect that covers this share of a crop weighs as much as all that is normal in it; a smaller
# one is weighed up, at most so many times.
BALANCED_SHARE, MOST_WEIGHT = 0.02, 15.0


class LocalADCGAN(Detector):
    """AD-CGAN that judges every place of an image, at the image's own size.

    E and G restore crops of normal images in which synthetic defects were planted; the critic,
    which sees a crop and its restoration, learns where the defects are. What it knows of a place
    is also compared with what it knows of places in the training images.

    Notes
    -----
    The components of the score:

    - "verdict": the largest logit of the critic, averaged over 3 × 3 places;
    - "density": the mean of the largest distances of its local features C_ψ, whitened, from the
      nearest of a memory of normal ones. Whether where a place is counts too is decided by which
      finds more synthetic defects in held-out images.

    Each is put on the scale of held-out normal images; the score is verdict + density / 4. To
    restore a damaged image and judge the difference follows DRAEM (Zavrtanik et al. 2021), the
    memory PatchCore (Roth et al. 2022).
    """

    name: ClassVar[str] = "adcgan-local"
    candidate: ClassVar[bool] = True
    own_steps: ClassVar[bool] = True
    capturable: ClassVar[bool] = True
    # Half as fast again with AVX-512 BF16, nearly twice with AMX.
    bf16_on_cpus: ClassVar[bool] = True

    image_size: int | None = longest_side_setting()
    resize: str = resize_setting()
    crop: int = setting(128, whole(32, 512), "Side in pixels of the crops it is trained on.")
    width: float = setting(1.0, real(0, 4, above=True), "Scale of every hidden width.")
    batch_size: int = batch_size_setting(16)
    epochs: int = epochs_setting(100)
    min_steps: int = min_steps_setting(4000)
    lr: float = learning_rate_setting(2e-3)
    reconstruction: float = setting(
        1.0, real(0), "Weight of the restoration; 0 leaves E and G out, and the critic sees images."
    )
    adversarial: float = setting(
        0.05, real(0), "Weight of the adversarial loss on what is restored; 0 leaves it out."
    )
    memory: int = setting(4096, whole(64), "Features of normal places that are kept, at most.")
    precision: str = precision_setting()

    def make_model(self, shape: Shape) -> LocalModel:
        """Return E, G and the critics for images of `shape` (C, H, W)."""
        return LocalModel(self, shape)


class LocalModel(Model):
    """E, G, the critic of places and the adversary, and a memory of normal features."""

    mean: Tensor  # (F,) of the features of normal places
    whitening: Tensor  # (F, F)
    reference: Tensor  # (n, F + 2): the memory, whitened, and where it was
    place_weight: Tensor  # (): of where a place is, 0 where all are taken for alike
    typical: Tensor  # (2, 2): mean and deviation over normal places of logits and distances

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
        # On one scale, and above 0, where the colours of heatmaps begin.
        at, by = self.typical.unbind(1)
        likely = upsampled((logits - at[0]) / by[0], VERDICT_STRIDE, x)
        unlike = upsampled((distances - at[1]) / by[1], FEATURE_STRIDE, x)
        return Scored(components, F.softplus(likely + DENSITY_WEIGHT * unlike).squeeze(1), x_hat)

    def places(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return what is known of every place of images (B, C, H, W).

        Returns
        -------
        logits : Tensor (B, 1, ⌈H/4⌉, ⌈W/4⌉)
            Of the critic.
        distances : Tensor (B, 1, ⌈H/8⌉, ⌈W/8⌉)
            Of the features from the nearest in memory.
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
        """Return `places` of images that are judged in one piece: of all, or of a part at `origin`.

        `size` is that of the images that x is a part of.
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
        """Return G(E(x)), not bounded, of images (B, C, H, W); None without E and G."""
        if self.encoder is None or self.generator is None:
            return None
        x_hat: Tensor = self.generator(self.encoder(x))
        return x_hat[:, :, : x.shape[2], : x.shape[3]].float()

    @staticmethod
    def pooled(local: Tensor) -> Tensor:
        """Return features (B, F, ⌈h/2⌉, ⌈w/2⌉) that the memory keeps, of C_ψ (B, F, h, w)."""
        # As with ceil_mode=True, which older versions of ONNX Runtime compute otherwise.
        return F.avg_pool2d(F.pad(local.float(), (0, 1, 0, 1), mode="replicate"), 2)

    def whitened(self, features: Tensor) -> Tensor:
        """Return features (…, F) without correlation, of variance 1 over normal places."""
        return (features - self.mean) @ self.whitening

    def _distances(self, whitened: Tensor, where: Tensor) -> Tensor:
        """Return the distances (B, P) of features (B, P, F) at places (P, 2) from the memory's."""
        lengths = self.reference.square().sum(1)
        nearest = []
        together = torch.cat([whitened, where.expand(whitened.shape[0], -1, -1)], 2).flatten(0, 1)
        for part in (together,) if _is_tracing() else torch.split(together, COMPARED_TOGETHER):
            # |a − b|² = |a|² − 2ab + |b|², less what is the same for all b. The distance anew, as
            # the difference of large numbers has few digits.
            closest = self.reference[(lengths - 2 * part @ self.reference.T).argmin(1)]
            nearest.append((part - closest).square().sum(1).sqrt())
        return torch.cat(nearest).view(whitened.shape[:2])

    def combine(self, components: Components) -> NDArray[np.float64]:
        """Return verdict + density / 4 (n,), each on the scale of normal images."""
        assert self.scale is not None
        scaled = self.scale(components)
        score: NDArray[np.float64] = scaled["verdict"] + DENSITY_WEIGHT * scaled["density"]
        return score

    # -- learning ------------------------------------------------------------------------------

    def recipe(self, n_train: int, accelerator: Accelerator) -> Recipe:
        """Return the training on crops for `n_train` images."""
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
        # A crop is no larger than the images, up to a multiple of the largest stride.
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
        """Fill the memory, and measure what logits and distances are at normal places."""
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
        """Return features (n, F) of places that `rng` draws, and where (n, 2) they are."""
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
        """Return the distances of images as they are (n,) and with a synthetic defect (n, DRAWS).

        The defects are the same at each call.
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
    """A training step, and what is watched."""

    def __init__(self, model: LocalModel, optimizers: Optimizers) -> None:
        self.model, self.optimizers, self.settings = model, optimizers, model.settings

    def joint(self, x: Tensor, rng: torch.Generator) -> None:
        """Find the defects that are planted in crops, and restore what was there."""
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
            # Not under no_grad, where torch 2.6's autocast would keep weights without gradients.
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
    """Return crops (B, C, H, W) mirrored at random, and up to a fifth lighter or darker."""
    drawn = torch.rand((3, len(x), 1, 1, 1), generator=rng, device=rng.device).to(x.device)
    x = torch.where(drawn[0] < 0.5, x.flip(3), x)
    x = torch.where(drawn[1] < 0.5, x.flip(2), x)
    return (x * (0.8 + 0.4 * drawn[2])).clamp(0, 1)


def verdict_losses(logits: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Return the losses of verdicts on places, and on crops as a whole.

    Parameters
    ----------
    logits : Tensor of shape (B, 1, ⌈H/4⌉, ⌈W/4⌉)
        Of a defect.
    mask : Tensor of shape (B, 1, H, W)
        Where the defects are, in [0, 1].

    Returns
    -------
    dict of str to Tensor of shape ()
        "verdict": cross-entropy over places, in which a small defect weighs as much as a large
        one; "image": that of the score, which must tell crops with a defect from those without.
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
    """Return logits (B, 1, h, w) averaged over 3 × 3 places, so that none counts alone."""
    return F.avg_pool2d(logits, 3, 1, 1, count_include_pad=False)


def mean_of_top(maps: Tensor, k: int) -> Tensor:
    """Return the mean (B,) of the `k` largest values of maps (B, 1, h, w)."""
    values = maps.flatten(1)
    return values.topk(min(k, values.shape[1]), dim=1).values.mean(1)


def one_cycle(step: int, n_steps: int) -> float:
    """Return the factor of the learning rate: up over a tenth of the steps, down to 0 as a cosine.

    Follows Smith (2018), without its change of momentum.
    """
    done = step / n_steps
    rise = min(1.0, 10 * done + 1 / n_steps)
    return rise * (1 + math.cos(math.pi * max(0.0, (done - 0.1) / 0.9))) / 2


def _is_tracing() -> bool:
    """Say whether a graph is made for export, in which numbers of places must not be fixed."""
    return bool(torch.jit.is_tracing())  # type: ignore


def _window(x: Tensor, rng: torch.Generator) -> tuple[Tensor, tuple[int, int]]:
    """Return a random window of images (B, C, H, W), no larger than is judged in one piece.

    And its first row and column.
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
    """Say whether `these` scores find clearly more synthetic defects than `those`.

    Each are the scores of the same n images as they are (n,) and with defects (n, draws). The areas
    under the two ROC curves must differ by LEAST_GAIN, and by STANDARD_ERRORS of the difference,
    which are estimated from what each image adds to an area (DeLong, DeLong and Clarke-Pearson
    1988).
    """
    shares = []
    for clean, damaged in (these, those):
        above = (damaged[:, :, None] > clean).double()  # (n, draws, n)
        shares.append(torch.stack([above.mean((1, 2)), above.mean((0, 1))]))
    gains = shares[0] - shares[1]  # (2, n): of each image with defects, and as it is
    images = gains.shape[1]
    if images == 1:
        return False
    error = gains.sum(0).std() / math.sqrt(images)
    return bool(gains[0].mean() > (STANDARD_ERRORS * error).clamp(min=LEAST_GAIN))


def where_places_are(features: Tensor, origin: tuple[int, int], size: Sequence[int]) -> Tensor:
    """Return where the places of features (B, F, h, w) are in an image: (h · w, 2), 0 to 1.

    Parameters
    ----------
    features : Tensor
        Of images, or of a part that begins at `origin`.
    origin : (int, int)
        Row and column.
    size : (int, int)
        Height and width of the images.
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
    """Copy a tile of `part`, which begins `inside` of it, to its `place`; both in pixels."""
    row, column = (pixel // stride for pixel in place)
    there = whole[:, :, row : row + TILE // stride, column : column + TILE // stride]
    row, column = (pixel // stride for pixel in inside)
    there.copy_(part[:, :, row : row + there.shape[2], column : column + there.shape[3]])


def _places(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """Return how many places a map with this `stride` has along the sides of an image."""
    return -(-size[0] // stride), -(-size[1] // stride)
