"""Detectors compared on normal images: what is held out, the time, the order and the advice."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from adcgan import DETECTORS, InputError, compare, load, load_images, load_named
from adcgan.cli import app
from adcgan.selection.candidates import Budget, TooLongError, candidates, shortened
from adcgan.selection.comparing import run
from adcgan.selection.comparison import Comparison, ranked_by
from adcgan.selection.judging import held_out, judged_images

QUICK = ["pixel-pca", "patch-pca"]


def digits(*numbers: int) -> NDArray[np.uint8]:
    found = load_named("digits", "train")
    assert found.labels is not None
    return found.images[np.isin(found.labels, numbers), 0]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 40 photographs, 140 × 180, of brushed metal."""
    folder, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for i in range(40):
        pixels = 110 + rng.normal(0, 12, (140, 1)) + rng.normal(0, 4, (140, 180))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
    return folder


def test_a_fifth_is_held_out_and_never_learned_from(photographs: Path) -> None:
    seen: list[set[str]] = []

    def watched(image_size: int | None, resize: str) -> Any:
        images = load_images(photographs, image_size=image_size, resize=resize)

        class Watched(type(images)):  # type: ignore[misc]
            def select(self, index: Any) -> Any:
                chosen = super().select(index)
                seen.append(set(chosen.names))
                return chosen

        return Watched(**vars(images))

    images = load_images(photographs, resize="keep")
    learned, judged = held_out(images, 0)
    assert len(judged) == 8
    assert sorted([*learned, *judged]) == list(range(40))
    run(
        watched,
        None,
        minutes=1,
        detectors=QUICK,
        folder=None,
        resume=False,
        settings={"fpr": 0.2, "random_state": 0, "device": "cpu"},
    )
    assert seen == 2 * [{images.names[i] for i in learned}]


def test_large_photographs_are_judged_in_smaller_numbers() -> None:
    def count(side: int) -> int:
        images = load_images(np.zeros((200, 16, 16), np.uint8))
        object.__setattr__(images, "images", np.broadcast_to(np.uint8(0), (200, 3, side, side)))
        return len(held_out(images, 0)[1])

    assert count(64) == 40
    assert 8 <= count(1024) < 20


def test_photographs_are_ranked_by_defects_and_the_best_is_ready_to_score(
    photographs: Path, tmp_path: Path
) -> None:
    found = compare(photographs, detectors=QUICK, minutes=1, out=tmp_path, fpr=0.2, device="cpu")
    assert found.by == "defects"
    first, second = found.table
    assert first["defects"] >= second["defects"]
    assert first["detector"] in found.advice
    assert found.detector is not None
    assert found.detector.name == first["detector"]
    kept = load(tmp_path / "model")
    pixels = load_images(photographs, resize=kept.resize, image_size=kept.target_.size)
    expected = found.detector.decision_function(pixels)
    np.testing.assert_allclose(kept.decision_function(pixels), expected, rtol=1e-5)


def test_small_images_are_ranked_by_contents_and_by_own_anomalies_where_there_are_ten() -> None:
    alone = compare(digits(0), detectors=QUICK, minutes=1, fpr=0.2, device="cpu")
    assert alone.by == "contents"
    assert alone.table[0]["own"] is None
    beside = compare(digits(0), digits(6), detectors=QUICK, minutes=1, fpr=0.2, device="cpu")
    assert beside.by == "own"
    assert beside.ranking[0]["own"]["anomalous"]["auroc"] > 0.9
    # The same defects, and so the same figures, whoever brings anomalies.
    for kind in ("defects", "contents"):
        assert beside.ranking[0][kind] == next(
            row[kind] for row in alone.rows if row["detector"] == beside.ranking[0]["detector"]
        )


def test_from_photographs_to_a_verdict_in_two_commands(photographs: Path, tmp_path: Path) -> None:
    # All candidates, those that are trained too, in the time that they are given.
    out, scores = tmp_path / "comparison", tmp_path / "scores.csv"
    command = ["compare", photographs, "--minutes", "0.2", "--out", out, "--device", "cpu"]
    compared = CliRunner().invoke(app, [str(part) for part in command])
    assert compared.exit_code == 0, compared.output
    assert "Take " in compared.stderr or "None of these detectors" in compared.stderr
    rows = json.loads((out / "comparison.json").read_text())["rows"]
    assert {row["detector"] for row in rows} == set(candidates())
    page = (out / "report.html").read_text()
    assert "Kinds of anomalies" in page
    assert all(row["detector"] in page for row in rows)
    scored = CliRunner().invoke(
        app, ["score", str(out / "model"), str(photographs), "--out", str(scores)]
    )
    assert scored.exit_code == 0, scored.output
    assert len(scores.read_text().splitlines()) == 41


