from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from adcgan.data import load_images
from adcgan.detectors import ADGAN, AnoGAN, Detector
from adcgan.detectors.anomaly_map import smoothed
from adcgan.detectors.baselines.search import (
    BETAS,
    Starts,
    search_latents,
    search_latents_and_weights,
    searching,
)
from adcgan.detectors.baselines.stacks import Up, signed
from adcgan.progress import silent

SIZE = 16


def blobs(n: int, seed: int) -> np.ndarray:
    """Return images (n, 16, 16) of one bright spot near the middle."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    y, x = rng.uniform(6, 9, (2, n, 1, 1))
    spot = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 12)
    return (255 * spot).astype(np.uint8)


def noise(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, SIZE, SIZE), dtype=np.uint8)


@pytest.fixture(scope="module", params=[ADGAN, AnoGAN])
def trained(request) -> Detector:
    options = {"search_steps": 30} if request.param is AnoGAN else {"restarts": 3}
    detector = request.param(
        width=0.1,
        latent_dim=16,
        batch_size=16,
        epochs=1,
        min_steps=60,
        lr=1e-3,
        fpr=0.2,
        device="cpu",
        **options,
    )
    return detector.fit(blobs(64, 0), progress=silent)


def as_tensor(images: np.ndarray) -> Tensor:
    return signed(torch.from_numpy(images[:, None]).float() / 255)


def test_search_lowers_its_own_loss_on_every_image(trained):
    x = as_tensor(np.concatenate([blobs(6, 1), noise(6, 2)]))
    model, starts = trained.model_, trained.model_.starts.latents
    if isinstance(trained, ADGAN):
        with searching():
            found = search_latents_and_weights(model.generator, x, starts, 5, 0.25, 5e-5)
        first, last = found.first.mean(1), found.last.mean(1)
    else:
        f_x = model.critic.features(x).detach()

        def loss(z: Tensor) -> Tensor:
            residual, features = model._distances(x, f_x, model.generator(z))
            return (1 - trained.lam) * residual + trained.lam * features

        start = starts.repeat(len(x), 1)
        first, last = loss(start).detach(), loss(model._search(x, f_x)).detach()
    assert (last < first).all()


def test_search_leaves_the_model_as_it_was(trained):
    before = deepcopy(trained.model_.state_dict())
    trained.decision_function(blobs(3, 1))
    after = trained.model_.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_score_depends_on_the_image_alone(trained):
    images = np.concatenate([blobs(4, 1), noise(4, 2)])
    together = trained.decision_function(images)
    order = np.random.default_rng(0).permutation(len(images))
    np.testing.assert_allclose(trained.decision_function(images[order]), together[order], rtol=1e-5)
    # Searched in tiles of one size, an image has the same score in any company.
    for n in (1, 3, 7):
        few = trained.decision_function(images[-n:])
        np.testing.assert_allclose(few, together[-n:], rtol=1e-5)


def test_longer_search_scores_lower(trained):
    longer = deepcopy(trained)
    longer.model_.settings.set_params(search_steps=trained.search_steps * 2)
    images = blobs(4, 1)
    assert (longer.decision_function(images) < trained.decision_function(images)).all()


def test_reconstructions_and_maps_come_from_what_the_search_found(trained):
    images = blobs(4, 1)
    made = trained.reconstruct(images)
    assert made.shape == (4, SIZE, SIZE, 1)
    residual = torch.from_numpy(np.abs(made[..., 0] - images / np.float32(255)))
    expected = smoothed(residual).numpy()
    np.testing.assert_allclose(trained.anomaly_map(images), expected, atol=1e-5)


def test_starts_depend_on_their_seed_alone():
    torch.manual_seed(1)
    one = Starts(4, 3, seed=5).latents
    torch.manual_seed(2)
    assert torch.equal(one, Starts(4, 3, seed=5).latents)
    assert not torch.equal(one, Starts(4, 3, seed=6).latents)
    assert torch.equal(Starts(2, 3, seed=5).latents, one[:2])


def test_search_for_latents_finds_the_minimum_of_a_bowl():
    aim = torch.tensor([[0.3, -0.2], [1.0, 0.5]])
    with searching():
        z = search_latents(lambda z: (z - aim).square().sum(1), torch.zeros(2, 2), 400, 0.05)
    torch.testing.assert_close(z, aim, atol=1e-3, rtol=0)
    assert not z.requires_grad


def one_search(generator: nn.Module, x: Tensor, z: Tensor, steps: int) -> tuple[float, float]:
    """Search for one image from one start, as one would write it without batches."""
    copy, z = deepcopy(generator), z.clone().requires_grad_()
    groups = [{"params": [z], "lr": 0.25}, {"params": list(copy.parameters()), "lr": 5e-3}]
    optimizer = torch.optim.Adam(groups, betas=BETAS)
    losses = []
    for _ in range(steps):
        loss = (copy(z[None])[0] - x).square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses[0], (copy(z[None])[0] - x).square().mean().item()


def test_batched_search_equals_one_search_for_each_image_and_restart():
    torch.manual_seed(0)
    generator = Up(1, SIZE, 8, [8, 6, 4], kernel=3, std=0.1)
    generator(torch.randn(32, 8))  # running statistics that are not those of a fresh network
    generator.eval()
    x, starts = as_tensor(blobs(3, 0)), torch.randn(2, 8)
    with searching():
        found = search_latents_and_weights(generator, x, starts, 4, 0.25, 5e-3)
    expected = [[one_search(generator, image, z, 4) for z in starts] for image in x]
    first, last = torch.tensor(expected).unbind(-1)
    torch.testing.assert_close(found.first, first, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.last, last, rtol=1e-4, atol=1e-6)
    errors = (found.images - x[:, None]).square().flatten(2).mean(2)
    torch.testing.assert_close(errors, found.last)


def test_cost_of_training_with_a_gradient_penalty_can_be_counted():
    images = load_images(blobs(20, 0), progress=silent)
    cost = ADGAN(width=0.05, batch_size=8, epochs=3, min_steps=0, device="cpu").fit_cost(images)
    assert cost.steps == 6
    assert 0 < cost.flops_per_step < np.inf
