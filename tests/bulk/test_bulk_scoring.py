"""Scoring on a Ray cluster of two workers, against scoring in one piece."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import psutil
import pytest
from PIL import Image

from adcgan import load
from adcgan.detectors import ADCGAN
from adcgan.errors import InputError

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.usefixtures("cluster"),
    # Ray Data reads settings of its own that it has deprecated.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),
]
ray = pytest.importorskip("ray")
pytest.importorskip("pyarrow")

from pyarrow import dataset  # noqa: E402

from adcgan.bulk import scoring  # noqa: E402
from adcgan.bulk.dispatch import score_shards  # noqa: E402
from adcgan.bulk.output import shard_name  # noqa: E402
from adcgan.bulk.scoring import score_in_bulk  # noqa: E402
from adcgan.bulk.worker import RETRIES, Attempts, LostWorkersError  # noqa: E402

SIZE = 16


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 2, "object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, connect=True, head_node_args=head)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    images = np.random.default_rng(0).integers(0, 256, (60, SIZE, SIZE), np.uint8)
    path = tmp_path_factory.mktemp("models") / "m1"
    settings = {"width": 0.0625, "warmup_epochs": 1, "epochs": 1, "min_steps": 0, "fpr": 0.2}
    ADCGAN(**settings).fit(images).save(path)
    return path


@pytest.fixture(scope="module")
def large_folder(tmp_path_factory):
    """Return 120 images of 5 that take a while to decode: time to kill something in."""
    root = tmp_path_factory.mktemp("large")
    random = np.random.default_rng(2)
    for i in range(5):
        pixels = random.integers(0, 256, (1200, 1200, 3), np.uint8)
        Image.fromarray(pixels).save(root / f".{i}.png", compress_level=1)
    for i in range(120):
        (root / f"{i:03d}.png").symlink_to(root / f".{i % 5}.png")
    return root


def rows(out):
    """Return the rows in the order of the shards."""
    return dataset.dataset(out, format="parquet").to_table().to_pylist()


def shard_scorers():
    """Return the processes that score, on the cluster that this one started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            title = " ".join(process.cmdline()[:1])
        except psutil.Error:
            continue
        if title.startswith("ray::") and "ShardScorer" in title:
            found.append(process)
    return found


def wait_for_shards(out, n, seconds=120):
    deadline = time.monotonic() + seconds
    while len(list(out.glob("shard-*.parquet"))) < n:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def command(model, data, out, address, *options):
    arguments = ["score", str(model), str(data), "--out", str(out), "--ray", address, *options]
    return [sys.executable, "-m", "adcgan", *arguments]


def test_rows_are_those_of_scoring_in_one_piece(model, folder, tmp_path):
    out = tmp_path / "out"
    outcome = score_in_bulk(model, str(folder), str(out), shard_size=40)
    found, expected = rows(out), load(model).assess(str(folder))
    assert [row["path"] for row in found] == expected.names
    assert [row["error"] or "" for row in found] == expected.errors
    scores = np.array([np.nan if row["score"] is None else row["score"] for row in found])
    # Batches of other sizes add float32 in another order, and how far that takes them is the
    # processor's: a few units in the last place of every sum.
    np.testing.assert_allclose(scores, expected.scores, rtol=1e-5)
    assert (outcome.n_images, outcome.n_shards) == (154, 4)
    assert (outcome.n_images_before, outcome.n_repeated) == (0, 0)
    assert outcome.summary.n_unreadable == 4

    again = score_in_bulk(model, str(folder), str(out), shard_size=40)
    assert (again.n_images_before, again.images_per_second) == (154, None)
    assert again.summary == outcome.summary
    with pytest.raises(InputError, match="its shard_size is 40, now it would be 2048"):
        score_in_bulk(model, str(folder), str(out))
    with pytest.raises(InputError, match="its threshold is"):
        score_in_bulk(model, str(folder), str(out), shard_size=40, fpr=0.5)
    with pytest.raises(InputError, match="its n_images is 154, now it would be 75"):
        score_in_bulk(model, str(folder / "a"), str(out), shard_size=40)
    other = load(model)
    other.threshold_ += 1
    other.save(tmp_path / "other")
    with pytest.raises(InputError, match="results of another run: its model is"):
        score_in_bulk(tmp_path / "other", str(folder), str(out), shard_size=40)


