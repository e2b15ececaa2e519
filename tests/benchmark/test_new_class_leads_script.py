"""benchmarks/new_class_leads.py: critics that learned without a class, judged by many scores."""

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
def leads(benchmark_script: Callable[[str], Any]) -> Any:
    """Return the script as a module."""
    return benchmark_script("new_class_leads")


@pytest.mark.slow
def test_a_lead_is_a_row_for_each_pair_however_often_it_is_asked_for(
    leads: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "rows.jsonl"
    asked = ["new_class_leads.py", "--dataset", "digits", "--classes", "3,8", "--steps", "20"]
    asked += ["--width", "0.1", "--out", str(file), "--leads"]
    for names in ("10-clusters", "10-clusters,standard"):
        monkeypatch.setattr(sys, "argv", [*asked, names])
        leads.main()
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(row["settings"]["lead"], row["class"], row["other"]) for row in rows] == [
        ("10-clusters", 3, 8),
        ("10-clusters", 8, 3),
        ("standard", 3, 8),
        ("standard", 8, 3),
    ]
    for row in rows:
        learned = {"no cluster"} <= row["left_out"].keys()
        assert learned == (row["settings"]["lead"] == "10-clusters")
        assert {
            "score",
            "score, logit, 20 Gaussians",
            "neighbours, relative",
            "20 Gaussians",
            "map, places",
        } <= row["normal"].keys()
        assert row["left_out"]["neighbours"] > row["normal"]["neighbours"] + 5
        assert row["command"].endswith(f"--leads {row['settings']['lead']} --width 0.1")
        assert row["commit"]
    assert "| mean | neighbours, relative |" in capsys.readouterr().out


def test_what_lies_off_every_cluster_is_far_by_every_score_of_features(
    leads: Any, benchmark_script: Callable[[str], Any]
) -> None:
    rng = np.random.default_rng(0)
    centres = np.eye(8)[:4]
    directions = np.repeat(centres, 50, axis=0) + 0.02 * rng.standard_normal((200, 8))
    known = torch.nn.functional.normalize(torch.from_numpy(directions).float())
    normal = torch.nn.functional.normalize(
        torch.from_numpy(centres + 0.02 * rng.standard_normal((4, 8))).float()
    )
    between = torch.nn.functional.normalize(torch.from_numpy(centres + centres[[1, 2, 3, 0]]))
    seen = torch.cat([normal, between.float()])
    of_critic_scores = benchmark_script("critic_scores")
    found = of_critic_scores.density_scores(seen[None], known[None], of_critic_scores.CLUSTERS)
    for name, values in (leads.of_features(seen, known) | found).items():
        assert values[4:].min() > 2 * values[:4].max(), name


def test_a_critic_learns_its_clusters_only_where_it_is_asked_to(leads: Any) -> None:
    images = torch.randint(0, 256, (64, 1, 28, 28), dtype=torch.uint8)
    for clusters in (0, 3):
        lead = leads.Lead(trunk="paper", width=0.05, clusters=clusters)
        critic, cluster = leads.train(lead, images, 4, 0)
        assert not critic.training
        assert (cluster is None) == (clusters == 0)
        found = leads.scores(leads.Trained(critic, cluster), images[:8], images)
        assert ("no cluster" in found) == (clusters > 0)
        assert all(values.shape == (8,) for values in found.values())


def test_one_class_alone_is_refused(
    leads: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for told in (["--classes", "3"], ["--leads", "no-such"]):
        monkeypatch.setattr(
            sys, "argv", ["new_class_leads.py", *told, "--out", str(tmp_path / "r")]
        )
        with pytest.raises(SystemExit):
            leads.main()
    assert "two at least" in capsys.readouterr().err
