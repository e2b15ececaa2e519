from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from adcgan import load, load_named

SCRIPT = """
import hashlib, json, os, sys
from adcgan import ADCGAN, load_named
digits = load_named("digits", "train")
detector = ADCGAN(width=0.06, warmup_epochs=1, epochs=2, min_steps=0, fpr=0.2, device="cpu")
detector.fit(digits.select((digits.labels == 0).nonzero()[0]), run_dir=sys.argv[1])
digest = hashlib.sha256()
for value in detector.model_.state_dict().values():
    digest.update(value.numpy().tobytes())
with open(os.path.join(sys.argv[1], "rank" + os.environ["RANK"]), "w") as file:
    json.dump([digest.hexdigest(), os.environ["WORLD_SIZE"]], file)
"""


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path: Path) -> None:
    script = tmp_path / "fit.py"
    script.write_text(SCRIPT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command = [*launch, "--master-port", str(port), str(script), str(tmp_path / "model")]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr[-3000:]
    ranks = [json.loads((tmp_path / "model" / f"rank{rank}").read_text()) for rank in (0, 1)]
    # Averaged gradients and running statistics: both processes hold the same weights.
    assert ranks[0] == ranks[1]
    assert ranks[0][1] == "2"
    digits = load_named("digits", "test")
    assert np.isfinite(load(tmp_path / "model").decision_function(digits)).all()