def test_a_killed_driver_s_command_goes_on(cluster, model, large_folder, tmp_path):
    out = tmp_path / "out"
    options = ("--shard-size", "4", "--json")
    driver = subprocess.Popen(command(model, large_folder, out, cluster.address, *options))
    wait_for_shards(out, 4)
    driver.send_signal(signal.SIGKILL)
    assert driver.wait() == -signal.SIGKILL
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("shard-*.parquet")}
    assert 4 <= len(before) < 30
    outcome = score_in_bulk(model, str(large_folder), str(out), shard_size=4)
    assert len(before) * 4 <= outcome.n_images_before < 120
    after = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert {name: after[name] for name in before} == before
    assert sorted(after) == ["_manifest.json", *(shard_name(i) for i in range(30))]
    found = rows(out)
    assert [row["path"] for row in found] == [f"{i:03d}.png" for i in range(120)]
    assert [row["error"] for row in found] == [None] * 120
    five = load(model).assess([Image.open(large_folder / f".{i}.png") for i in range(5)]).scores
    np.testing.assert_allclose([row["score"] for row in found], np.tile(five, 24), rtol=1e-5)


def test_a_killed_worker_loses_nothing(cluster, model, large_folder, tmp_path):
    out = tmp_path / "out"
    killed = []

    def kill():
        wait_for_shards(out, 1)
        # Some way into the next shard.
        time.sleep(0.3)
        killed.extend(shard_scorers()[:1])
        killed[0].kill()

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    options = ("--shard-size", "24", "--json")
    done = subprocess.run(
        command(model, large_folder, out, cluster.address, *options),
        capture_output=True,
        text=True,
        check=True,
    )
    thread.join()
    assert len(killed) == 1
    assert [row["path"] for row in rows(out)] == [f"{i:03d}.png" for i in range(120)]
    # Standard output is the result and nothing else, whatever Ray has to say of the loss.
    result = json.loads(done.stdout)
    assert (result["n_scored"], result["n_unreadable"], result["n_shards"]) == (120, 0, 5)
    assert (result["drift"]["n"], result["drift"]["share_above"]) == (
        120,
        result["n_anomalous"] / 120,
    )
    assert result["n_repeated"] >= 1


def test_a_shard_that_takes_its_workers_down_ends_the_run():
    attempts = ray.remote(num_cpus=0)(Attempts).remote()
    for _ in range(RETRIES + 1):
        ray.get(attempts.begin.remote(7))
    with pytest.raises(LostWorkersError, match="shard 7 were lost 6 times"):
        list(score_shards(ray.put(None), attempts, [7], None, 0))


def test_a_machine_that_does_not_see_the_images_is_named(model, folder, tmp_path, monkeypatch):
    listed = replace(scoring.list_images(str(folder)), root=str(tmp_path / "elsewhere"))
    monkeypatch.setattr(scoring, "list_images", lambda _: listed)
    with pytest.raises(InputError, match="every machine of the cluster") as caught:
        score_in_bulk(model, str(folder), str(tmp_path / "out"))
    assert os.uname().nodename in str(caught.value)


def test_a_gpu_is_asked_for_where_there_is_none(model, folder, tmp_path):
    with pytest.raises(InputError, match="the cluster has no GPU"):
        score_in_bulk(model, str(folder), str(tmp_path / "out"), gpus=0.5)


def test_workers_share_a_gpu_by_quarters(cluster, model, folder, tmp_path):
    # The GPU is one in name alone: Ray goes by what a machine says it has.
    node = cluster.add_node(num_cpus=2, num_gpus=1, object_store_memory=80 << 20)
    cluster.wait_for_nodes()
    free, done = set(), threading.Event()

    def watch():
        while not done.is_set():
            resources = ray.available_resources()
            free.add((resources.get("GPU", 0), resources.get("CPU", 0)))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    outcome = score_in_bulk(model, str(folder), str(tmp_path / "out"))
    done.set()
    thread.join()
    cluster.remove_node(node)
    assert outcome.n_images == 154
    assert (0.75, 3) in free


def test_a_local_cluster_is_started_for_the_command(model, folder, tmp_path):
    out = tmp_path / "out"
    done = subprocess.run(
        command(model, folder, out, "local", "--strict"), capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "150 images scored" in done.stdout
    # Images that it learned from score lower than held-out ones, which it says first.
    said = done.stderr.splitlines()[-1]
    assert said == f"error: 4 images cannot be read; their rows in {out} say why."
    assert len(rows(out)) == 154
