"""The contrastive loss between two views of the same images."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from adcgan.losses.precision import at_least_float32


def view_loss(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Contrastive loss between views, NT-Xent (Chen et al. 2020, "SimCLR", Eq. 1).

    Each of the 2B vectors is to be recognised, by its cosine similarity, as the other view of its
    image among the 2B − 1 other vectors.

    Parameters
    ----------
    first, second : Tensor of shape (B, K)
        Features of one view of B images, and of another view of the same images; not 0.
    temperature : float
        Above 0; similarities are divided by it.

    Returns
    -------
    Tensor of shape ()
        At least 0; log(2B − 1) where all vectors point the same way. Computed in float32 or wider.
    """
    both = at_least_float32(torch.cat([first, second]))
    both = F.normalize(both, dim=1)
    similarity = both @ both.T / temperature
    itself = torch.eye(len(both), dtype=torch.bool, device=both.device)
    places = torch.arange(len(both), device=both.device).roll(len(first))
    return F.cross_entropy(similarity.masked_fill(itself, -torch.inf), places)
