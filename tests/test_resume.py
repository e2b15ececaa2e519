"""A run that is killed and resumed ends as if nothing had happened."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from adcgan import ADCGAN, InputError, load, load_named

SETTINGS = {
    "width": 0.06,
    "warmup_epochs": 2,
    "epochs": 10,
    "min_steps": 0,
    "fpr": 0.2,
    "device": "cpu",
}
SCRIPT = """
import json, sys
from adcgan import ADCGAN, load_named
digits = load_named("digits", "train")
ADCGAN(**json.loads(sys.argv[2])).fit(
    digits.select((digits.labels == 0).nonzero()[0]), run_dir=sys.argv[1], resume=True,
    checkpoint_every=3)
"""


def start(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder), json.dumps(SETTINGS)])


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()


def zeros() -> np.ndarray:
    digits = load_named("digits", "train")
    assert digits.labels is not None
    return digits.select(np.flatnonzero(digits.labels == 0))


def test_killed_three_times_and_resumed_is_byte_identical(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    ADCGAN(**SETTINGS).fit(zeros(), run_dir=whole)
    total = len((whole / "stats.jsonl").read_text().splitlines())
    rng = random.Random(0)
    checkpoint = broken / "checkpoint.safetensors"
    for _ in range(3):
        process = start(broken)
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        while process.poll() is None:
            # Wait until this run has written a checkpoint of its own, then a random moment more.
            if checkpoint.exists() and checkpoint.stat().st_mtime_ns != before:
                break
            time.sleep(0.002)
        time.sleep(rng.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "the run ended before it was killed"
        assert not (broken / "manifest.json").exists()
    ADCGAN(**SETTINGS).fit(zeros(), run_dir=broken, resume=True)
    assert digest(broken) == digest(whole)
    assert len((broken / "stats.jsonl").read_text().splitlines()) == total
    assert not checkpoint.exists()
    assert sorted(path.name for path in broken.iterdir()) == sorted(
        path.name for path in whole.iterdir()
    )
    images = zeros()
    np.testing.assert_array_equal(
        load(broken).decision_function(images), load(whole).decision_function(images)
    )


def test_resuming_a_finished_run_trains_nothing_and_scores_the_same(tmp_path: Path) -> None:
    quick = {**SETTINGS, "epochs": 1}
    first = ADCGAN(**quick).fit(zeros(), run_dir=tmp_path)
    written = (tmp_path / "weights.safetensors").stat().st_mtime_ns
    second = ADCGAN(**quick).fit(zeros(), run_dir=tmp_path, resume=True)
    assert (tmp_path / "weights.safetensors").stat().st_mtime_ns == written
    np.testing.assert_array_equal(first.decision_scores_, second.decision_scores_)
    assert second.threshold_ == first.threshold_


def test_resuming_with_other_settings_or_images_is_refused(tmp_path: Path) -> None:
    quick = {**SETTINGS, "epochs": 1}
    ADCGAN(**quick).fit(zeros(), run_dir=tmp_path)
    with pytest.raises(InputError, match=r"different settings: parameters.*lr"):
        ADCGAN(**quick, lr=1e-3).fit(zeros(), run_dir=tmp_path, resume=True)
    with pytest.raises(InputError, match=r"different settings: data"):
        ADCGAN(**quick).fit(zeros().select(np.arange(50)), run_dir=tmp_path, resume=True)


def test_a_damaged_checkpoint_is_an_error_that_names_it(tmp_path: Path) -> None:
    ADCGAN(**{**SETTINGS, "epochs": 1}).fit(zeros(), run_dir=tmp_path)
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "checkpoint.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(InputError, match=r"checkpoint\.safetensors"):
        ADCGAN(**{**SETTINGS, "epochs": 1}).fit(zeros(), run_dir=tmp_path, resume=True)


def test_resume_needs_a_folder() -> None:
    with pytest.raises(InputError, match="'resume' parameter needs 'run_dir'"):
        ADCGAN(**SETTINGS).fit(zeros(), resume=True)
