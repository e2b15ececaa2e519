from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from adcgan import ADCGAN, DETECTORS, DivergedError, InputError, load
from adcgan.detectors import adcgan as module
from adcgan.training import hardware, loop
from adcgan.training.device import (
    denormals_flushed,
    make_accelerator,
    precision_of,
    resolve_device,
)
from adcgan.training.loop import step_seed
from adcgan.training.optimizers import Optimizers

QUICK: dict[str, Any] = {
    "width": 0.06,
    "warmup_epochs": 1,
    "epochs": 2,
    "min_steps": 0,
    "fpr": 0.5,
    "device": "cpu",
}


def blobs(n: int = 64, size: int = 16) -> NDArray[np.uint8]:
    rng = np.random.default_rng(0)
    centres = rng.uniform(4, 12, (n, 2, 1, 1))
    y, x = np.mgrid[:size, :size]
    distance = (y - centres[:, 0]) ** 2 + (x - centres[:, 1]) ** 2
    return np.uint8(255 * np.exp(-distance / 8))


def test_a_loss_that_is_not_finite_stops_before_the_update_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_loss, calls = module.reconstruction_loss, []

    def broken(x: torch.Tensor, x_hat: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return real_loss(x, x_hat) * (float("nan") if len(calls) == 6 else 1.0)

    monkeypatch.setattr(module, "reconstruction_loss", broken)
    detector = ADCGAN(**QUICK)
    with pytest.raises(DivergedError, match=r"'autoencoder/reconstruction' .* at step 5"):
        detector.fit(blobs(400), run_dir=tmp_path, checkpoint_every=5)
    for parameter in detector.model_.parameters():
        assert torch.isfinite(parameter).all()
    # The last good checkpoint stays, and the run can go on from it.
    monkeypatch.setattr(module, "reconstruction_loss", real_loss)
    ADCGAN(**QUICK).fit(blobs(400), run_dir=tmp_path, resume=True)
    assert np.isfinite(load(tmp_path).decision_function(blobs())).all()


def test_frozen_weights_stay_frozen_without_the_host_looking() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    accelerator = make_accelerator("cpu", "float32")
    optimizers = Optimizers({"one": [weight]}, {"one": 0.1}, accelerator=accelerator)
    optimizers.update("one", {"loss": weight.sum()})
    moved = weight.detach().clone()
    assert not torch.equal(moved, torch.ones(3))
    optimizers.update("one", {"loss": weight.sum() * float("inf")})
    optimizers.update("one", {"loss": weight.sum()})
    torch.testing.assert_close(weight.detach(), moved, rtol=0, atol=0)
    with pytest.raises(DivergedError, match="one/loss"):
        optimizers.raise_if_diverged()


def test_a_step_reads_nothing_back_from_the_device() -> None:
    # On CUDA the same is asserted by torch itself, in the test below.
    for source in (inspect.getsource(module._Steps.joint), inspect.getsource(Optimizers.update)):
        for reading in (".item(", " float(", ".cpu(", ".numpy(", " bool(", "print("):
            assert reading not in source


@pytest.mark.cuda
def test_a_cuda_step_does_not_synchronise(
    without_waiting: Callable[[], AbstractContextManager[None]],
) -> None:
    detector = ADCGAN(**{**QUICK, "device": "cuda"})
    accelerator = detector._accelerator(None, ())
    model = detector.make_model((1, 28, 28)).cuda().train()
    recipe = model.recipe(1000, accelerator)
    rng = torch.Generator(device="cuda")
    x = torch.rand(32, 1, 28, 28, device="cuda")
    for _ in range(3):
        recipe.phases[1].step(x, rng)
    with without_waiting():
        recipe.phases[1].step(x, rng)


def test_step_seeds_are_a_function_of_seed_step_and_process() -> None:
    seeds = {step_seed(seed, step, p) for seed in range(5) for step in range(50) for p in range(3)}
    assert len(seeds) == 5 * 50 * 3
    assert step_seed(1, 2, 0) == step_seed(1, 2, 0)


def test_training_leaves_the_random_state_of_the_caller_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    ADCGAN(**QUICK).fit(blobs())
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)


