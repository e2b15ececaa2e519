"""Updates of the weights."""

from __future__ import annotations

import torch
from torch import nn

from adcgan.training import Optimizers, make_accelerator


def test_weight_decay_is_that_of_torch_and_of_the_optimizer_it_was_given_to() -> None:
    torch.manual_seed(0)
    networks = {name: nn.Linear(3, 1) for name in ("decayed", "plain")}
    expected = {name: [p.detach().clone() for p in n.parameters()] for name, n in networks.items()}
    optimizers = Optimizers(
        {name: network.parameters() for name, network in networks.items()},
        dict.fromkeys(networks, 0.1),
        betas=(0.9, 0.999),
        weight_decay={"decayed": 0.5},
        accelerator=make_accelerator("cpu", "float32"),
    )
    x = torch.randn(4, 3)
    for name, network in networks.items():
        weights = [p.requires_grad_() for p in expected[name]]
        adam = torch.optim.Adam(weights, lr=0.1, weight_decay=0.5 if name == "decayed" else 0)
        for _ in range(3):
            optimizers.update(name, {"loss": network(x).square().mean()})
            adam.zero_grad()
            nn.functional.linear(x, *weights).square().mean().backward()
            adam.step()
        torch.testing.assert_close(list(network.parameters()), weights)
