"""The load and the hostile scripts, shortened: `benchmarks/` holds what the figures come from."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="reads the memory of processes from /proc"
)


def result_of(script, *arguments):
    command = [sys.executable, BENCHMARKS / script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_many_clients_lose_no_answer_and_get_no_wrong_one(models):
    options = ["--clients", 8, "--images", 5, "--seconds", 2]
    result = result_of("service_load.py", models / "rda.onnx", *options)
    assert result["requests"] > 8
    assert (result["lost"], result["wrong"]) == (0, 0)
    assert result["images_per_batch"] > 1


def test_hostile_requests_are_refused_and_leave_the_service_healthy(models):
    options = ["--waves", "requests", "--requests", 150]
    result = result_of("service_hostile.py", models / "rda.onnx", *options)
    assert result["requests"] == 150
    assert len(result["outcomes"]) == 15
    assert result["problems"] == []
