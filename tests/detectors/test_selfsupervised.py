from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from adcgan import load, load_named
from adcgan.benchmark.metrics import auroc
from adcgan.data.transformations import TURNS_AND_SHIFTS
from adcgan.detectors import SelfSupervisedADCGAN
from adcgan.detectors.effort import EFFORTS
from adcgan.detectors.selfsupervised import COMPONENTS, WEIGHED, falling, informed
from adcgan.progress import Progress
from adcgan.training.cost import count_flops
from adcgan.training.optimizers import Optimizers

QUICK: dict[str, Any] = {"width": 0.125, "batch_size": 64, "fpr": 0.5, "device": "cpu"}


def digits(label: int, split: str = "train") -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return digits (n, 16, 16, 1) of a split, and which of them are `label`."""
    images = load_named("digits", split)
    assert images.labels is not None
    return images.images.transpose(0, 2, 3, 1), images.labels == label


@pytest.fixture(scope="module")
def fitted() -> SelfSupervisedADCGAN:
    images, normal = digits(4)
    return SelfSupervisedADCGAN(**QUICK, warmup_steps=5, epochs=1, min_steps=80).fit(images[normal])


def test_other_digits_score_higher(fitted: SelfSupervisedADCGAN) -> None:
    images, normal = digits(4, "test")
    labels = (~normal).astype(np.int64)
    assert auroc(labels, fitted.decision_function(images)) > 0.85
    components = fitted.score_components(images)
    assert tuple(components) == COMPONENTS
    for name in WEIGHED:
        assert auroc(labels, components[name]) > 0.7, name


def test_the_score_is_the_mean_of_three_components_on_the_scale_of_held_out_images(
    fitted: SelfSupervisedADCGAN,
) -> None:
    images = digits(4, "test")[0][:20]
    components, scale = fitted.score_components(images), fitted.model_.scale
    expected = sum(
        (components[name] - scale.location[name]) / scale.scale[name]
        for name in ("recognition", "neighbours", "typicality")
    )
    np.testing.assert_allclose(fitted.decision_function(images), np.asarray(expected) / 3)
    # Held-out images score about 0, whatever the components' units.
    assert abs(fitted.calibration_scores_.mean()) < 3


def test_what_scoring_compares_with_is_saved(fitted: SelfSupervisedADCGAN, tmp_path: Path) -> None:
    images = digits(4, "test")[0][:20]
    fitted.save(tmp_path / "model")
    loaded = load(tmp_path / "model", device="cpu")
    np.testing.assert_array_equal(
        loaded.decision_function(images), fitted.decision_function(images)
    )


def test_clusters_are_saved(tmp_path: Path) -> None:
    images, normal = digits(4)
    detector = SelfSupervisedADCGAN(**QUICK, warmup_steps=1, epochs=1, min_steps=20, n_clusters=3)
    detector.fit(images[normal])
    model = detector.model_
    dim = model.reference.shape[2]
    assert model.mean.shape == (4, 3, min(64, dim))
    detector.save(tmp_path / "model")
    some = digits(4, "test")[0][:20]
    expected = detector.decision_function(some)
    loaded = load(tmp_path / "model", device="cpu")
    np.testing.assert_array_equal(loaded.decision_function(some), expected)


def test_few_images_have_fewer_clusters() -> None:
    images, normal = digits(4)
    settings = {"warmup_steps": 1, "epochs": 1, "min_steps": 2, "n_clusters": 100}
    detector = SelfSupervisedADCGAN(**QUICK, **settings).fit(images[normal])
    model = detector.model_
    assert model.mean.shape[1] == model.reference.shape[1] // 40 > 1


def test_without_the_gan_nothing_of_it_is_trained() -> None:
    images, normal = digits(4)
    settings = {"adversarial": 0.0, "alpha": 0.0, "beta": 0.0}
    detector = SelfSupervisedADCGAN(**QUICK, **settings, warmup_steps=1, epochs=1, min_steps=2)
    detector.fit(images[normal][:60])
    named = {name for row in detector.history_ for name in row if "/" in name}
    assert named == {"critic/transformation", "autoencoder/reconstruction"}


def test_the_gan_takes_one_step_to_several_of_the_second_task(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    updates: Counter[tuple[str, ...]] = Counter()
    update = Optimizers.update

    def counted(self: Optimizers, name: str, losses: Mapping[str, torch.Tensor]) -> None:
        updates[(name, *losses)] += 1
        update(self, name, losses)

    monkeypatch.setattr(Optimizers, "update", counted)
    images, normal = digits(4)
    settings = {"warmup_steps": 0, "epochs": 1, "min_steps": 12, "critic_steps": 4}
    SelfSupervisedADCGAN(**QUICK, **settings).fit(images[normal][:100])
    assert updates == {
        ("critic", "transformation"): 9,
        ("critic", "transformation", "contrastive", "adversarial"): 3,
        ("generator", "adversarial", "contrastive"): 3,
        ("autoencoder", "reconstruction"): 3,
    }


def test_two_views_of_half_as_many_images_are_told_from_others() -> None:
    images, normal = digits(4)
    settings = {"adversarial": 0.0, "beta": 0.0, "warmup_steps": 0, "epochs": 1, "views": 0.3}
    detector = SelfSupervisedADCGAN(**QUICK, **settings, min_steps=100)
    losses = [row["critic/views"] for row in detector.fit(images[normal]).history_]
    # Of 32 images in two views; a guess among 63 others costs their logarithm.
    assert losses[-1] < min(losses[0], 0.3 * math.log(63))
    assert np.isfinite(detector.decision_function(images[:5])).all()


TINY: dict[str, Any] = {
    "width": 0.05,
    "batch_size": 16,
    "warmup_steps": 1,
    "epochs": 1,
    "min_steps": 6,
    "image_size": 32,
    "fpr": 0.5,
    "device": "cpu",
}


def test_quick_is_what_the_reference_was_made_with() -> None:
    names = ("trunk", "blocks", "width", "min_steps", "last_rate", "alike", "adversarial", "alpha")
    names += ("beta", "views", "shift", "critic_steps", "dropout", "n_clusters")
    small = ("paper", 1, 0.5, 600, 1, 16, 1, 0.3, 0.3, 0, 1 / 8, 1, 0.2, 1)
    large = ("small", 1, 0.25, 2000, 1, 16, 0.1, 0.03, 0.03, 0.3, 1 / 4, 4, 0, 1)
    for size, expected in [(16, small), (31, small), (32, large), (64, large), (256, large)]:
        assert SelfSupervisedADCGAN().for_size(size) == dict(zip(names, expected, strict=True))


def test_more_effort_takes_more_work() -> None:
    work = []
    for effort in EFFORTS:
        detector = SelfSupervisedADCGAN(effort=effort, device="cpu")
        recipe = detector.make_model((3, 32, 32)).recipe(1800, detector._accelerator(None, ()))
        work.append(recipe.phases[1].steps * count_flops(recipe, 1, (3, 32, 32)))
    assert 2 * work[0] < work[1] < work[2] / 2


def test_what_is_given_stands_whatever_the_effort() -> None:
    given = SelfSupervisedADCGAN(effort="thorough", trunk="small", views=0.0, min_steps=7)
    chosen, usual = given.for_size(32), SelfSupervisedADCGAN(effort="thorough").for_size(32)
    assert chosen == usual | {"trunk": "small", "views": 0, "min_steps": 7}


def test_the_announced_time_counts_that_the_gan_takes_part_now_and_then() -> None:
    detector = SelfSupervisedADCGAN(**TINY)
    accelerator = detector._accelerator(None, ())
    shape = (3, 32, 32)

    def counted(critic_steps: int) -> float:
        model = detector.set_params(critic_steps=critic_steps).make_model(shape)
        return count_flops(model.recipe(60, accelerator), 1, shape)

    always, third, ninth = counted(1), counted(3), counted(9)
    # A step is the critic's own and a share of the rest.
    rest = (third - ninth) / (1 / 3 - 1 / 9)
    assert rest > 0
    assert always == pytest.approx(ninth + rest * 8 / 9)


class StopAfter(Progress):
    """Interrupts training once so many steps are done."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def start(self, description: str, total: int) -> None: ...

    def advance(self, steps: int = 1, **_: Any) -> None:
        self.left -= steps
        if self.left == 0:
            raise KeyboardInterrupt

    def finish(self) -> None: ...


