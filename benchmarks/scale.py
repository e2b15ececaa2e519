"""How time and memory of AD-CGAN grow with the number of images.

`linearity` times one epoch of ``fit`` and ``decision_function`` on 1,000 to 64,000 images.
`memory` fits a folder of 100,000 images and tells what main memory that takes beyond the mapped
file of decoded pixels. Networks are tiny and epochs few: what is measured is what grows with n.

    python benchmarks/scale.py linearity
    python benchmarks/scale.py memory --folder /tmp/many      # some minutes and 1.7 GB of disk
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from circumstances import circumstances, sentence

from adcgan import ADCGAN

COUNTS = (1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000)
BATCH = 256
BIG_BATCH = 128
TINY: dict[str, Any] = {"width": 0.06, "warmup_epochs": 0, "min_steps": 0, "device": "cpu"}

Row = dict[str, Any]


def linearity(size: int, counts: tuple[int, ...]) -> list[Row]:
    """Return the seconds of an epoch and of scoring for each number of images."""
    rng = np.random.default_rng(0)
    rows = []
    # The first fit of a process also waits for imports, so it is not counted.
    ADCGAN(**TINY, epochs=1, fpr=0.5).fit(rng.integers(0, 256, (64, size, size), np.uint8))
    for n in counts:
        images = rng.integers(0, 256, (n, size, size), np.uint8)
        detector = ADCGAN(**TINY, epochs=1, batch_size=BATCH, validation_fraction=0.1, fpr=0.1)
        begun = time.perf_counter()
        detector.fit(images)
        fitted = time.perf_counter()
        detector.decision_function(images)
        scored = time.perf_counter()
        row = {"part": "linearity", "size": size, "images": n, "fit_seconds": fitted - begun}
        rows.append({**row, "steps": detector._step_counts(detector.n_train_)[1]})
        rows[-1]["score_seconds"] = scored - fitted
        print(json.dumps(rows[-1]), flush=True)
    return rows


def memory(folder: Path, n: int, size: int) -> list[Row]:
    """Return what fitting a folder of `n` images takes in main memory."""
    make_folder(folder / "images", n, size)
    os.environ["ADCGAN_CACHE"] = str(folder / "cache")
    before = resident()
    begun = time.perf_counter()
    detector = ADCGAN(**TINY, image_size=size, epochs=1, batch_size=BIG_BATCH).fit(
        folder / "images"
    )
    seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    row = {
        "part": "memory",
        "images": n,
        "size": size,
        "steps": detector._step_counts(detector.n_train_)[1],
        "seconds": seconds,
        "mapped_mib": n * 3 * size**2 / 2**20,
        "before_mib": before["total"] / 2**20,
        "peak_mib": peak / 2**20,
        "own_mib_at_end": resident()["own"] / 2**20,
        "own_mib_at_peak": max(SAMPLES, default=0) / 2**20,
    }
    print(json.dumps(row), flush=True)
    return [row]


SAMPLES: list[int] = []


def watch() -> None:
    """Note from now on, ten times a second, how much memory is the process's own."""
    import threading

    def note() -> None:
        while True:
            SAMPLES.append(resident()["own"])
            time.sleep(0.1)

    threading.Thread(target=note, daemon=True).start()


def resident() -> dict[str, int]:
    """Return the bytes resident: all of them, and those that belong to no file (Linux alone)."""
    fields = dict(
        line.split(":", 1)
        for line in Path("/proc/self/status").read_text().splitlines()
        if ":" in line
    )
    return {
        "total": int(fields["VmRSS"].split()[0]) * 1024,
        "own": int(fields["RssAnon"].split()[0]) * 1024,
    }


def make_folder(folder: Path, n: int, size: int) -> None:
    """Make `n` different JPEG files of noise on a slope, unless they are there."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    if sum(1 for _ in folder.iterdir()) == n:
        return
    rng = np.random.default_rng(0)
    slope = np.linspace(0, 200, size)[:, None, None]
    for i in range(n):
        pixels = np.uint8(slope + rng.integers(0, 56, (size, 1, 3)))
        image = Image.fromarray(np.broadcast_to(pixels, (size, size, 3)).copy())
        image.save(folder / f"{i:06}.jpg", quality=60)


def table(result: Row) -> str:
    """Return the result as Markdown."""
    text = sentence(result) + "\n\n"
    rows = [row for row in result["rows"] if row["part"] == "linearity"]
    if rows:
        text += "| images | steps | an epoch of fit, s | ms an image | scoring, s | ms an image |\n"
        text += "|---" * 6 + "|\n"
    for row in rows:
        fit, score, n = row["fit_seconds"], row["score_seconds"], row["images"]
        text += f"| {n:,} | {row['steps']} | {fit:.1f} | {1000 * fit / n:.2f} "
        text += f"| {score:.1f} | {1000 * score / n:.2f} |\n"
    for row in result["rows"]:
        if row["part"] == "memory":
            text += (
                f"{row['images']:,} images, {row['size']} px, {row['steps']} steps of {BIG_BATCH}: "
                f"{row['own_mib_at_peak']:.0f} MiB of the process's own at the peak (a mapped file "
                f"of {row['mapped_mib']:.0f} MiB beside it), {row['seconds']:.0f} s.\n"
            )
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["linearity", "memory"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", type=int, help="pixels; 28 for linearity, 64 for memory")
    parser.add_argument("--most", type=int, default=COUNTS[-1], help="of linearity, images")
    parser.add_argument("--images", type=int, default=100_000, help="of memory")
    parser.add_argument("--folder", type=Path, help="of memory: where files are made and kept")
    parser.add_argument("--out", type=Path, help="the JSON file to write")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.part == "linearity":
        counts = tuple(n for n in COUNTS if n <= options.most)
        rows = linearity(options.size or 28, counts)
    else:
        if options.folder is None:
            parser.error("memory needs --folder")
        watch()
        rows = memory(options.folder, options.images, options.size or 64)
    command = f"python benchmarks/scale.py {options.part}"
    result = {**circumstances(), "command": command, "rows": rows}
    if options.out:
        from adcgan.files import write_json

        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.out, result)
    print(table(result))


if __name__ == "__main__":
    main()
