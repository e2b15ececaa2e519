from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from adcgan.data.transformations import (
    TURNS,
    TURNS_AND_SHIFTS,
    WITH_MIRRORING,
    Task,
    Transformation,
    Transformer,
    asked_together,
)
from adcgan.networks import SelfSupervisedCritic
from adcgan.networks.residual import WideBlock


def picture() -> torch.Tensor:
    return torch.arange(2 * 3 * 16 * 16).reshape(2, 3, 16, 16).float()


@pytest.mark.parametrize("turns", range(4))
def test_turns_are_those_of_rot90(turns: int) -> None:
    x = picture()
    assert torch.equal(Transformation(turns)(x, 1 / 8), torch.rot90(x, turns, (2, 3)))


def test_shifts_move_by_a_share_of_the_side_and_reflect_what_they_uncover() -> None:
    x = picture()
    right = Transformation(right=1)(x, 1 / 8)
    assert torch.equal(right[..., 2:], x[..., :-2])
    assert torch.equal(right[..., :2], x[..., 1:3].flip(3))
    left, down, up = (Transformation(right=2), Transformation(down=1), Transformation(down=2))
    assert torch.equal(left(x, 1 / 8)[..., :-2], x[..., 2:])
    assert torch.equal(down(x, 1 / 8)[..., 2:, :], x[..., :-2, :])
    assert torch.equal(up(x, 1 / 8)[..., :-2, :], x[..., 2:, :])
    # In whole pixels, and at least one.
    assert torch.equal(Transformation(right=1)(x, 0.13), right)
    assert torch.equal(Transformation(right=1)(x, 0.01)[..., 1:], x[..., :-1])


def test_mirroring_comes_before_the_shift_and_the_shift_before_the_turn() -> None:
    x = picture()
    assert torch.equal(Transformation(mirrored=1)(x, 1 / 4), x.flip(3))
    shifted = Transformation(right=1, down=2)(x.flip(3), 1 / 4)
    assert torch.equal(Transformation(1, 1, 2, 1)(x, 1 / 4), torch.rot90(shifted, 1, (2, 3)))


TASKS = [TURNS_AND_SHIFTS, WITH_MIRRORING, asked_together(WITH_MIRRORING)]


def transformer(task: Task, alike: int) -> Transformer:
    return Transformer(task, 16, 1 / 4, alike, torch.device("cpu"))


@pytest.mark.parametrize("alike", [1, 16])
@pytest.mark.parametrize("task", TASKS, ids=["without mirroring", "with mirroring", "together"])
def test_a_transformation_and_its_answer_belong_together(task: Task, alike: int) -> None:
    torch.manual_seed(0)
    x = torch.rand(141, 2, 16, 16)
    changed, truth = transformer(task, alike)(x)
    assert truth.shape == (len(x), len(task.answers))
    for image, original, answer in zip(changed, x, truth.tolist(), strict=True):
        done = task.transformations[answer[0]] if task.together else Transformation(*answer)
        assert torch.equal(image, done(original[None], 1 / 4)[0])
        assert task.truth([done]).tolist() == [answer]
    rows = [truth[i : i + alike].unique(dim=0) for i in range(0, len(x), alike)]
    assert all(len(row) == 1 for row in rows)
    assert len(torch.cat(rows).unique(dim=0)) > min(len(rows), 18) / 2


def test_every_transformation_is_drawn_equally_often() -> None:
    torch.manual_seed(0)
    task = asked_together(WITH_MIRRORING)
    assert len(set(task.transformations)) == task.answers[0] == 72
    _, truth = transformer(task, 1)(torch.rand(72 * 200, 1, 16, 16))
    counts = truth.flatten().bincount(minlength=72).float()
    assert ((counts - 200).square() / 200).sum() < 125  # χ² with 71 degrees of freedom, 1e-4


