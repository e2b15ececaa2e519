from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest

from adcgan.benchmark.cells import Cell
from adcgan.benchmark.rows import read_rows
from adcgan.benchmark.runner import attempt
from adcgan.benchmark.sweep import sweep
from adcgan.cluster import connected

pytestmark = [pytest.mark.ray, pytest.mark.slow]
ray = pytest.importorskip("ray")

CELL = Cell(
    "digits",
    "one-vs-all",
    0,
    "adcgan",
    (("fpr", 0.2), ("min_steps", 60), ("warmup_epochs", 1), ("width", 0.0625)),
    max_train=64,
    epochs=1,
)
STORE = 80 << 20


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    # A machine that is lost is missed within seconds.
    quick = {"health_check_period_ms": 500, "health_check_failure_threshold": 2}
    head = {"num_cpus": 1, "object_store_memory": STORE, "_system_config": quick}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def wait_until(condition, seconds=200):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_machine_lost_in_the_middle_loses_no_row(cluster, tmp_path):
    lost = cluster.add_node(num_cpus=1, object_store_memory=STORE)
    cluster.wait_for_nodes()
    cells = [replace(CELL, class_=c) for c in range(2)]

    def lose():
        # Both cells under way means that one of them is on the machine that goes.
        wait_until(lambda: len(list(tmp_path.glob("R/cells/*/run.json"))) == 2)
        cluster.remove_node(lost, allow_graceful=False)

    thread = threading.Thread(target=lose, daemon=True)
    thread.start()
    outcome = sweep(cells, tmp_path / "R", ray=cluster.address, device="cpu")
    thread.join()
    assert outcome.failed == []
    assert len(read_rows(tmp_path / "R")) == 2
    (tmp_path / "alone").mkdir()
    alone = [attempt(cell, tmp_path / "alone", "cpu") for cell in cells]
    assert [row["auroc"] for row in outcome.rows] == [row["auroc"] for row in alone]


def test_two_cells_share_a_gpu(cluster, tmp_path):
    # The GPU is one in name alone: Ray goes by what a machine says it has.
    node = cluster.add_node(num_cpus=2, num_gpus=1, object_store_memory=STORE)
    cluster.wait_for_nodes()
    cells = [
        replace(CELL, class_=c, settings=(), detector="pixel-pca", epochs=None) for c in (0, 1)
    ]
    free, done = set(), threading.Event()

    def watch():
        wait_until(ray.is_initialized)
        while not done.is_set():
            resources = ray.available_resources()
            free.add((resources.get("GPU", 0), resources.get("CPU", 0)))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    with connected(cluster.address):
        outcome = sweep(cells, tmp_path / "R", ray=cluster.address)
        done.set()
        thread.join()
    cluster.remove_node(node)
    assert outcome.failed == []
    # With both under way, all of the GPU is taken, and two of the three cores.
    assert (0, 1) in free