@pytest.mark.matrix
def test_a_comparison_that_is_killed_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "comparison"
    command = [sys.executable, "-m", "adcgan", "compare", "digits", "--normal", "0"]
    command += ["--out", str(out), "--detectors", "pixel-pca,rda", "--minutes", "0.2"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    begun = out / "candidates" / "rda" / "run.json"
    while not begun.exists() and process.poll() is None:
        time.sleep(0.05)
    process.kill()
    process.wait()
    before = json.loads((out / "comparison.json").read_text())
    assert [row["detector"] for row in before["rows"]] == ["pixel-pca"]
    done = subprocess.run([*command, "--resume"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    after = json.loads((out / "comparison.json").read_text())
    assert after["rows"][0] == before["rows"][0]
    assert after["rows"][1]["error"] is None
    # With the settings that its share of the time had decided at first.
    assert after["begun"] == before["begun"]


def test_what_candidates_are_ranked_by() -> None:
    assert ranked_by(None, (3, 256, 384), 0) == "defects"
    assert ranked_by(None, (3, 32, 32), 9) == "contents"
    assert ranked_by(None, (3, 256, 384), 10) == "own"
    assert ranked_by("contents", (3, 256, 384), 10) == "contents"
    with pytest.raises(InputError, match="look_for"):
        ranked_by("cracks", (3, 256, 384), 0)


def test_a_comparison_goes_on_with_what_is_missing(photographs: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"minutes": 1, "out": tmp_path, "fpr": 0.2, "device": "cpu"}
    first = compare(photographs, detectors=["pixel-pca"], **options)
    both = compare(photographs, detectors=QUICK, resume=True, **options)
    # Rows are taken as they are, the time of learning too.
    assert both.rows[0] == json.loads(json.dumps(first.rows[0]))
    assert [row["detector"] for row in both.rows] == QUICK
    with pytest.raises(InputError, match="with other seed"):
        compare(photographs, detectors=QUICK, resume=True, seed=1, **options)


def test_training_is_shortened_to_the_time_and_left_out_where_next_to_nothing_is_left() -> None:
    images = load_images(digits(0))
    detector = DETECTORS["adcgan-ss"](device="cpu", width=0.1)
    cost = detector.fit_cost(images)
    assert cost is not None
    effort = shortened(detector, images, cost.seconds / 4)
    assert effort.steps is not None
    # The machine's speed is measured anew, and noisy.
    assert 0.05 < effort.steps < 0.8
    shorter = detector.set_params(**effort.settings).fit_cost(images)
    assert shorter is not None
    assert shorter.steps < 0.9 * cost.steps
    with pytest.raises(TooLongError, match="left out"):
        shortened(DETECTORS["adcgan"](device="cpu", width=0.1), images, 0.01)


def test_what_trains_no_networks_learns_from_as_many_images_as_there_is_time_for() -> None:
    images = load_images(digits(0, 1, 2, 3))
    detector = DETECTORS["pixel-iforest"](device="cpu")
    assert shortened(detector, images, 1000).n_images == len(images)
    assert 32 <= shortened(detector, images, 1).n_images < len(images)
    with pytest.raises(TooLongError, match="learning would take"):
        shortened(detector, images, 1e-3)


def test_time_that_is_not_used_goes_to_the_others() -> None:
    budget = Budget(60, 3)
    assert 19 < budget.next_share() <= 20
    assert 29 < budget.next_share() <= 30
    assert 59 < budget.next_share() <= 60


def test_a_candidate_that_fails_does_not_stop_the_others() -> None:
    found = compare(digits(0), detectors=["pixel-pca", "adcgan"], minutes=0.01, device="cpu")
    assert [row["detector"] for row in found.table] == ["pixel-pca", "adcgan"]
    assert "left out" in found.table[1]["error"]
    assert "pixel-pca" in found._repr_html_()


def test_chance_is_called_chance() -> None:
    found = Comparison({"images": {"anomalies": 0}}, "defects")
    kind = {"auroc": 0.52, "auroc_ci95": [0.4, 0.6], "n": 10, "caught": 0.1}
    row = {"detector": "pixel-pca", "defects": {"crack": kind}, "contents": {"bent": kind}}
    found.add({**row, "own": {}, "smallest": None, "error": None}, None)
    assert "None of these detectors is much better than chance" in found.advice


def test_wrong_input_is_refused() -> None:
    with pytest.raises(InputError, match="at least 12"):
        compare(digits(0)[:11], detectors=QUICK)
    with pytest.raises(InputError, match="'detectors'"):
        compare(digits(0), detectors=["pca"])
    with pytest.raises(InputError, match="'minutes'"):
        compare(digits(0), detectors=QUICK, minutes=0)
    with pytest.raises(InputError, match="fpr"):
        compare(digits(0), detectors=QUICK, fpr=2)


def test_candidates_are_those_that_say_so() -> None:
    names = candidates()
    assert {"pixel-pca", "patch-pca", "adcgan-ss", "adcgan-local"} <= set(names)
    assert "adcgan" not in names


def test_judged_defects_are_the_same_for_all_and_of_every_size() -> None:
    images = load_images(digits(0))
    _, judged = held_out(images, 0)
    one, two = (judged_images(images, judged, None, 0) for _ in range(2))
    for kind, found in one.defects.items():
        assert all(np.array_equal(a, b) for a, b in zip(found, two.defects[kind], strict=True))
        assert set(one.size[kind]) == {0.5, 1, 2}
