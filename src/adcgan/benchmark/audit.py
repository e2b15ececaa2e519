"""An audit of the authors' released evaluation: what it measures, and how much of that is a leak.

The release computes L_FL (Eq. 5) with a fresh z for each normal test image, while all anomalous
images share the z left over from the last normal image. L_FL therefore has a different distribution
in the two groups, for a reason unrelated to the images. Figures computed this way serve only for
comparison with the paper; they say nothing about a detector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from adcgan.benchmark.metrics import auroc
from adcgan.benchmark.protocol import is_anomalous
from adcgan.data import ImageSet
from adcgan.detectors import ADCGAN, Detector
from adcgan.detectors.adcgan import ADCGANModel
from adcgan.errors import InputError
from adcgan.networks import LatentCritic
from adcgan.progress import Progress, terminal_progress
from adcgan.scoring import discrimination_loss, encoded_loss, normality_score, residual_loss

WARNING = "leaks labels; for audit only"
# Slope of the LeakyReLU on the logits of the release's D_z, and ρ among its script's defaults.
AS_IS_SLOPE, AS_IS_RHO = 0.2, 0.1
Arithmetic = Literal["paper", "as it is"]
Components = dict[str, NDArray[np.float64]]

_ROWS_AT_ONCE = 8192


@dataclass(frozen=True, eq=False)
class Released:
    """AUROCs of the released evaluation under one arithmetic, for one model and set of images.

    Attributes
    ----------
    fresh : float
        With a fresh z for every image: the same evaluation without the leak.
    released : ndarray of float64 (draws,)
        The released evaluation, once for each z that the anomalous images share.
    control : ndarray of float64 (draws,)
        The same with the normal images in place of the anomalous ones. There is nothing to detect,
        so any deviation from 0.5 is the leak.
    without_latent : float
        The score without L_FL, which involves no z.
    """

    fresh: float
    released: NDArray[np.float64]
    control: NDArray[np.float64]
    without_latent: float

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as JSON-compatible values."""
        return {
            "fresh": {"auroc": self.fresh},
            "without_latent": {"auroc": self.without_latent},
            "released": _distribution(self.released),
            "control": _distribution(self.control),
        }


