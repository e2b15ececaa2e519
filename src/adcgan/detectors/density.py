"""Feature distances from the training set."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.covariance import ledoit_wolf
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor


def gaussian_whitening(
    features: NDArray[np.floating], least: float = 1e-7
) -> tuple[Tensor, Tensor]:
    """Fit a Gaussian with the Ledoit–Wolf shrinkage covariance.

    Parameters
    ----------
    features : ndarray (n, F)
        Features of training images, n ≥ 2.
    least : float
        Lower bound on variances, as a fraction of the largest. In float32, anything below 1e-7 is
        indistinguishable from rounding, which whitening would amplify.

    Returns
    -------
    mean : Tensor of float32 (F,)
    whitening : Tensor of float32 (F, F)
        W such that WWᵀ is the inverse of the covariance. Constant features get variance 1.
    """
    exact = np.asarray(features, dtype=np.float64)
    varied = exact.std(0) > 0
    covariance = np.diag((~varied).astype(np.float64))
    if varied.any():
        covariance[np.ix_(varied, varied)], _ = ledoit_wolf(exact[:, varied])
    values, vectors = np.linalg.eigh(covariance)
    whitening = vectors / np.sqrt(np.maximum(values, values.max() * least))
    return torch.from_numpy(exact.mean(0)).float(), torch.from_numpy(whitening).float()


def principal_directions(features: NDArray[np.floating], most: int) -> Tensor:
    """Return the directions (F, P) in which features (n, F) vary most, `most` of them or fewer."""
    pca = PCA(min(most, *features.shape), svd_solver="full").fit(features)
    return torch.from_numpy(pca.components_.T.astype(np.float32))


def clustered_gaussians(features: NDArray[np.floating], n_clusters: int) -> tuple[Tensor, Tensor]:
    """Fit a Gaussian to each of the clusters that k-means finds.

    As in SSD (Sehwag et al. 2021, "SSD: A unified framework for self-supervised outlier
    detection"). A cluster whose features are all the same gets the covariance of all features
    around the means of their clusters.

    Parameters
    ----------
    features : ndarray (n, F)
        Features of training images, n ≥ 2.
    n_clusters : int
        At most n.

    Returns
    -------
    means : Tensor of float32 (n_clusters, F)
    whitening : Tensor of float32 (n_clusters, F, F)
        As of `gaussian_whitening`.
    """
    if n_clusters == 1:
        mean, whitening = gaussian_whitening(features)
        return mean[None], whitening[None]
    with warnings.catch_warnings():
        # Of equal images there may be fewer clusters; the others repeat one of them.
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = KMeans(n_clusters, n_init=1, random_state=0).fit(features)
    centres = found.cluster_centers_.astype(np.float64)
    _, usual = gaussian_whitening(features - centres[found.labels_])
    gaussians = []
    for i, centre in enumerate(centres):
        members = features[found.labels_ == i]
        varies = len(members) > 1 and bool(np.ptp(members, axis=0).any())
        gaussian = (torch.from_numpy(centre).float(), usual)
        gaussians.append(gaussian_whitening(members) if varies else gaussian)
    means, whitenings = zip(*gaussians, strict=True)
    return torch.stack(means), torch.stack(whitenings)


def mahalanobis_distance(features: Tensor, mean: Tensor, whitening: Tensor) -> Tensor:
    """Return the Mahalanobis distances from fitted Gaussians.

    Parameters
    ----------
    features : Tensor of shape (B, F)
    mean : Tensor of shape (K, F)
    whitening : Tensor of shape (K, F, F)

    Returns
    -------
    Tensor of shape (B,)
        From the nearest of K Gaussians.
    """
    white = (features - mean[:, None]) @ whitening
    distance: Tensor = white.square().sum(2).sqrt().amin(0)
    return distance


def neighbour_distance(features: Tensor, reference: Tensor, k: int) -> Tensor:
    """Return the mean cosine distance (B,) of features (B, F) to their `k` nearest references.

    Parameters
    ----------
    features : Tensor of shape (B, F)
        Unit vectors.
    reference : Tensor of shape (n, F)
        Unit features of training images, n ≥ k.
    k : int

    Returns
    -------
    Tensor of shape (B,)
        From 0, for k training images with the same direction, to 2.
    """
    similarity = features @ reference.T
    return 1 - similarity.topk(k, dim=1).values.mean(1)


def greedy_coreset(features: Tensor, n: int, rng: torch.Generator, dim: int = 48) -> Tensor:
    """Return a coreset of `n` features, each the farthest from those chosen before it.

    The greedy k-centre selection of Roth et al. (2022), "Towards total recall in industrial anomaly
    detection", equation 5. Distances are computed in a random projection, which nearly preserves
    them.

    Parameters
    ----------
    features : Tensor of shape (m, F)
    n : int
    rng : torch.Generator
        Generator on the CPU for the projection and the first feature.
    dim : int
        Dimensions of the projection.

    Returns
    -------
    Tensor of int64, shape (n,), or (m,) if there are fewer
        Indices in ascending order.
    """
    if n >= len(features):
        return torch.arange(len(features), device=features.device)
    drawn = torch.randn(features.shape[1], dim, generator=rng)
    places = features @ (drawn / dim**0.5).to(features)
    lengths = places.square().sum(1)
    chosen = [int(torch.randint(len(features), (1,), generator=rng))]
    nearest = torch.full_like(lengths, torch.inf)
    while len(chosen) < n:
        last = chosen[-1]
        squared = torch.addmv(lengths, places, places[last], alpha=-2).add_(lengths[last])
        torch.minimum(nearest, squared, out=nearest)
        # Rounding may give a chosen feature a positive distance from itself.
        nearest[last] = -torch.inf
        chosen.append(int(nearest.argmax()))
    return torch.tensor(chosen, device=features.device).sort().values
