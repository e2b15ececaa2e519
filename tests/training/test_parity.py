"""What makes training fast changes no loss beyond rounding.

The reference is ``benchmarks/plain.py``: torch's own layers in float32, channels outermost in
memory, gradients of every weight, unfused Adam.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from adcgan import ADCGAN, load_named
from adcgan.training.device import denormals_flushed

SIZES = {28: (1, 28, 28), 32: (3, 32, 32)}
# Largest difference of any loss in a step, relative to the loss or to 1 if that is larger: with
# the same weights at the start of each step, and with the same weights at the first step alone.
# Adversarial training by Adam amplifies rounding from step to step, and now and then within one:
# the critic's losses come before any update, the others after that of the critic.
STEPS, ONE_STEP_FLOAT32, AFTER_ADAM_FLOAT32, FLOAT32 = 50, 1e-4, 5e-3, 0.15
STEPS_BF16, BF16 = 10, 0.1

Losses = list[dict[str, float]]


@pytest.fixture
def plain(benchmark_script: Callable[[str], Any]) -> Any:
    """Return the module of the reference."""
    return benchmark_script("plain")


def images(shape: tuple[int, int, int], n: int = 256) -> torch.Tensor:
    """Return blobs of different places and sizes, in [0, 1]."""
    rng = torch.Generator().manual_seed(1)
    centre, radius = torch.rand(n, 2, 1, 1, generator=rng), torch.rand(n, 1, 1, generator=rng)
    place = torch.linspace(0, 1, shape[1])
    distance = (place[:, None] - centre[:, 0]) ** 2 + (place - centre[:, 1]) ** 2
    return torch.exp(-distance / (0.01 + 0.05 * radius))[:, None].expand(n, *shape).contiguous()


def both(plain: Any, size: int, precision: str, n: int, *, together: bool) -> tuple[Losses, Losses]:
    """Return the losses of `n` joint steps: ours, and the reference's.

    Both start from the same weights, if `together` at every step, and see the same images and
    random numbers.
    """
    shape = SIZES[size]
    detector = ADCGAN(width=0.06, dropout=0.0, precision=precision, device="cpu")
    accelerator = detector._accelerator(None, ())
    rows: tuple[Losses, Losses] = ([], [])
    with torch.random.fork_rng(), denormals_flushed():
        torch.manual_seed(0)
        model = detector.make_model(shape).train()
        twin = plain.plain_model(model).train()
        recipe = model.recipe(1000, accelerator)
        reference = plain.PlainStep(twin, shared_norm=True)
        x = images(shape)
        for i in range(n):
            batch = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(i))[:16]]
            if together:
                model.load_state_dict(twin.state_dict())
            with accelerator.autocast():
                recipe.phases[1].step(batch, torch.Generator().manual_seed(1000 + i))
            reference(batch, torch.Generator().manual_seed(1000 + i))
            for of_one, losses in zip(rows, (recipe.optimizers, reference), strict=True):
                of_one.append({key: float(value) for key, value in losses.losses.items()})
    return rows


def differences(ours: Losses, reference: Losses) -> list[float]:
    """Return the largest difference of a loss in each step."""
    assert all(a.keys() == b.keys() for a, b in zip(ours, reference, strict=True))
    return [
        max(abs(a[key] - b[key]) / max(1.0, abs(b[key])) for key in b)
        for a, b in zip(ours, reference, strict=True)
    ]


@pytest.mark.parametrize("size", SIZES)
def test_float32_gives_the_losses_of_plain_pytorch(plain: Any, size: int) -> None:
    ours, reference = both(plain, size, "float32", STEPS, together=True)
    first = [
        [{key: loss for key, loss in row.items() if key.startswith("critic/")} for row in rows]
        for rows in (ours, reference)
    ]
    assert all(first[0])
    assert max(differences(*first)) < ONE_STEP_FLOAT32
    found = differences(ours, reference)
    assert np.median(found) < ONE_STEP_FLOAT32
    assert max(found) < AFTER_ADAM_FLOAT32


def test_float32_stays_near_the_losses_of_plain_pytorch(plain: Any) -> None:
    found = differences(*both(plain, 28, "float32", STEPS, together=False))
    assert found[0] < ONE_STEP_FLOAT32
    assert max(found) < FLOAT32


@pytest.mark.parametrize("size", SIZES)
def test_bf16_gives_about_the_losses_of_plain_pytorch(plain: Any, size: int) -> None:
    assert max(differences(*both(plain, size, "bf16", STEPS_BF16, together=False))) < BF16


def test_the_comparison_sees_a_change_of_one_percent(plain: Any) -> None:
    ours, reference = both(plain, 28, "float32", 2, together=True)
    changed = [{key: 1.01 * value for key, value in row.items()} for row in ours]
    assert min(differences(changed, reference)) > AFTER_ADAM_FLOAT32


def test_gradients_lie_in_memory_as_their_weights_do() -> None:
    # Fused Adam pairs weights, gradients and moments by their place in memory.
    for shape in SIZES.values():
        detector = ADCGAN(width=0.06, device="cpu")
        accelerator = detector._accelerator(None, ())
        recipe = detector.make_model(shape).train().recipe(1000, accelerator)
        recipe.phases[1].step(images(shape, 8), torch.Generator())
        for optimizer in recipe.optimizers.named.values():
            for group in optimizer.param_groups:
                for weight in group["params"]:
                    assert weight.is_contiguous()
                    assert weight.grad.is_contiguous()
                    assert optimizer.state[weight]["exp_avg"].is_contiguous()


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    digests = []
    for name in ("first", "second"):
        detector = ADCGAN(width=0.06, warmup_epochs=1, epochs=2, min_steps=0, fpr=0.5, device="cpu")
        detector.fit(np.uint8(255 * images(SIZES[28], 96)[:, 0].numpy()))
        detector.save(tmp_path / name)
        digests.append(hashlib.sha256((tmp_path / name / "weights.safetensors").read_bytes()))
    assert digests[0].hexdigest() == digests[1].hexdigest()


@pytest.mark.slow
def test_auroc_is_that_of_plain_pytorch_within_the_spread_of_seeds(
    plain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits, test = load_named("digits", "train"), load_named("digits", "test")
    assert digits.labels is not None
    assert test.labels is not None
    zeros = digits.select(np.flatnonzero(digits.labels == 0))

    def aurocs() -> list[float]:
        return [
            float(
                roc_auc_score(
                    test.labels != 0,
                    ADCGAN(width=0.125, min_steps=300, fpr=0.5, device="cpu", random_state=seed)
                    .fit(zeros)
                    .decision_function(test),
                )
            )
            for seed in range(3)
        ]

    ours = aurocs()
    make = ADCGAN.make_model
    monkeypatch.setattr(
        ADCGAN, "make_model", lambda self, shape: plain.plain_model(make(self, shape))
    )
    reference = aurocs()
    spread = max(np.ptp(ours), np.ptp(reference), 0.01)
    assert abs(np.mean(ours) - np.mean(reference)) <= spread