@dataclass(frozen=True, eq=False)
class Audit:
    """AUROCs of one model on the same images, by how z is shared.

    Attributes
    ----------
    honest : float
        The model's own score, where each score depends only on its image.
    paper : Released
        With the arithmetic of the equations: D_z outputs probabilities, and ρ is the model's.
    as_is : Released or None
        With the release's actual arithmetic: D_z outputs logits passed through a LeakyReLU, L_FL is
        the sum of two differences, and ρ is 0.1. None for models that judge pairs of latents, which
        the release does not support.
    n_normal, n_anomalous : int
        Number of images of each kind.
    """

    honest: float
    paper: Released
    as_is: Released | None
    n_normal: int
    n_anomalous: int

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as JSON-compatible values."""
        return {
            "warning": WARNING,
            "n_normal": self.n_normal,
            "n_anomalous": self.n_anomalous,
            "draws": len(self.paper.released),
            "honest": {"auroc": self.honest},
            "paper": self.paper.as_dict(),
            "as_is": None if self.as_is is None else self.as_is.as_dict(),
        }


def _distribution(aurocs: NDArray[np.float64]) -> dict[str, Any]:
    """Return the values and their summary statistics."""
    names = ("minimum", "p05", "median", "p95", "maximum")
    levels = np.quantile(aurocs, [0, 0.05, 0.5, 0.95, 1]).tolist()
    return dict(zip(names, levels, strict=True)) | {"aurocs": aurocs.tolist()}


def released_assessment(
    detector: Detector, normal: ImageSet, anomalous: ImageSet, seed: int
) -> tuple[NDArray[np.int64], Components]:
    """Compute the components of the score as the released evaluation does.

    It uses means instead of sums. In L_FL, G(E(x)) replaces G(z), with a fresh z for each normal
    image, while every anomalous image gets the z of the last normal image.

    Parameters
    ----------
    detector : Detector
        A fitted ADCGAN with a latent critic. One trained on single latents (``latent="single"``)
        judges one latent at a time, as the release does; one trained on pairs judges pairs.
    normal, anomalous : ImageSet
        The images, of the size on which the detector was trained.
    seed : int
        Seed for the z of the normal images.

    Returns
    -------
    labels : ndarray of int64 (n,)
        0 for the normal images, which come first, 1 for the anomalous ones.
    components : dict of str to ndarray of float64 (n,)
        Keyed by the names in `adcgan.scoring.COMPONENTS`.

    Raises
    ------
    InputError
        If the detector is not an ADCGAN or has no latent critic.
    """
    model = _with_latent_critic(detector)
    on_normal, on_anomalous = _Encoded(model, normal), _Encoded(model, anomalous)
    z = _fresh(model, len(normal), np.random.SeedSequence(seed, spawn_key=(0,)))
    latent = [on_normal.latent(z), on_anomalous.latent(z[-1:])]
    components = {
        name: np.concatenate([values, on_anomalous.components[name]])
        for name, values in on_normal.components.items()
    }
    labels = np.repeat(np.array([0, 1]), [len(normal), len(anomalous)])
    return labels, components | {"latent": np.concatenate(latent)}


def audit(
    detector: Detector,
    normal: ImageSet,
    anomalous: ImageSet,
    *,
    draws: int = 200,
    seed: int = 0,
    progress: Progress | None = None,
) -> Audit:
    """Measure how the AUROC of the released evaluation varies with the shared z.

    Parameters
    ----------
    detector, normal, anomalous
        As in `released_assessment`.
    draws : int, default=200
        Number of shared z to try, at least 1. Everything else is computed once.
    seed : int, default=0
        Seed for all z.
    progress : Progress, optional
        Where to report progress. By default, a progress bar if standard error is a terminal.

    Raises
    ------
    InputError
        As for `released_assessment`, or if `draws` is below 1.
    """
    if draws < 1:
        raise InputError(f"The 'draws' parameter must be at least 1. Got {draws!r} instead.")
    model = _with_latent_critic(detector)
    labels = np.repeat(np.array([0, 1]), [len(normal), len(anomalous)])
    honest = np.concatenate([detector.decision_function(x) for x in (normal, anomalous)])
    on_normal, on_anomalous = _Encoded(model, normal), _Encoded(model, anomalous)
    streams = np.random.SeedSequence(seed).spawn(3)
    counts = (len(normal), len(anomalous), draws)
    zs = [_fresh(model, n, stream) for n, stream in zip(counts, streams, strict=True)]
    kinds: list[Arithmetic] = ["paper", "as it is"]
    if model.settings.latent != "single":
        kinds = kinds[:1]
    progress = progress or terminal_progress()
    progress.start("Audit", draws * len(kinds))
    try:
        found = [_released(on_normal, on_anomalous, zs, kind, progress) for kind in kinds]
    finally:
        progress.finish()
    return Audit(
        honest=auroc(labels, honest),
        paper=found[0],
        as_is=found[1] if len(found) > 1 else None,
        n_normal=len(normal),
        n_anomalous=len(anomalous),
    )


def _released(
    on_normal: _Encoded,
    on_anomalous: _Encoded,
    zs: Sequence[Tensor],
    arithmetic: Arithmetic,
    progress: Progress,
) -> Released:
    """Return the figures under one arithmetic; `zs` are those of each kind and the shared ones."""
    z_normal, z_anomalous, shared = zs
    normal = on_normal.score(z_normal, arithmetic)
    labels = np.repeat(np.array([0, 1]), [len(z_normal), len(z_anomalous)])
    alike = np.repeat(np.array([0, 1]), len(z_normal))
    released, control = np.empty(len(shared)), np.empty(len(shared))
    for i in range(len(shared)):
        one = shared[i : i + 1]
        released[i] = auroc(labels, np.append(normal, on_anomalous.score(one, arithmetic)))
        control[i] = auroc(alike, np.append(normal, on_normal.score(one, arithmetic)))
        progress.advance()
    without = [part.score(None, arithmetic) for part in (on_normal, on_anomalous)]
    return Released(
        fresh=auroc(labels, np.append(normal, on_anomalous.score(z_anomalous, arithmetic))),
        released=released,
        control=control,
        without_latent=auroc(labels, np.concatenate(without)),
    )


class _Encoded:
    """Everything that the released score needs from a set of images, except z.

    Attributes
    ----------
    components : dict of str to ndarray (n,)
        The three components that do not depend on z, as means.
    e_x, e_x_hat : Tensor (n, Z)
        E(x) and E(G(E(x))), on the detector's device.
    """

    def __init__(self, model: ADCGANModel, images: ImageSet) -> None:
        encoder, generator, critic = model.encoder, model.generator, model.critic
        parts: list[dict[str, Tensor]] = []
        for x in model.batches(images.images):
            with torch.no_grad():
                e_x = encoder(x)
                x_hat = generator(e_x)
                e_x_hat = encoder(x_hat)
                f_x, f_x_hat = critic(x).local, critic(x_hat).local
                parts.append(
                    {
                        "discrimination": discrimination_loss(f_x, f_x_hat, "mean"),
                        "residual": residual_loss(x, x_hat, "mean"),
                        "encoded": encoded_loss(e_x, e_x_hat, "mean"),
                        "e_x": e_x,
                        "e_x_hat": e_x_hat,
                    }
                )
        whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        self.e_x, self.e_x_hat = whole.pop("e_x"), whole.pop("e_x_hat")
        self.components: Components = {k: v.double().cpu().numpy() for k, v in whole.items()}
        settings, judge = model.settings, model.latent_critic
        assert judge is not None
        self.judge, self.single = judge, settings.latent == "single"
        self.lam, self.rho = settings.lam, settings.rho
        # The inputs of D_z in L_FL that involve no z: E(x) and E(G(E(x))), or the pair of them.
        alone = [self.e_x, self.e_x_hat]
        self._fixed = alone if self.single else [torch.cat(alone, dim=1)]

    @torch.no_grad()
    def latent(self, z: Tensor, arithmetic: Arithmetic = "paper") -> NDArray[np.float64]:
        """Return the released L_FL (n,) for `z` (n, Z), or for (1, Z) shared by all images."""
        fixed = [_judged(self.judge, latents, arithmetic) for latents in self._fixed]
        if self.single:
            # D_z's two outputs are stacked, and so is their difference.
            of_x, of_x_hat = fixed
            of_z = _judged(self.judge, z, arithmetic)
            both = torch.stack([(of_x_hat - of_x).abs(), (of_z - of_x_hat).abs()])
            loss = both.mean(0) if arithmetic == "paper" else both.sum(0)
        else:
            pairs = torch.cat([self.e_x_hat, z.expand(len(self.e_x_hat), -1)], dim=1)
            loss = (_judged(self.judge, pairs, arithmetic) - fixed[0]).abs()
        return loss.double().cpu().numpy()

    def score(self, z: Tensor | None, arithmetic: Arithmetic = "paper") -> NDArray[np.float64]:
        """Return the released normality score (n,) of Eq. 4, without L_FL if `z` is None."""
        rho = self.rho if arithmetic == "paper" else AS_IS_RHO
        latent = {} if z is None else {"latent": self.latent(z, arithmetic)}
        return normality_score(self.components | latent, self.lam, rho)


def _judged(judge: LatentCritic, latents: Tensor, arithmetic: Arithmetic) -> Tensor:
    """Return D_z's outputs (n,): probabilities, or logits after the release's LeakyReLU."""
    logits = torch.cat([judge(rows) for rows in torch.split(latents, _ROWS_AT_ONCE)])
    return logits.sigmoid() if arithmetic == "paper" else F.leaky_relu(logits, AS_IS_SLOPE)


def _fresh(model: ADCGANModel, n: int, sequence: np.random.SeedSequence) -> Tensor:
    """Draw z (n, Z) on the model's device."""
    size = (n, model.latent_dim)
    z = np.random.default_rng(sequence).standard_normal(size, dtype=np.float32)
    return torch.from_numpy(z).to(model.device)


