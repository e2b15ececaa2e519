from __future__ import annotations

import pytest
import torch

from adcgan.data.transformations import (
    TURNS,
    TURNS_AND_SHIFTS,
    WITH_MIRRORING,
    Task,
    Transformation,
    other_view,
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


def test_another_view_is_shifted_a_little_and_in_other_light() -> None:
    torch.manual_seed(0)
    x = 0.4 + 0.2 * torch.rand(1, 3, 16, 16).repeat(50, 1, 1, 1)
    view = other_view(x)
    assert view.shape == x.shape
    assert view.min() >= 0
    assert view.max() <= 1
    shifts = [(right, down) for right in range(-2, 3) for down in range(-2, 3)]
    inner = view[0, :, 4:-4, 4:-4].flatten()
    fits = [
        torch.corrcoef(
            torch.stack([inner, x[0].roll((down, right), (1, 2))[:, 4:-4, 4:-4].flatten()])
        )
        for right, down in shifts
    ]
    assert max(float(fit[0, 1]) for fit in fits) == pytest.approx(1, abs=1e-4)
    brightness = view.mean((1, 2, 3))
    assert 0.02 < brightness.std() < 0.2
    assert {float(other_view(x).sum()) for _ in range(3)} != {float(view.sum())}


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


def test_a_residual_block_learns_a_difference_from_its_input() -> None:
    block = WideBlock(8, 8, 1, dropout=0.0)
    torch.nn.init.zeros_(block.body[-1].weight)
    x = torch.randn(2, 8, 5, 5)
    assert torch.equal(block(x), x)
    assert WideBlock(8, 12, 2, dropout=0.0)(x).shape == (2, 12, 3, 3)
