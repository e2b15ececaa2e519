"""The contrastive loss between two views of the same images."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from adcgan.losses.precision import at_least_float32


def view_loss(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Compute the contrastive loss between views, NT-Xent (Chen et al. 2020, "SimCLR", Eq. 1).

    Each of the 2B vectors must find the other view of its image among the 2B − 1 other vectors, by
    cosine similarity.

    Parameters
    ----------
    first, second : Tensor of shape (B, K)
        Features of two views of the same B images; vectors must not be 0.
    temperature : float
        Divisor of the similarities, above 0.

    Returns
    -------
    Tensor of shape ()
        Loss of at least 0; log(2B − 1) if all vectors have the same direction. Computed in float32
        or wider.
    """
    both = at_least_float32(torch.cat([first, second]))
    both = F.normalize(both, dim=1)
    similarity = both @ both.T / temperature
    itself = torch.eye(len(both), dtype=torch.bool, device=both.device)
    places = torch.arange(len(both), device=both.device).roll(len(first))
    return F.cross_entropy(similarity.masked_fill(itself, -torch.inf), places)