class NothingRead(TorchDispatchMode):
    """Refuses operations that make the host wait for the device, and counts the others."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in (
            torch.ops.aten._local_scalar_dense.default,
            torch.ops.aten.nonzero.default,
        )
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_what_is_drawn_is_never_read_and_a_batch_takes_as_many_operations_as_an_image() -> None:
    transform = transformer(WITH_MIRRORING, 1)
    counts = []
    for n in (1, 64):
        make: Callable[[], NothingRead] = NothingRead
        with make() as counting:
            transform.in_two_views(torch.rand(n, 3, 16, 16))
        counts.append(counting.count)
    assert counts[0] == counts[1]


@pytest.mark.parametrize("alike", [1, 16])
def test_another_view_is_shifted_a_little_and_in_other_light(alike: int) -> None:
    torch.manual_seed(0)
    x = 0.4 + 0.2 * torch.rand(1, 3, 16, 16).repeat(50, 1, 1, 1)
    both, truth = transformer(TURNS_AND_SHIFTS, alike).in_two_views(x)
    turned, view = both.chunk(2)
    assert torch.equal(*truth.chunk(2))
    assert view.shape == x.shape
    assert view.min() >= 0
    assert view.max() <= 1
    shifts = [(right, down) for right in range(-2, 3) for down in range(-2, 3)]
    found = set()
    for one, other in zip(turned[:20], view[:20], strict=True):
        inner = other[:, 4:-4, 4:-4].flatten()
        fits = [
            torch.corrcoef(
                torch.stack([inner, one.roll((down, right), (1, 2))[:, 4:-4, 4:-4].flatten()])
            )[0, 1]
            for right, down in shifts
        ]
        assert max(map(float, fits)) == pytest.approx(1, abs=1e-4)
        found.add(shifts[int(torch.stack(fits).argmax())])
    assert (len(found) == 1) == (alike > 1)
    assert 0.02 < view.mean((1, 2, 3)).std() < 0.2


@pytest.mark.parametrize("task", [TURNS_AND_SHIFTS, WITH_MIRRORING])
def test_the_score_takes_each_turn_with_at_most_one_other_change(task: Task) -> None:
    changes = {t[1:] for t in task.scored}
    assert len(set(task.scored)) == len(task.scored) == 4 * len(changes)
    assert set(TURNS) <= set(task.scored)
    assert all(sum(change > 0 for change in t[1:]) <= 1 for t in task.scored)
    # Every answer is right at some time, and so every question can be judged.
    for question, answers in enumerate(task.answers):
        assert {t[question] for t in task.scored} == set(range(answers))


@pytest.mark.parametrize(("size", "task"), [(28, TURNS_AND_SHIFTS), (32, WITH_MIRRORING)])
def test_the_critic_answers_every_question(size: int, task: Task) -> None:
    critic = SelfSupervisedCritic(1, size, width=0.125).eval()
    assert critic.task == task
    global_ = critic.global_features_of(torch.rand(3, 1, size, size))
    assert global_.shape == (3, critic.global_features)
    assert critic.answers(global_).shape == (3, sum(task.answers))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [16, 28, 32, 33, 64, 100, 256])
def test_the_critic_sees_images_of_every_size(size: int, channels: int) -> None:
    critic = SelfSupervisedCritic(channels, size, width=0.05)
    assert critic.is_residual == (size >= 32)
    features = critic(torch.rand(2, channels, size, size))
    assert features.logit.shape == (2,)
    assert features.local.shape[:2] == (2, critic.local_channels)
    assert features.local.shape[2] == features.local.shape[3] >= 3
    assert critic.project(features.global_).shape == (2, critic.local_channels)


@pytest.mark.parametrize("size", [32, 33, 64, 128, 256])
def test_the_residual_trunk_works_on_small_maps_whatever_the_image(size: int) -> None:
    critic = SelfSupervisedCritic(1, size, width=0.05)
    side = critic(torch.rand(2, 1, size, size)).local.shape[2]
    assert 5 <= side <= 9


@pytest.mark.parametrize(("size", "local"), [(16, 8), (28, 14), (32, 16), (64, 32), (100, 25)])
def test_the_full_trunk_works_at_the_resolution_of_the_image_up_to_64_px(
    size: int, local: int
) -> None:
    critic = SelfSupervisedCritic(1, size, width=0.05, trunk="full")
    assert critic(torch.rand(2, 1, size, size)).local.shape[2:] == (local, local)


def test_at_half_width_the_full_trunk_is_a_wide_residual_network_10_4() -> None:
    critic = SelfSupervisedCritic(3, 32, width=0.5, trunk="full")
    weights = [p for part in (critic.trunk, critic.last_block) for p in part.parameters()]
    # Zagoruyko and Komodakis (2016), Table 1: 3×3 convolutions and the 1×1 of each skip.
    widths = (16, 64, 128, 256)
    expected = 3 * 16 * 9 + sum(9 * a * b + 9 * b * b + a * b for a, b in pairwise(widths))
    assert sum(p.numel() for p in weights if p.dim() == 4) == expected
    deeper = SelfSupervisedCritic(3, 32, width=0.5, trunk="full", blocks=2)
    more = sum(p.numel() for p in deeper.parameters()) - sum(p.numel() for p in critic.parameters())
    assert more == sum(2 * 9 * b * b + 4 * b for b in widths[1:])


def test_a_residual_block_learns_a_difference_from_its_input() -> None:
    block = WideBlock(8, 8, 1, dropout=0.0)
    torch.nn.init.zeros_(block.body[-1].weight)
    x = torch.randn(2, 8, 5, 5)
    assert torch.equal(block(x), x)
    assert WideBlock(8, 12, 2, dropout=0.0)(x).shape == (2, 12, 3, 3)