@pytest.mark.parametrize("effort", ["standard", "thorough"])
def test_a_run_of_any_effort_is_resumed_to_the_same_bytes_and_loaded(
    effort: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (40, 32, 32, 3), dtype=np.uint8)
    settings = TINY | {"critic_steps": 2}
    whole = SelfSupervisedADCGAN(**settings, effort=effort).fit(images)

    run = {"run_dir": tmp_path / "run", "checkpoint_every": 3}
    stopped = SelfSupervisedADCGAN(**settings, effort=effort)
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(images, progress=StopAfter(6), **run)
    resumed = stopped.fit(images, resume=True, **run)
    for name, tensor in whole.model_.state_dict().items():
        assert torch.equal(tensor, resumed.model_.state_dict()[name]), name
    np.testing.assert_array_equal(
        load(tmp_path / "run", device="cpu").decision_function(images[:5]),
        whole.decision_function(images[:5]),
    )


def test_all_transformations_are_told_apart_by_one_question() -> None:
    images, normal = digits(4)
    settings = {"questions": "together", "warmup_steps": 1, "epochs": 1, "min_steps": 4}
    detector = SelfSupervisedADCGAN(**QUICK, **settings, alike=1).fit(images[normal])
    assert len(detector.model_.critic.task.scored) == 36
    assert detector.model_.informed.shape == (1,)
    detector.model_.informed = torch.tensor([True])
    untrained = detector.score_components(images[:20])["recognition"]
    assert np.abs(untrained - math.log(36)).mean() < 1


