"""AD-CGAN at every place of an image."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from adcgan import load
from adcgan.detectors import LocalADCGAN
from adcgan.detectors.local import finds_more, one_cycle, verdict_losses
from adcgan.networks.local import LocalCritic, locally_normalised

QUICK: dict[str, Any] = {
    "width": 0.25,
    "crop": 64,
    "batch_size": 8,
    "epochs": 1,
    "min_steps": 150,
    "memory": 256,
    "fpr": 0.2,
    "validation_fraction": 0.3,
    "device": "cpu",
}


def brushed(seed: int, *, broken: bool = False) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Return a photograph (H, W) of brushed metal, with a pit or not, and where the pit is."""
    rng = np.random.default_rng(seed)
    height, width = 96 + 8 * (seed % 3), 120 - 7 * (seed % 4)
    pixels = 110 + rng.normal(0, 12, (1, width)) + rng.normal(0, 6, (height, width))
    row, column = int(rng.integers(20, height - 20)), int(rng.integers(20, width - 20))
    if broken:
        rows, columns = np.mgrid[:height, :width]
        pixels[(rows - row) ** 2 + (columns - column) ** 2 <= 16] -= 70
    return pixels.clip(0, 255).astype(np.uint8), (row, column)


@pytest.fixture(scope="module")
def fitted() -> LocalADCGAN:
    return LocalADCGAN(**QUICK).fit([brushed(i)[0] for i in range(40)])


def test_a_pit_of_nine_pixels_is_found_and_pointed_at(fitted: LocalADCGAN) -> None:
    normal = fitted.decision_function([brushed(100 + i)[0] for i in range(20)])
    found = fitted.assess([brushed(200 + i, broken=True)[0] for i in range(20)], maps=True)
    assert np.mean(normal[:, None] < found.scores[None, :]) > 0.9
    assert found.maps is not None
    hits = 0
    for i, heat in enumerate(found.maps):
        row, column = brushed(200 + i, broken=True)[1]
        peak = np.unravel_index(heat.argmax(), heat.shape)
        hits += bool(np.hypot(peak[0] - row, peak[1] - column) < 10)
    assert hits >= 17


def part(seed: int, *places: tuple[int, int]) -> NDArray[np.uint8]:
    """Return a photograph (96, 112) of a rough plate with a bright disc at each of the places."""
    rng = np.random.default_rng(seed)
    pixels = rng.normal(100, 8, (96, 112))
    rows, columns = np.mgrid[:96, :112]
    for row, column in places:
        pixels[(rows - row) ** 2 + (columns - column) ** 2 <= 64] += 80
    return pixels.clip(0, 255).astype(np.uint8)


