from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest

from adcgan.benchmark.cells import Cell
from adcgan.benchmark.rows import read_rows
from adcgan.benchmark.sweep import sweep
from adcgan.errors import InputError

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore"),  # Ray's own
]
ray = pytest.importorskip("ray")

CELL = Cell(
    "digits",
    "one-vs-all",
    0,
    "adcgan",
    (("min_steps", 150), ("warmup_epochs", 1), ("width", 0.0625)),
    max_train=64,
    epochs=1,
)


@pytest.fixture
def cluster():
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.slow
def test_a_machine_lost_in_the_middle_loses_no_row(cluster, tmp_path):
    lost = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    cells = [replace(CELL, class_=c) for c in range(3)]

    def lose():
        # Two cells under way means that one of them is on the machine that goes.
        deadline = time.monotonic() + 200
        while len(list((tmp_path / "R").glob("cells/*"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        cluster.remove_node(lost, allow_graceful=False)

    thread = threading.Thread(target=lose)
    thread.start()
    outcome = sweep(cells, tmp_path / "R", ray=cluster.address, device="cpu")
    thread.join()
    assert outcome.failed == []
    assert len(read_rows(tmp_path / "R")) == 3
    alone = sweep(cells, tmp_path / "local", workers=1, device="cpu")
    assert [row["auroc"] for row in outcome.rows] == [row["auroc"] for row in alone.rows]


def test_an_address_without_a_cluster_is_refused(tmp_path):
    with pytest.raises(InputError, match="--ray must be the address of a running Ray cluster"):
        sweep([CELL], tmp_path / "R", ray="auto")
