from __future__ import annotations

import torch
from torch import nn

from adcgan.training.statistics import recompute_statistics


def test_statistics_are_those_of_the_given_batches() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm2d(3))
    batches = [torch.randn(64, 3, 4, 4) * 2 + 5 for _ in range(4)]
    recompute_statistics(network, network, batches)
    norm = network[1]
    values = torch.cat(batches).transpose(0, 1).flatten(1)
    torch.testing.assert_close(norm.running_mean, values.mean(1), atol=1e-4, rtol=0)
    torch.testing.assert_close(norm.running_var, values.var(1), rtol=0.02, atol=0)


def test_weights_momentum_and_mode_are_kept() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, momentum=0.3))
    before = [p.detach().clone() for p in network.parameters()]
    recompute_statistics(network, network, [torch.rand(8, 1, 6, 6)])
    for parameter, value in zip(network.parameters(), before, strict=True):
        torch.testing.assert_close(parameter.detach(), value, atol=0, rtol=0)
    assert network[1].momentum == 0.3
    assert not network.training
    assert not network[1].training


def test_old_statistics_leave_no_trace() -> None:
    batch = torch.rand(16, 2, 3, 3)
    fresh, used = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
    used.train()
    used(batch * 100)
    for norm in (fresh, used):
        recompute_statistics(norm, norm, [batch])
    torch.testing.assert_close(fresh.running_mean, used.running_mean)
    torch.testing.assert_close(fresh.running_var, used.running_var)
