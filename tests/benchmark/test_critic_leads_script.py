"""benchmarks/critic_leads.py and its parts train and judge what they say, once each."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch


@pytest.fixture
def critic_leads(benchmark_script: Callable[[str], Any]) -> Any:
    """Return the script as a module."""
    return benchmark_script("critic_leads")


@pytest.fixture
def training(benchmark_script: Callable[[str], Any]) -> Any:
    """Return the module that trains critics."""
    return benchmark_script("critic_training")


@pytest.mark.slow
def test_each_lead_is_one_row_however_often_it_is_asked_for(
    critic_leads: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "rows.jsonl"
    asked = ["critic_leads.py", "--dataset", "digits", "--classes", "4", "--steps", "2"]
    asked += ["--width", "0.05", "--out", str(file), "--leads"]
    for leads, more in (
        ("muon", []),
        ("muon,centre-loss", []),
        ("one-question-no-views,averaged-weights,shifted-negatives", ["--bf16"]),
        ("whitened-start,identity-start", ["--crops"]),
        ("weight-decay,dropout", []),
    ):
        monkeypatch.setattr(sys, "argv", [*asked, leads, *more])
        critic_leads.main()
        # As if a setting had come after these rows.
        file.write_text(file.read_text().replace('"decay": 0.0, ', ""))
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    names = ["muon", "centre-loss", "one-question-no-views", "averaged-weights"]
    names += ["shifted-negatives", "whitened-start", "identity-start", "weight-decay", "dropout"]
    assert [row["name"] for row in rows] == names
    for row in rows:
        assert {"Dirichlet, all", "score, logit", "neighbours, all"} <= row["auroc"].keys()
        assert ("score, crops" in row["auroc"]) == row["name"].endswith("-start")
        assert all(0 <= figure <= 100 for figure in row["auroc"].values())
        assert row["commit"]
        assert f"--leads {row['name']} " in row["command"]
        assert row["command"].endswith(" --width 0.05")
        assert (" --bf16" in row["command"]) == (row["lead"]["precision"] == "bf16")
    assert len({json.dumps(row["auroc"]) for row in rows}) == len(rows)
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["critic_leads.py", "--table", str(file)])
    critic_leads.main()
    assert capsys.readouterr().out.count("\n") == 2 + len(rows)


def test_a_critic_that_learned_finds_other_digits(critic_leads: Any) -> None:
    torch.manual_seed(0)
    lead = critic_leads.Lead(trunk="paper", width=0.125, views=0.0)
    found = critic_leads.measure(lead, "digits", 4, 60, 0)
    assert found["auroc"]["score"] > 80
    assert found["auroc"]["Dirichlet"] > 65


def test_images_mirrored_at_random_leave_the_critic_three_questions(training: Any) -> None:
    images = torch.randint(0, 256, (32, 3, 32, 32), dtype=torch.uint8)
    for together, answers in ((False, (4, 3, 3)), (True, (36,))):
        lead = training.Lead(trunk="small", width=0.05, mirrored="drawn", together=together)
        critic = training.train(lead, images, 2, 0).critic
        assert critic.task.answers == answers
        assert critic.answers(critic.global_features_of(images[:2] / 255)).shape == (
            2,
            sum(answers),
        )


def test_about_half_of_the_images_are_mirrored(training: Any) -> None:
    torch.manual_seed(0)
    images = torch.rand(100, 1, 4, 4)
    found = training.mirrored_at_random(images)
    kept, turned = ((found == x).flatten(1).all(1) for x in (images, images.flip(3)))
    assert torch.equal(kept, ~turned)
    assert 30 < int(turned.sum()) < 70


def test_the_fitted_dirichlet_distribution_is_the_one_drawn_from(
    benchmark_script: Callable[[str], Any],
) -> None:
    parameters = np.array([8.0, 0.7, 2.0, 0.3])
    drawn = np.random.default_rng(0).dirichlet(parameters, 20_000)
    log_p = torch.from_numpy(np.log(np.maximum(drawn, 1e-30)))
    found = benchmark_script("critic_scores").fitted_dirichlet(log_p)
    np.testing.assert_allclose(found.numpy(), parameters, rtol=0.05)


def test_steps_of_muon_are_about_orthogonal(training: Any) -> None:
    torch.manual_seed(0)
    for shape in [(8, 40), (40, 8)]:
        step = training._orthogonal(torch.randn(shape) + 3)
        lengths = torch.linalg.svdvals(step)
        assert lengths.min() > 0.3
        assert lengths.max() < 1.5


def test_a_whitened_start_makes_outputs_that_are_uncorrelated(training: Any) -> None:
    torch.manual_seed(0)
    smooth = torch.nn.functional.avg_pool2d(torch.rand(64, 3, 34, 34), 3, 1)
    images = (255 * smooth).to(torch.uint8)
    convolution = torch.nn.Conv2d(3, 16, 3, bias=False)
    training.begin(torch.nn.Sequential(convolution), "whitened", images)
    made = convolution(images.float() / 255).transpose(0, 1).flatten(1)
    spread = torch.cov(made)
    assert (spread - torch.diag(spread.diag())).abs().max() < 0.02
    assert spread.diag().min() > 0.3
    assert spread.diag().max() <= 1.01


def test_an_identity_start_passes_maps_on(training: Any) -> None:
    first, second = torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 6, 3, padding=1, bias=False)
    training.begin(torch.nn.Sequential(first, second), "identity", torch.zeros(1))
    x = torch.rand(2, 4, 8, 8)
    assert torch.equal(second(x)[:, :4], x)
