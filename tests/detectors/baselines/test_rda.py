from __future__ import annotations

import numpy as np
import pytest
import torch

from adcgan.detectors import RobustAutoencoder
from adcgan.detectors.baselines.rda import _round_starts, _Steps, shrink
from adcgan.progress import silent


def test_shrinking_shortens_every_row_by_the_threshold_and_keeps_its_direction():
    rows = torch.tensor([[[3.0, 4.0]], [[0.6, 0.8]], [[0.0, 0.0]]])
    expected = torch.tensor([[[1.8, 2.4]], [[0.0, 0.0]], [[0.0, 0.0]]])
    torch.testing.assert_close(shrink(rows, 2.0), expected)


def test_shrinking_minimises_its_proximal_objective():
    torch.manual_seed(0)
    row = torch.randn(1, 6)

    def objective(s: torch.Tensor) -> torch.Tensor:
        return 0.5 * (s - row).square().sum() + 0.7 * s.norm()

    found = shrink(row, 0.7)
    others = found + 0.01 * torch.randn(200, 1, 6)
    assert all(objective(found) <= objective(other) for other in others)


@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_rounds_share_the_steps_and_the_first_takes_half(rounds):
    starts = _round_starts(100, rounds)
    assert len(starts) == rounds + 1
    assert starts == sorted(starts)
    assert (starts[0], starts[-1]) == (0, 100)
    assert rounds == 1 or starts[1] == 50


class _Black(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x)


def test_only_images_with_large_residuals_have_a_sparse_part():
    steps = _Steps(_Black(), optimizers=None, lam=0.1)
    x = torch.stack([torch.full((1, 4, 4), 0.09), torch.full((1, 4, 4), 0.5)])
    sparse = steps.sparse(x)
    assert not sparse[0].any()
    torch.testing.assert_close(sparse[1], torch.full((1, 4, 4), 0.4))


def contaminated() -> np.ndarray:
    """Return 76 images of one half bright, in many shades, and at the end 4 of noise."""
    rng = np.random.default_rng(0)
    shades = rng.uniform(0.3, 1, (76, 1, 1))
    normal = (255 * shades * (np.mgrid[:16, :16][0] < 8)).astype(np.uint8)
    return np.concatenate([normal, rng.integers(0, 256, (4, 16, 16), dtype=np.uint8)])


def residuals(lam: float) -> np.ndarray:
    """Return the root mean square residual of each contaminated training image."""
    detector = RobustAutoencoder(
        width=0.1,
        latent_dim=8,
        batch_size=16,
        epochs=1,
        min_steps=300,
        lr=3e-3,
        lam=lam,
        rounds=4,
        fpr=0.2,
        device="cpu",
    )
    return detector.fit(contaminated(), progress=silent).decision_scores_ / 16


def test_contamination_is_left_out_of_what_is_learnt():
    robust, plain = residuals(0.2), residuals(10.0)
    # Only the odd images keep more than λ, and shrinking is what keeps them from being learnt.
    assert (robust[76:] > 0.2).all()
    assert (robust[:76] > 0.2).mean() < 0.1
    assert robust[76:].mean() > plain[76:].mean()
