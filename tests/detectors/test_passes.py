"""How images are passed through a model: how many at once, and in which precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from adcgan import ADCGAN
from adcgan.detectors.model import Model, images_that_fit
from adcgan.scoring import Components, Scored
from adcgan.training import full_precision

GIB = 2**30


@pytest.mark.parametrize(
    ("side", "budget", "most", "expected"),
    [
        (28, GIB, 256, 256),
        (64, GIB, 256, 256),
        (256, GIB, 256, 16),
        (64, 4 * GIB, 2048, 1024),
        (64, GIB, 2048, 256),
        (28, 30 * GIB, 2048, 2048),
        (256, 0, 2048, 16),
    ],
)
def test_a_pass_takes_the_images_that_fit(side: int, budget: int, most: int, expected: int) -> None:
    assert images_that_fit((3, side, side), budget, most) == expected


def convolution_precision() -> Any:
    """Return what torch computes float32 convolutions on CUDA devices in."""
    cudnn = torch.backends.cudnn
    return cudnn.conv.fp32_precision if hasattr(cudnn, "conv") else cudnn.allow_tf32


class Watching(Model):
    """Notes the precision that it is passed images in."""

    def __init__(self) -> None:
        super().__init__((1, 16, 16))
        self.register_buffer("place", torch.zeros(1))
        self.seen: list[Any] = []

    def forward(self, x: Tensor) -> Scored[Tensor]:
        self.seen.append(convolution_precision())
        return Scored({"mean": x.mean(dim=(1, 2, 3))})

    def combine(self, components: Components) -> NDArray[np.float64]:
        return components["mean"]


def test_scores_are_computed_in_float32_whatever_torch_does_by_itself() -> None:
    model, before = Watching(), convolution_precision()
    model.scored(np.zeros((2, 1, 16, 16), np.uint8))
    assert model.seen in (["ieee"], [False])
    assert convolution_precision() == before
    assert before not in ("ieee", False), "torch's default is TF32, or what is set here is idle"


def test_the_precision_is_as_before_after_an_error() -> None:
    before = convolution_precision()
    with pytest.raises(ZeroDivisionError), full_precision():
        raise ZeroDivisionError
    assert convolution_precision() == before


@pytest.mark.cuda
@pytest.mark.parametrize("size", [28, 32, 64])
def test_scores_on_cuda_are_those_of_the_cpu(size: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (96, size, size, 3), dtype=np.uint8)
    settings = {"width": 0.25, "warmup_epochs": 1, "epochs": 1, "min_steps": 0, "fpr": 0.5}
    detector = ADCGAN(device="cuda", **settings).fit(images)
    pixels, twin = images.transpose(0, 3, 1, 2), detector.model_on("cpu")
    found = detector.model_.combine(detector.model_.scored(pixels).components)
    expected = twin.combine(twin.scored(pixels).components)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
