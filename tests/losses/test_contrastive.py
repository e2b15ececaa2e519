from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from adcgan.errors import InputError
from adcgan.losses import NEGATIVES, contrastive_loss
from adcgan.losses.contrastive import Negatives


def features(
    seed: int, batch: int = 4, channels: int = 5, side: int = 3, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    local = scale * torch.randn(batch, channels, side, side, generator=generator).double()
    return local, torch.randn(batch, channels, generator=generator).double()


def slow_contrastive_loss(local: Tensor, global_: Tensor, negatives: Negatives) -> float:
    """Equation 1, term by term."""
    batch, _, side, _ = local.shape
    places = [(row, column) for row in range(side) for column in range(side)]

    def g(image: int, place: tuple[int, int], query: int) -> float:
        return float(local[image, :, place[0], place[1]] @ global_[query])

    losses = []
    for query in range(batch):
        for positive in places:
            terms = [g(query, positive, query)]
            for image in range(batch):
                for place in places:
                    own = image == query
                    if own and (place == positive or negatives == "batch"):
                        continue
                    if not own and negatives == "self":
                        continue
                    terms.append(g(image, place, query))
            top = max(terms)
            total = top + math.log(sum(math.exp(term - top) for term in terms))
            losses.append(total - terms[0])
    return sum(losses) / len(losses)


@pytest.mark.parametrize("negatives", NEGATIVES)
@pytest.mark.parametrize("batch", [1, 2, 4])
@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_loss_follows_equation_1(negatives: Negatives, batch: int, scale: float) -> None:
    local, global_ = features(0, batch=batch, scale=scale)
    loss = contrastive_loss(local, global_, negatives)
    expected = slow_contrastive_loss(local, global_, negatives)
    assert loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-8)


def test_the_paper_reading_is_the_default() -> None:
    local, global_ = features(1)
    assert contrastive_loss(local, global_) == contrastive_loss(local, global_, "batch")


def test_the_three_choices_of_negatives_are_three_losses() -> None:
    local, global_ = features(2)
    batch, own, every = (contrastive_loss(local, global_, kind).item() for kind in NEGATIVES)
    # More negatives can only raise each term, strictly so with finite scores.
    assert every > batch
    assert every > own
    assert batch != pytest.approx(own)


@pytest.mark.parametrize("negatives", NEGATIVES)
def test_loss_does_not_depend_on_the_order_of_the_batch(negatives: Negatives) -> None:
    local, global_ = features(3)
    order = torch.tensor([2, 0, 3, 1])
    loss = contrastive_loss(local, global_, negatives)
    moved = contrastive_loss(local[order], global_[order], negatives)
    torch.testing.assert_close(moved, loss)
    unpaired = contrastive_loss(local[order], global_, negatives)
    assert unpaired.item() != pytest.approx(loss.item())


@pytest.mark.parametrize("negatives", NEGATIVES)
def test_loss_does_not_depend_on_where_the_locations_are(negatives: Negatives) -> None:
    local, global_ = features(4)
    order = torch.tensor([8, 3, 1, 0, 4, 7, 2, 6, 5])
    moved = local.flatten(2)[:, :, order].reshape(4, 5, 3, 3)
    torch.testing.assert_close(
        contrastive_loss(moved, global_, negatives),
        contrastive_loss(local, global_, negatives),
    )


def test_under_self_a_constant_map_is_the_optimum_at_log_m_squared() -> None:
    local, global_ = features(5)
    constant = local[:, :, :1, :1].repeat(1, 1, 3, 3).requires_grad_()
    global_.requires_grad_()
    loss = contrastive_loss(constant, global_, "self")
    gradients = torch.autograd.grad(loss, (constant, global_))
    assert loss.item() == pytest.approx(math.log(9), rel=1e-12)
    for gradient in gradients:
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-15)
    for seed in range(20):
        assert contrastive_loss(*features(seed, scale=0.3), "self").item() > math.log(9)


def test_equal_scores_give_the_logarithm_of_the_number_of_candidates() -> None:
    local, global_ = torch.zeros(4, 5, 3, 3), torch.ones(4, 5)
    assert contrastive_loss(local, global_, "batch").item() == pytest.approx(math.log(1 + 3 * 9))
    assert contrastive_loss(local, global_, "self").item() == pytest.approx(math.log(9))
    assert contrastive_loss(local, global_, "all").item() == pytest.approx(math.log(4 * 9))


def aligned(own: float, other: float) -> tuple[Tensor, Tensor]:
    """Features in float32 whose scores are `own` within an image and `other` across images."""
    batch = 3
    global_ = torch.eye(batch)
    scores = torch.full((batch, batch), other).fill_diagonal_(own)  # (image, query)
    return scores[:, :, None, None].repeat(1, 1, 2, 2).requires_grad_(), global_.requires_grad_()