def _with_latent_critic(detector: Detector) -> ADCGANModel:
    """Return the detector's model, or raise `InputError` if the release cannot evaluate it."""
    if not isinstance(detector, ADCGAN):
        raise InputError(
            "The released protocol supports only AD-CGAN: the detector must be adcgan. "
            f"Got {detector.system} instead."
        )
    if detector.latent == "none":
        raise InputError(
            "The released protocol needs the latent critic, which latent='none' omits."
        )
    model = detector.backend
    assert isinstance(model, ADCGANModel)
    return model


def audited_images(
    test: ImageSet, train: ImageSet | None, scheme: str, class_: int
) -> tuple[ImageSet, ImageSet]:
    """Return the normal and the anomalous images for an audit.

    Parameters
    ----------
    test : ImageSet
        The test split, with labels.
    train : ImageSet or None
        The training split, with labels, whose anomalous images are added, as in the release. None
        leaves them out.
    scheme : {"one-vs-all", "all-vs-one"}
        Whether `class_` is the only normal class or the only anomalous class.
    class_ : int
        Class number.
    """
    normal, anomalous = _by_label(test, scheme, class_)
    if train is None:
        return normal, anomalous
    more = _by_label(train, scheme, class_)[1]
    joined = ImageSet(
        images=np.concatenate([anomalous.images, more.images]),
        names=[f"{s.source} {name}" for s in (anomalous, more) for name in s.names],
        positions=np.arange(len(anomalous) + len(more)),
        source=f"{anomalous.source} and {more.source}",
        resized=anomalous.resized,
    )
    return normal, joined


def _by_label(images: ImageSet, scheme: str, class_: int) -> tuple[ImageSet, ImageSet]:
    """Return the normal images and the anomalous ones."""
    assert images.labels is not None
    labels = is_anomalous(images.labels, scheme, class_)
    return images.select(np.flatnonzero(labels == 0)), images.select(np.flatnonzero(labels == 1))
