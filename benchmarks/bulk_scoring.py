"""Score 100,000 images on a local Ray cluster of two nodes while a worker is killed.

Writes MNIST and Fashion-MNIST as PNG files, a few of them broken, runs ``adcgan score --ray`` on
them, kills a worker after a third of the shards, and checks that each file has one row and that a
sample's rows are those of scoring in one piece. Prints speed and peak memory as JSON.

    ADCGAN_DATA=DIR OMP_NUM_THREADS=1 python benchmarks/bulk_scoring.py --scratch DIR
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
from PIL import Image
from pyarrow import dataset
from ray.cluster_utils import Cluster

from adcgan import ADCGAN, load, load_named
from adcgan.progress import terminal_progress

STORE_BYTES = 200 << 20
BROKEN_EVERY = 10_000
SAMPLE = 2_000


def write_images(root: Path, n: int) -> set[str]:
    """Write `n` files unless they are there, and return the names of the broken ones."""
    sets = [("mnist", "train"), ("fashion-mnist", "train"), ("mnist", "test")]
    images = np.concatenate([load_named(*named).images[:, 0] for named in sets])
    broken = {name(i) for i in range(0, n, BROKEN_EVERY)}
    if (root / name(n - 1)).exists():
        return broken
    progress = terminal_progress()
    progress.start("Writing images", n)
    for i in range(n):
        path = root / name(i)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[i]).save(path)
        if name(i) in broken:
            path.write_bytes(path.read_bytes()[:60])
        progress.advance()
    progress.finish()
    return broken


def name(i: int) -> str:
    """Return the name of file number `i`."""
    return f"{i // 1000:03d}/{i:06d}.png"


def fit(path: Path) -> None:
    """Train a small model on fours, unless it is there."""
    if not path.exists():
        digits = load_named("mnist", "train")
        fours = digits.select(np.flatnonzero(digits.labels == 4)[:1000])
        ADCGAN(width=0.125, warmup_epochs=1, epochs=1, min_steps=0, random_state=0).fit(fours).save(
            path
        )


@contextmanager
def peaks(driver: int) -> Iterator[dict[str, int]]:
    """Watch the most resident memory (MiB) of the driver, a worker and a decoder."""
    found = {"driver": 0, "worker": 0, "decoder": 0}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            for process in psutil.process_iter():
                with suppress(psutil.Error):
                    kind = kind_of(process, driver)
                    if kind:
                        found[kind] = max(found[kind], process.memory_info().rss >> 20)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def kind_of(process: psutil.Process, driver: int) -> str:
    """Say what part a process plays, if any."""
    if process.pid == driver:
        return "driver"
    command = process.cmdline()
    if command and command[0].startswith("ray::") and "ShardScorer" in command[0]:
        return "worker"
    return "decoder" if "adcgan.bulk.decoder" in command else ""


def kill_a_worker(condition: Callable[[], bool]) -> int:
    """Kill the first worker found when `condition` holds, and return its process id."""
    while not condition():
        time.sleep(0.1)
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if kind_of(process, driver=-1) == "worker":
                process.kill()
                return process.pid
    raise RuntimeError("no worker runs")


def run(address: str, model: Path, images: Path, out: Path, n: int) -> dict[str, object]:
    """Run the command, kill a worker after a third of the shards, and return what it printed."""
    arguments = ["score", str(model), str(images), "--out", str(out), "--ray", address, "--json"]
    n_shards = -(-n // 2048)
    started = time.monotonic()
    command = [sys.executable, "-m", "adcgan", *arguments]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver,
        peaks(driver.pid) as memory,
    ):
        killed = kill_a_worker(lambda: len(list(out.glob("shard-*"))) >= n_shards // 3)
        print(f"killed worker {killed}", file=sys.stderr)
        printed, _ = driver.communicate()
    assert driver.returncode == 0
    seconds = time.monotonic() - started
    result: dict[str, object] = json.loads(printed)
    return result | {"seconds_of_command": seconds, "peak_mib": memory}


def check(model: Path, images: Path, out: Path, n: int, broken: set[str]) -> float:
    """Compare the rows with the files, and a sample's with scoring in one piece.

    Returns the largest relative difference of a score.
    """
    rows = dataset.dataset(out, format="parquet").to_table()
    assert rows.column("path").to_pylist() == [name(i) for i in range(n)]
    errors = rows.column("error").to_pylist()
    assert {name(i) for i, error in enumerate(errors) if error} == broken
    chosen = np.sort(np.random.default_rng(0).choice(n, SAMPLE, replace=False))
    sample = Path(tempfile.mkdtemp(prefix="sample-", dir=out.parent))
    for i in chosen:
        (sample / f"{i:06d}.png").symlink_to(images / name(int(i)))
    alone = load(model).assess(str(sample))
    found = rows.take(chosen)
    scores = found.column("score").to_numpy(zero_copy_only=False)
    np.testing.assert_array_equal(np.isnan(scores), np.isnan(alone.scores))
    p_values = found.column("p_value").to_numpy(zero_copy_only=False)
    np.testing.assert_array_equal(p_values, alone.p_values)
    readable = ~np.isnan(scores)
    difference = np.abs(scores[readable] / alone.scores[readable] - 1).max()
    assert difference < 2e-6
    return float(difference)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scratch", type=Path, required=True, help="a folder for all files")
    parser.add_argument("--images", type=int, default=100_000)
    options = parser.parse_args()
    scratch, n = options.scratch.resolve(), options.images
    model, images = scratch / "model", scratch / "images"
    out = Path(tempfile.mkdtemp(prefix="out-", dir=scratch))
    fit(model)
    broken = write_images(images, n)
    node = {"num_cpus": 1, "object_store_memory": STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    try:
        cluster.add_node(**node)
        cluster.wait_for_nodes()
        result = run(cluster.address, model, images, out, n)
    finally:
        cluster.shutdown()
    result["sample_difference"] = check(model, images, out, n, broken)
    result.pop("highest")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