def test_denormals_are_flushed_inside_and_as_before_outside() -> None:
    tiny = torch.tensor([1e-40])
    with denormals_flushed():
        assert float(tiny * 1.0) == 0.0
    assert float(tiny * 1.0) != 0.0


def test_min_steps_lengthens_both_phases_in_proportion() -> None:
    def steps(n_train: int, **settings: Any) -> list[int]:
        detector = ADCGAN(width=0.05, warmup_epochs=5, epochs=15, **settings)
        recipe = detector.make_model((1, 16, 16)).recipe(
            n_train, make_accelerator("cpu", "float32")
        )
        assert recipe is not None
        return [phase.steps for phase in recipe.phases]

    assert steps(270, min_steps=2500) == [625, 1875]
    assert steps(32 * 200, min_steps=2500) == [1000, 3000]
    assert steps(270, min_steps=0) == [40, 120]


def test_the_log_holds_losses_figures_and_time(tmp_path: Path) -> None:
    detector = ADCGAN(**QUICK).fit(blobs(400), run_dir=tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert rows == detector.history_
    last = [row for row in rows if "phase" in row][-1]
    assert last["phase"] == "joint"
    assert last["step"] == 11 * 3 - 1
    for key in (
        "critic/adversarial",
        "critic/contrastive",
        "generator/adversarial",
        "generator/contrastive",
        "latent_critic/adversarial",
        "autoencoder/latent",
        "autoencoder/reconstruction",
        "held_out_reconstruction",
        "diversity",
    ):
        assert np.isfinite(last[key]), key
    assert all(row["seconds"] > 0 for row in rows if "phase" in row)
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["settings"]["parameters"]["width"] == 0.06
    assert {"adcgan", "torch", "python"} <= set(run["versions"])


def test_means_are_over_the_steps_that_had_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    # A log that spans the end of the warm-up must not dilute the joint losses.
    monkeypatch.setattr(loop, "LOG_EVERY", 1000)
    detector = ADCGAN(**{**QUICK, "warmup_epochs": 4}).fit(blobs(400))
    (row,) = (row for row in detector.history_ if "phase" in row)
    assert 0.3 < row["critic/adversarial"] < 1.5


def test_bf16_trains_to_about_the_same_losses() -> None:
    rows = [
        ADCGAN(**QUICK, precision=precision).fit(blobs(400)).history_[-1]
        for precision in ("float32", "bf16")
    ]
    for key in ("critic/adversarial", "autoencoder/reconstruction", "critic/contrastive"):
        assert rows[1][key] == pytest.approx(rows[0][key], rel=0.15), key


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("adcgan", ("float32", "float32", "float32")),
        ("adcgan-ss", ("float32", "float32", "bf16")),
        ("adcgan-local", ("float32", "bf16", "bf16")),
    ],
)
def test_auto_means_bf16_on_cpus_whose_instructions_make_a_system_faster(
    name: str, expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, told = [], []
    for avx512, amx in [(False, False), (True, False), (True, True)]:
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has=avx512: has)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda has=amx: has)
        detector = DETECTORS[name](device="cpu")
        found.append(precision_of(detector._accelerator(None, ())))
        told.append(hardware(torch.device("cpu"))["instructions"])
    assert tuple(found) == expected
    assert told[1:] == [f"{told[0]} (bf16: avx512)", f"{told[0]} (bf16: avx512, amx)"]


def test_devices_and_precisions_that_are_not_there_are_refused() -> None:
    with pytest.raises(InputError, match="'device' parameter must be"):
        resolve_device("cuda:99")
    with pytest.raises(InputError, match="'precision' parameter"):
        ADCGAN(**QUICK, precision="int2").fit(blobs())


def test_cost_counts_operations_and_scales_with_width() -> None:
    from adcgan import load_images

    cost = ADCGAN(**{**QUICK, "width": 0.25}).fit_cost(load_images(blobs(400)))
    assert cost is not None
    assert cost.steps == 33
    assert cost.seconds == pytest.approx(
        cost.flops_per_step * cost.steps / cost.flops_per_second, rel=1e-6
    )
    assert 8 < cost.seconds_by_width[1.0] / cost.seconds_by_width[0.25] < 16
    assert cost.seconds_by_width[0.25] == pytest.approx(cost.seconds)
