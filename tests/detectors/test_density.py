from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf
from sklearn.neighbors import NearestNeighbors

from adcgan.detectors.density import (
    clustered_gaussians,
    greedy_coreset,
    mahalanobis_distance,
    neighbour_distance,
)


def features(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 6)) @ rng.normal(size=(6, 6)) + 3


def test_the_mahalanobis_distance_is_scikit_learns() -> None:
    train, judged = features(200), features(20, seed=1)
    mean, whitening = clustered_gaussians(train, 1)
    found = mahalanobis_distance(torch.from_numpy(judged).float(), mean, whitening)
    expected = np.sqrt(LedoitWolf().fit(train).mahalanobis(judged))
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-4)


def test_a_feature_that_never_varies_does_no_harm() -> None:
    train = features(50)
    train[:, 2] = 1.0
    mean, whitening = clustered_gaussians(train, 1)
    distance = mahalanobis_distance(torch.from_numpy(train).float(), mean, whitening)
    assert torch.isfinite(distance).all()


def test_features_that_are_all_the_same_do_no_harm() -> None:
    train = np.ones((10, 4))
    mean, whitening = clustered_gaussians(train, 1)
    distance = mahalanobis_distance(torch.ones(2, 4), mean, whitening)
    assert torch.isfinite(distance).all()


def test_with_clusters_the_nearest_of_their_gaussians_counts() -> None:
    parts = [features(100), features(100, seed=1) + 50, features(100, seed=2) - 50]
    judged = features(20, seed=3)
    expected = np.minimum.reduce([LedoitWolf().fit(part).mahalanobis(judged) for part in parts])
    fitted = clustered_gaussians(np.concatenate(parts), 3)
    found = mahalanobis_distance(torch.from_numpy(judged).float(), *fitted)
    assert found.tolist() == pytest.approx(np.sqrt(expected).tolist(), rel=1e-3)


def test_a_cluster_of_equal_images_is_not_near_to_everything() -> None:
    rng = np.random.default_rng(0)
    train = np.concatenate([rng.normal(size=(200, 4)), np.full((50, 4), 30.0)])
    fitted = clustered_gaussians(train, 2)
    judged = torch.tensor([[0.0] * 4, [30.0] * 4, [15.0] * 4])
    usual, equal, other = mahalanobis_distance(judged, *fitted).tolist()
    assert max(usual, equal) < 1
    assert other > 20


def test_more_clusters_than_different_images_do_no_harm() -> None:
    fitted = clustered_gaussians(np.repeat(features(3), 20, axis=0), 10)
    distance = mahalanobis_distance(torch.from_numpy(features(3)).float(), *fitted)
    assert torch.isfinite(distance).all()
    assert torch.isfinite(fitted[1]).all()


def test_neighbours_are_scikit_learns_by_cosine() -> None:
    train, judged = features(100), features(9, seed=1)
    directions = [
        torch.nn.functional.normalize(torch.from_numpy(some).float(), dim=1)
        for some in (judged, train)
    ]
    found = neighbour_distance(*directions, 5)
    index = NearestNeighbors(n_neighbors=5, metric="cosine").fit(train)
    expected = index.kneighbors(judged)[0].mean(1)
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_the_coreset_is_the_greedy_k_centre_where_nothing_is_lost_by_projecting() -> None:
    given = torch.from_numpy(np.random.default_rng(0).normal(size=(60, 3))).float()
    rng = torch.Generator().manual_seed(3)
    chosen = greedy_coreset(given, 10, rng, dim=3)
    # The same by its definition, in the same projection.
    rng = torch.Generator().manual_seed(3)
    places = given @ (torch.randn(3, 3, generator=rng) / 3**0.5)
    expected = [int(torch.randint(60, (1,), generator=rng))]
    while len(expected) < 10:
        apart = torch.cdist(places, places[expected])
        expected.append(int(apart.min(1).values.argmax()))
    assert chosen.tolist() == sorted(expected)


def test_a_coreset_holds_what_is_rare() -> None:
    rng = torch.Generator().manual_seed(0)
    common = torch.randn(500, 20, generator=rng) * 0.1
    rare = torch.eye(20)[:5] * 5
    chosen = greedy_coreset(torch.cat([common, rare]), 12, rng)
    assert set(range(500, 505)) <= set(chosen.tolist())


def test_a_coreset_of_more_than_there_are_is_all_and_has_no_doubles_among_equals() -> None:
    equal = torch.ones(8, 4)
    assert greedy_coreset(equal, 20, torch.Generator()).tolist() == list(range(8))
    chosen = greedy_coreset(equal, 5, torch.Generator().manual_seed(1)).tolist()
    assert len(set(chosen)) == 5
