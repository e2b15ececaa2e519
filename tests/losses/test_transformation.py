from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from adcgan.losses import answer_losses, transformation_loss

ANSWERS = (4, 3)


def test_an_undecided_critic_pays_the_logarithms_of_the_answers() -> None:
    loss = transformation_loss(torch.zeros(2, 7), torch.tensor([[0, 2], [3, 1]]), ANSWERS)
    assert loss.tolist() == pytest.approx([math.log(12)] * 2)


def test_the_loss_is_one_cross_entropy_for_each_question() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 7, generator=generator)
    truth = torch.tensor([[0, 0], [1, 2], [2, 1], [3, 2], [0, 1]])
    expected = [
        -math.log(torch.softmax(row[:4], 0)[a]) - math.log(torch.softmax(row[4:], 0)[b])
        for row, (a, b) in zip(logits, truth.tolist(), strict=True)
    ]
    assert transformation_loss(logits, truth, ANSWERS).tolist() == pytest.approx(expected, rel=1e-5)


def test_answers_have_losses_of_their_own() -> None:
    logits, truth = torch.randn(5, 7), torch.tensor([[0, 0], [1, 2], [2, 1], [3, 2], [0, 1]])
    losses = answer_losses(logits, truth, ANSWERS)
    assert losses.shape == (5, 2)
    turns = F.nll_loss(torch.log_softmax(logits[:, :4], 1), truth[:, 0], reduction="none")
    assert torch.allclose(losses[:, 0], turns)
    assert torch.allclose(losses.sum(1), transformation_loss(logits, truth, ANSWERS))