def test_a_disc_in_the_wrong_place_is_far_from_a_memory_that_knows_places(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("adcgan.detectors.local.finds_more", lambda *_: True)
    detector = LocalADCGAN(**QUICK).fit([part(i, (30, 30)) for i in range(40)])
    assert detector.model_.place_weight > 0
    # A disc like all others, but not where it belongs.
    right = detector.assess([part(100 + i, (30, 30)) for i in range(12)])
    wrong = detector.assess([part(200 + i, (30, 30), (66, 80)) for i in range(12)])
    assert wrong.components["density"].min() > np.median(right.components["density"])


@pytest.mark.parametrize(("n", "shift", "expected"), [
    (8, 0.05, False),
    (1, 3.0, False),
    (3, 3.0, True),
    (60, 0.5, True),
    (60, 0.0, False),
    (1000, 0.03, False),  # sure, but little
])  # fmt: skip
def test_more_is_found_only_if_that_is_sure(n: int, shift: float, expected: bool) -> None:
    rng = torch.Generator().manual_seed(2)
    clean = torch.randn(n, generator=rng)
    damaged = clean[:, None] + torch.randn(n, 4, generator=rng) + 0.3
    assert finds_more((clean, damaged + shift), (clean, damaged)) is expected
    assert not finds_more((clean, damaged), (clean, damaged + shift))


def test_tiles_make_the_same_maps_as_the_whole_image(
    fitted: LocalADCGAN, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A field of view of 103 pixels to each side fits the margin: nothing may differ but rounding.
    x = torch.rand(1, 1, 700, 601, generator=torch.Generator().manual_seed(0))
    model = deepcopy(fitted.model_)
    # Where a tile is counts as well.
    model.place_weight.fill_(20)
    with torch.no_grad():
        whole = model.places(x)
        monkeypatch.setattr("adcgan.detectors.local.MOST_PIXELS", 100)
        monkeypatch.setattr("adcgan.detectors.local.TILE", 256)
        tiled = model.places(x)
    for one, two in zip(whole, tiled, strict=True):
        assert one is not None
        assert two is not None
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


def test_a_model_that_was_loaded_scores_alike(fitted: LocalADCGAN, tmp_path: Path) -> None:
    images = [brushed(300 + i, broken=bool(i % 2))[0] for i in range(6)]
    fitted.save(tmp_path / "model")
    again = load(tmp_path / "model")
    np.testing.assert_array_equal(fitted.decision_function(images), again.decision_function(images))


def test_an_exported_file_scores_photographs_of_any_size(
    fitted: LocalADCGAN, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    from adcgan import OnnxScorer, export_onnx

    export_onnx(fitted, tmp_path / "model.onnx")
    images = [brushed(300 + i, broken=bool(i % 2))[0] for i in range(6)]
    here = fitted.assess(images, maps=True)
    there = OnnxScorer(tmp_path / "model.onnx").assess(images, maps=True)
    np.testing.assert_allclose(here.scores, there.scores, rtol=1e-3, atol=1e-3)
    assert here.maps is not None
    assert there.maps is not None
    for one, two in zip(here.maps, there.maps, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("settings", [{"reconstruction": 0.0}, {"adversarial": 0.0}])
def test_parts_that_have_no_weight_are_not_there(settings: dict[str, float]) -> None:
    quick = {**QUICK, "min_steps": 2, "epochs": 1, **settings}
    detector = LocalADCGAN(**quick).fit([brushed(i)[0] for i in range(24)])
    model = detector.model_
    assert (model.encoder is None) == ("reconstruction" in settings)
    assert (model.generator is None) == ("reconstruction" in settings)
    assert model.adversary is None
    assert np.isfinite(detector.decision_scores_).all()


def test_colour_is_seen() -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(90, 130, (70, 80, 3), dtype=np.uint8) for _ in range(30)]
    detector = LocalADCGAN(**QUICK).fit(images[:24])
    odd = [image.copy() for image in images]
    for image in odd:
        image[30:40, 30:40] = (150, 70, 110)
    assert (detector.decision_function(odd) > detector.decision_function(images)).mean() > 0.9


def test_a_place_in_the_map_belongs_to_the_same_pixels_whatever_the_size() -> None:
    critic = LocalCritic(1, restored=False, width=0.25).eval()
    x = torch.rand(1, 1, 512, 512, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, local = critic(x, None)
        part, local_part = critic(x[:, :, :403, :397], None)
    assert part.shape[2:] == (101, 100)
    # Up to where the border of the part is seen.
    torch.testing.assert_close(part[..., :76, :76], logits[..., :76, :76])
    torch.testing.assert_close(local_part[..., :76, :76], local[..., :76, :76])


def test_local_normalisation_does_not_see_lighting() -> None:
    x = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.3 + 0.2
    lit = x * 1.5 + torch.linspace(0, 0.02, 64)
    difference = (locally_normalised(x) - locally_normalised(lit)).abs()
    assert difference.mean() < 0.25 * locally_normalised(x).abs().mean()
    assert locally_normalised(torch.full((1, 3, 20, 20), 0.4)).abs().max() < 1e-3


def test_a_quarter_of_a_defect_weighs_more_than_half_as_much() -> None:
    # The truth at stride 4 has 32 × 32 places: 4 of them, or 16.
    losses = []
    for side in (8, 16):
        mask = torch.zeros(1, 1, 128, 128)
        mask[:, :, 32 : 32 + side, 32 : 32 + side] = 1
        logits = torch.full((1, 1, 32, 32), -20.0)
        losses.append(verdict_losses(logits, mask)["verdict"].item())
    assert losses[0] < losses[1] < 2 * losses[0]


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [one_cycle(step, 1000) for step in range(1000)]
    assert 0 < rates[0] < 0.01
    assert max(rates) == pytest.approx(1, abs=0.01)
    assert np.argmax(rates) == pytest.approx(100, abs=2)
    assert 0 < rates[-1] < 0.001
