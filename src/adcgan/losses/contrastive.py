"""The contrastive loss between local and global features of images (Eq. 1)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from adcgan.errors import InputError
from adcgan.losses.precision import at_least_float32

Negatives = Literal["batch", "self", "all"]
NEGATIVES: tuple[Negatives, ...] = get_args(Negatives)


def contrastive_loss(local: Tensor, global_: Tensor, negatives: Negatives = "batch") -> Tensor:
    """Compute the contrastive loss L_cgan of Eq. 1.

    Each image x of the batch is a query, represented by its mapped global vector φ(E_ψ(x)). A
    location i of any image x' has the score g = C_ψ^(i)(x')ᵀ φ(E_ψ(x)). For each of the query's own
    locations i, the loss is −log softmax of its score over itself and the negatives; the result is
    the mean over i and x. There is no temperature.

    The equation sums over the whole batch, whereas the paper's prose contrasts an image with
    itself, so `negatives` selects one of:

    - ``"batch"``: all locations of the other images. The query's own other locations are left out,
      because they are positives too. With a batch of one, nothing is left and the loss is 0.
    - ``"self"``: the other locations of the query's own image. The minimum, log M², is reached if
      all locations of an image have the same score, so a constant map is optimal.
    - ``"all"``: both.

    Parameters
    ----------
    local : Tensor of shape (B, K, M, M)
        Local feature maps, C_ψ(x).
    global_ : Tensor of shape (B, K)
        Global features, already mapped to K dimensions by φ_θ.
    negatives : {"batch", "self", "all"}, default="batch"
        Locations with which each location is contrasted.

    Returns
    -------
    Tensor of shape ()
        Loss of at least 0, finite and with finite gradients if the scores are. Memory grows with
        B·B·M². Computed in float32 or wider, even under autocast.

    Raises
    ------
    InputError
        If `negatives` is not one of the three.
    """
    if negatives not in NEGATIVES:
        raise InputError(
            "The 'negatives' parameter of contrastive_loss must be one of "
            f"{', '.join(map(repr, NEGATIVES))}. Got {negatives!r} instead."
        )
    assert local.dim() == 4
    assert global_.shape == local.shape[:2]
    # Scores have no temperature, so bfloat16 would round them by whole units.
    with torch.autocast(local.device.type, enabled=False):
        places = at_least_float32(local).flatten(2)  # (B, K, M²)
        queries = at_least_float32(global_)  # (B, K)
        if negatives == "self":
            own = torch.einsum("bk,bki->bi", queries, places)
            return -functional.log_softmax(own, dim=1).mean()
        # A single matrix product of all queries and locations: (query x, image x', location).
        scores = queries @ places.transpose(0, 1).flatten(1)
        scores = scores.view(len(queries), len(places), -1)
        own = scores.diagonal(dim1=0, dim2=1)  # (location, query x)
        if negatives == "all":
            return (scores.logsumexp(dim=(1, 2)) - own).mean()
        same = torch.eye(len(queries), dtype=torch.bool, device=scores.device)[:, :, None]
        # All locations of a query share the same negatives, so these are summed once per query;
        # then −log(e^own / (e^own + e^others)) is softplus(others − own).
        others = scores.masked_fill(same, -torch.inf).logsumexp(dim=(1, 2))  # (query x,)
        return functional.softplus(others - own).mean()
