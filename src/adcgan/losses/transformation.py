"""The auxiliary task of a self-supervised critic: which transformation was applied."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def answer_losses(logits: Tensor, truth: Tensor, answers: Sequence[int]) -> Tensor:
    """Compute the cross-entropy of the answer to each question.

    Parameters
    ----------
    logits : Tensor of shape (B, ΣA)
        The critic's logits, concatenated over questions.
    truth : Tensor of int64 (B, Q)
        Answer to each question, counted from 0.
    answers : sequence of int
        Number of answers A of each of the Q questions.

    Returns
    -------
    Tensor of shape (B, Q)
        Losses of at least 0; log A for uniform guessing.
    """
    parts = torch.split(logits.float(), list(answers), dim=1)
    chosen = [
        F.log_softmax(part, dim=1).gather(1, truth[:, q : q + 1]) for q, part in enumerate(parts)
    ]
    return -torch.cat(chosen, dim=1)


def transformation_loss(logits: Tensor, truth: Tensor, answers: Sequence[int]) -> Tensor:
    """Compute the cross-entropy of the applied transformations, summed over questions.

    With rotations alone, this is the loss of self-supervised GANs (Chen et al. 2019, L_D without
    its adversarial part); with more questions, each has its own softmax (Hendrycks et al. 2019).

    Parameters
    ----------
    logits, truth, answers
        As for `answer_losses`.

    Returns
    -------
    Tensor of shape (B,)
        Losses of at least 0.
    """
    return answer_losses(logits, truth, answers).sum(1)
