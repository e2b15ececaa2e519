"""The contrastive loss between an image's local and global features (Eq. 1)."""

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
    """Contrastive loss L_cgan of Eq. 1.

    An image x of the batch is the query, by its mapped global vector φ(E_ψ(x)). A location i of
    any image x' scores g = C_ψ^(i)(x')ᵀ φ(E_ψ(x)). For each of the query's own locations i the
    loss is −log softmax of its score among itself and the negatives; the result is the mean over
    i and x. There is no temperature.

    The equation sums over the whole batch while the paper's prose contrasts an image with itself,
    so `negatives` chooses:

    - ``"batch"``: all locations of the other images. A query's other own locations are left out,
      since they are positives too. With a batch of one nothing is left and the loss is 0.
    - ``"self"``: the other locations of the query's own image. The least possible value, log M²,
      is reached when all locations of an image score alike, so a constant map is an optimum.
    - ``"all"``: both.

    Parameters
    ----------
    local : Tensor of shape (B, K, M, M)
        Local feature maps C_ψ(x).
    global_ : Tensor of shape (B, K)
        Global features already mapped to K dimensions by φ_θ.
    negatives : {"batch", "self", "all"}, default="batch"
        What each location is contrasted with.

    Returns
    -------
    Tensor of shape ()
        At least 0. Finite, with finite gradients, as long as the scores are; memory grows with
        B·B·M². Computed in float32 or wider, under autocast too.

    Raises
    ------
    InputError
        If `negatives` is none of the three.
    """
    if negatives not in NEGATIVES:
        raise InputError(
            "The 'negatives' parameter of contrastive_loss must be one of "
            f"{', '.join(map(repr, NEGATIVES))}. Got {negatives!r} instead."
        )
    assert local.dim() == 4
    assert global_.shape == local.shape[:2]
    # Scores are used without a temperature, so bfloat16's rounding would be whole units of them.
    with torch.autocast(local.device.type, enabled=False):
        places = at_least_float32(local).flatten(2)  # (B, K, M²)
        queries = at_least_float32(global_)  # (B, K)
        if negatives == "self":
            own = torch.einsum("bk,bki->bi", queries, places)
            return -functional.log_softmax(own, dim=1).mean()
        # One matrix product of all queries with all places: (query x, image x', location).
        scores = queries @ places.transpose(0, 1).flatten(1)
        scores = scores.view(len(queries), len(places), -1)
        own = scores.diagonal(dim1=0, dim2=1)  # (location, query x)
        if negatives == "all":
            return (scores.logsumexp(dim=(1, 2)) - own).mean()
        same = torch.eye(len(queries), dtype=torch.bool, device=scores.device)[:, :, None]
        # All locations of a query share the same negatives, so their sum is taken once for each
        # query; with it −log(e^own / (e^own + e^others)) is softplus(others − own).
        others = scores.masked_fill(same, -torch.inf).logsumexp(dim=(1, 2))  # (query x,)
        return functional.softplus(others - own).mean()