@pytest.mark.parametrize(
    ("negatives", "own", "other", "expected"),
    [
        # Masked locations of the query itself must not count, however high they score.
        ("batch", 1e4, -1e4, 0.0),
        ("batch", -1e4, 1e4, 2e4 + math.log(8)),
        ("batch", -1e4, -1e4, math.log(9)),
        ("self", 1e4, -1e4, math.log(4)),
        ("self", -1e4, 1e4, math.log(4)),
        ("all", 1e4, -1e4, math.log(4)),
        ("all", -1e4, 1e4, 2e4 + math.log(8)),
    ],
)
def test_huge_scores_give_finite_losses_and_gradients(
    negatives: Negatives, own: float, other: float, expected: float
) -> None:
    local, global_ = aligned(own, other)
    loss = contrastive_loss(local, global_, negatives)
    gradients = torch.autograd.grad(loss, (local, global_))
    # float32 holds 1e4 to about 1e-3, and a log-sum-exp at that size no better.
    assert loss.item() == pytest.approx(expected, abs=4e-3)
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_own_locations_below_the_rest_by_far_are_masked_not_floored() -> None:
    # A mask of a finite number such as -10 would swamp scores that lie below it.
    local, global_ = aligned(own=-50.0, other=-60.0)
    loss = contrastive_loss(local, global_, "batch")
    assert loss.item() == pytest.approx(math.log1p(8 * math.exp(-10)), rel=1e-4)


def test_under_batch_a_location_counts_in_its_own_term_alone() -> None:
    local, global_ = features(6, batch=2)
    shifted = local.clone()
    shifted[0, :, 0, 0] += 100 * global_[0] / global_[0].square().sum()
    quiet = contrastive_loss(local, torch.stack([global_[0], torch.zeros(5).double()]))
    loud = contrastive_loss(shifted, torch.stack([global_[0], torch.zeros(5).double()]))
    # Only the term of location (0, 0) of image 0 changes: from its value to almost 0.
    others = torch.logsumexp((local[1].flatten(1) * global_[0][:, None]).sum(0), 0)
    own = local[0, :, 0, 0] @ global_[0]
    term = torch.nn.functional.softplus(others - own).item()
    assert (quiet - loud).item() == pytest.approx(term / 18, rel=1e-6)


def test_a_batch_of_one_has_no_other_images_so_loss_and_gradient_are_zero() -> None:
    local, global_ = (tensor.requires_grad_() for tensor in features(7, batch=1))
    loss = contrastive_loss(local, global_, "batch")
    gradients = torch.autograd.grad(loss, (local, global_))
    assert loss.item() == 0.0
    assert all((gradient == 0).all() for gradient in gradients)


@pytest.mark.parametrize("negatives", NEGATIVES)
def test_a_map_of_one_location_in_a_batch_of_one_has_no_negatives(negatives: Negatives) -> None:
    local, global_ = features(8, batch=1, side=1)
    loss = contrastive_loss(local, global_, negatives)
    assert loss.item() == 0.0


@pytest.mark.parametrize("negatives", NEGATIVES)
def test_gradient_agrees_with_finite_differences(negatives: Negatives) -> None:
    local, global_ = (tensor.requires_grad_() for tensor in features(9, batch=3, side=2))
    assert torch.autograd.gradcheck(
        lambda a, b: contrastive_loss(a, b, negatives), (local, global_)
    )


@pytest.mark.parametrize("negatives", NEGATIVES)
def test_autocast_and_memory_format_do_not_change_the_loss(negatives: Negatives) -> None:
    local, global_ = (tensor.float() for tensor in features(10, channels=64))
    plain = contrastive_loss(local, global_, negatives)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = contrastive_loss(local, global_, negatives)
    assert cast.dtype == torch.float32
    assert torch.equal(cast, plain)
    last = local.to(memory_format=torch.channels_last)
    torch.testing.assert_close(contrastive_loss(last, global_, negatives), plain)


def test_half_precision_features_are_scored_in_float32() -> None:
    local, global_ = (tensor.bfloat16() for tensor in features(11, channels=64))
    loss = contrastive_loss(local, global_)
    assert loss.dtype == torch.float32
    expected = contrastive_loss(local.double(), global_.double())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_largest_paper_setting_keeps_no_tensor_beyond_one_score_matrix() -> None:
    # 64×64 images: K = 512, M = 10. A row of negatives for each location would be 10 GB.
    local, global_ = torch.randn(32, 512, 10, 10), torch.randn(32, 512)
    saved: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = contrastive_loss(local.requires_grad_(), global_.requires_grad_())
    assert loss.isfinite()
    assert max(saved) <= max(local.numel(), 32 * 32 * 100)


def test_unknown_negatives_are_refused() -> None:
    local, global_ = features(12)
    with pytest.raises(InputError, match=r"'negatives' .* 'batch', 'self', 'all'.* Got 'own'"):
        contrastive_loss(local, global_, "own")  # type: ignore[arg-type]
