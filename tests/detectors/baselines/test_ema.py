from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from adcgan.detectors import ALAD, EGBAD, Detector
from adcgan.detectors.baselines.ema import Average, take_over
from adcgan.progress import silent

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 16, 16), dtype=np.uint8)


def networks_with(weight: float) -> nn.ModuleDict:
    layer = nn.Linear(1, 1)
    nn.init.constant_(layer.weight, weight)
    return nn.ModuleDict({"layer": layer, "norm": nn.BatchNorm1d(1)})


def test_average_weighs_each_step_by_its_age_and_leaves_untrained_weights_out():
    networks = networks_with(100.0)
    average = Average(networks, 0.9)
    for value in (1.0, 2.0, 3.0):
        nn.init.constant_(networks["layer"].weight, value)
        networks["norm"].running_mean.fill_(10 * value)
        average.update(networks)
    take_over(networks, average)
    expected = (0.81 * 1 + 0.9 * 2 + 3) / (0.81 + 0.9 + 1)
    assert networks["layer"].weight.item() == pytest.approx(expected)
    assert networks["norm"].running_mean.item() == pytest.approx(10 * expected)


def test_averaged_weights_have_spectral_norm_one():
    torch.manual_seed(0)
    networks = nn.ModuleDict({"layer": spectral_norm(nn.Linear(6, 5))})
    average = Average(networks, 0.9)
    for _ in range(3):
        nn.init.normal_(networks["layer"].parametrizations.weight.original)
        average.update(networks)
    take_over(networks, average)
    assert not networks["layer"].training
    norm = torch.linalg.matrix_norm(networks["layer"].weight, 2).item()
    assert norm == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("system", [ALAD, EGBAD])
def test_scores_come_from_the_averaged_weights(system: type[Detector]):
    def generator(steps: int, decay: float) -> torch.Tensor:
        detector = system(
            width=0.05,
            batch_size=10,
            epochs=1,
            min_steps=steps,
            lr=0.01,
            ema_decay=decay,
            fpr=0.5,
            validation_fraction=0.15,
            device="cpu",
        )
        detector.fit(IMAGES, progress=silent)
        weights = [p.flatten() for p in detector.model_.generator.parameters()]
        return torch.cat(weights).detach()

    first, second = generator(1, 0.0), generator(2, 0.0)
    assert not torch.equal(first, second)
    torch.testing.assert_close(generator(2, 0.5), (0.5 * first + second) / 1.5)
