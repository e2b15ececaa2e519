"""The auxiliary task of a self-supervised critic: which transformation was applied."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def log_probabilities(logits: Tensor, answers: Sequence[int]) -> tuple[Tensor, ...]:
    """Return the logarithms of the probabilities of each question's answers.

    Parameters
    ----------
    logits : Tensor of shape (B, ΣA)
        The critic's logits, the questions side by side.
    answers : sequence of int
        How many answers A each question has.

    Returns
    -------
    tuple of Tensor of shape (B, A)
        One for each question; at most 0.
    """
    parts = torch.split(logits.float(), list(answers), dim=1)
    return tuple(F.log_softmax(part, dim=1) for part in parts)


def transformation_loss(logits: Tensor, truth: Tensor, answers: Sequence[int]) -> Tensor:
    """Return the cross-entropy of the transformations that were applied, summed over questions.

    With the rotations alone, the loss of self-supervised GANs (Chen et al. 2019, L_D without its
    adversarial part); with more questions, one softmax each (Hendrycks et al. 2019).

    Parameters
    ----------
    logits : Tensor of shape (B, ΣA)
        The critic's logits, the questions side by side.
    truth : Tensor of int64 (B, Q)
        The answer to each question, counted from 0.
    answers : sequence of int
        How many answers A each of the Q questions has.

    Returns
    -------
    Tensor of shape (B,)
        At least 0.
    """
    parts = log_probabilities(logits, answers)
    chosen = [part.gather(1, truth[:, q : q + 1]) for q, part in enumerate(parts)]
    return -torch.cat(chosen, dim=1).sum(1)
