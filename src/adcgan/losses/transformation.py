"""The auxiliary task of a self-supervised critic: which transformation was applied."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def answer_losses(logits: Tensor, truth: Tensor, answers: Sequence[int]) -> Tensor:
    """Return the cross-entropy of the answer to each question.

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
    Tensor of shape (B, Q)
        At least 0; log A for a guess.
    """
    parts = torch.split(logits.float(), list(answers), dim=1)
    chosen = [
        F.log_softmax(part, dim=1).gather(1, truth[:, q : q + 1]) for q, part in enumerate(parts)
    ]
    return -torch.cat(chosen, dim=1)


def transformation_loss(logits: Tensor, truth: Tensor, answers: Sequence[int]) -> Tensor:
    """Return the cross-entropy of the transformations that were applied, summed over questions.

    With the rotations alone, the loss of self-supervised GANs (Chen et al. 2019, L_D without its
    adversarial part); with more questions, one softmax each (Hendrycks et al. 2019).

    Parameters
    ----------
    logits, truth, answers
        As for `answer_losses`.

    Returns
    -------
    Tensor of shape (B,)
        At least 0.
    """
    return answer_losses(logits, truth, answers).sum(1)
