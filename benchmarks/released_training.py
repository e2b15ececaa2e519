"""Train AD-CGAN with D_z as the authors' released script trains it, for the audit alone.

There D_z's loss goes back into E with D_z's own labels, so that E learns to be told from z instead
of to be taken for it. Everything else is as in `adcgan fit`. The model is no detector to use: it
is for `adcgan audit`, and docs/audit.md has what that gives.

    python benchmarks/released_training.py --dataset mnist --normal 4 --out MODEL
    adcgan audit MODEL mnist --normal 4 --out AUDIT
"""

from __future__ import annotations

import argparse
from unittest import mock

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from adcgan import ADCGAN, load_named
from adcgan.benchmark.protocol import is_anomalous


def loss_of_a_helping_encoder(fake_logits: Tensor) -> Tensor:
    """Return D_z's own loss on E(x) (B,): it is small where E(x) is told from z."""
    return F.softplus(fake_logits).mean()


def main() -> None:
    """Fit and save one model."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--normal", type=int, required=True, help="number of the normal class")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--warmup-epochs", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--out", required=True, help="folder for the model")
    given = parser.parse_args()
    images = load_named(given.dataset, "train")
    assert images.labels is not None
    normal = np.flatnonzero(is_anomalous(images.labels, "one-vs-all", given.normal) == 0)
    detector = ADCGAN(
        latent="single",
        width=given.width,
        warmup_epochs=given.warmup_epochs,
        epochs=given.epochs,
        min_steps=0,
        random_state=given.seed,
    )
    with mock.patch("adcgan.detectors.adcgan.latent_encoder_loss", loss_of_a_helping_encoder):
        detector.fit(images.select(normal))
    detector.save(given.out)


if __name__ == "__main__":
    main()