def test_the_learning_rate_falls_to_its_last_share() -> None:
    rates = [falling(step, 100, 0.1) for step in range(101)]
    assert rates == sorted(rates, reverse=True)
    assert (rates[0], rates[50], rates[100]) == pytest.approx((1, 0.55, 0.1))
    detector = SelfSupervisedADCGAN(**TINY, last_rate=0.5)
    recipe = detector.make_model((3, 32, 32)).recipe(32, detector._accelerator(None, ()))
    recipe.optimizers.step = 7
    assert [float(o.param_groups[0]["lr"]) for o in recipe.optimizers.named.values()] == [
        pytest.approx(rate / 2) for rate in (1e-3, 3e-4, 1e-3)
    ]


def test_questions_count_that_are_answered_better_than_by_a_guess() -> None:
    torch.manual_seed(0)
    task = TURNS_AND_SHIFTS
    truth = torch.tensor([t[:3] for t in task.scored])
    assert informed((truth == truth).expand(50, -1, -1), task).tolist() == [True, True, True]
    # Most of the scored transformations do not shift, so "no shift" is right most of the time.
    assert informed((truth == 0).expand(50, -1, -1), task).tolist() == [False, False, False]
    answers = torch.stack([torch.randint(n, (500, len(truth))) for n in task.answers], 2)
    assert informed(answers == truth, task).tolist() == [False, False, False]
    answers[:, :, 0] = torch.where(torch.rand(500, len(truth)) < 0.1, truth[:, 0], answers[:, :, 0])
    assert informed(answers == truth, task).tolist() == [True, False, False]
    assert informed((truth == truth)[None], task).tolist() == [True, True, True]


def test_turns_have_no_weight_where_nothing_is_upright(tmp_path: Path) -> None:
    images, normal = digits(4)
    images = np.maximum.reduce([np.rot90(images[normal], turns, (1, 2)) for turns in range(4)])
    detector = SelfSupervisedADCGAN(**QUICK, warmup_steps=1, epochs=1, min_steps=40).fit(images)
    assert detector.model_.informed.tolist() == [False, True, True]
    shifted = detector.score_components(images[:5])["recognition"]
    detector.model_.informed = torch.tensor([True, True, True])
    assert (detector.score_components(images[:5])["recognition"] > shifted + 1).all()
    detector.save(tmp_path / "model")
    assert load(tmp_path / "model").model_.informed.tolist() == [True, True, True]
