"""A minute of many clients against a real `adcgan serve`: lost and wrong answers, memory, latency.

Every client keeps one connection and sends one request after another, each with other images. All
answers are compared with scores computed offline. Ends with exit code 1 if one was lost or wrong.

    python benchmarks/service_load.py adcgan-demo/model --clients 50 --images 20 --seconds 60
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import numpy as np

import adcgan

# Float32 sums differ in their last digits with the size of the batch.
TOLERANCE = 1e-4


@contextmanager
def service(model: str, *options: str):
    """Run the command on a free port; yields the process and its port once the model is warm."""
    command = [sys.executable, "-m", "adcgan", "serve", model, "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        found = re.search(r":(\d+)$", line.strip())
        if found is None:
            raise SystemExit("the service did not start")
        port = int(found[1])
        asyncio.run(warm(port))
        yield process, port
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            # Its exit code then tells.
            process.kill()
            process.wait()


async def warm(port: int) -> None:
    while (await ask(port, b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n"))[0] != 200:
        await asyncio.sleep(0.05)


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Read one response: status and body."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(re.search(rb"content-length: (\d+)", head, re.IGNORECASE)[1])
    return int(head[9:12]), await reader.readexactly(length)


async def ask(port: int, data: bytes) -> tuple[int, bytes]:
    """Send one request on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        return await read_answer(reader)
    finally:
        writer.close()


def memory_mb(pid: int) -> float:
    """Return the resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1000


def pool_of_images(folder: Path | None) -> tuple[dict[str, bytes], Path]:
    """Return images by name, and the folder they are in."""
    if folder is None:
        from PIL import Image

        folder = Path(tempfile.mkdtemp())
        digits = adcgan.load_named("digits", "test")
        for i, image in enumerate(digits.images):
            Image.fromarray(image[0]).save(folder / f"{i:03}.png")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}, folder


def request_of(images: dict[str, bytes], names: list[str], path: str) -> bytes:
    parts = [
        b'--B\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n\r\n%s\r\n'
        % (name.encode(), images[name])
        for name in names
    ]
    body = b"".join(parts) + b"--B--\r\n"
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=B\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Tally:
    """What came back."""

    def __init__(self, expected: dict[str, float | None]) -> None:
        self.expected = expected
        self.seconds: list[float] = []
        self.lost: list[str] = []
        self.wrong: list[str] = []
        self.largest_difference = 0.0

    def take(self, names: list[str], status: int, body: bytes) -> None:
        if status != 200:
            self.lost.append(f"{status} {body[:200]!r}")
            return
        rows = json.loads(body)["images"]
        if [row["name"] for row in rows] != names:
            self.wrong.append("other names than were sent")
        for row in rows:
            expected, score = self.expected[row["name"]], row["score"]
            if expected is None or score is None:
                if expected is not score:
                    self.wrong.append(f"{row['name']}: {score} instead of {expected}")
                continue
            difference = abs(score - expected) / max(abs(expected), 1e-9)
            self.largest_difference = max(self.largest_difference, difference)
            if difference > TOLERANCE:
                self.wrong.append(f"{row['name']}: {score} instead of {expected}")


async def client(
    port: int, images: dict[str, bytes], tally: Tally, options: argparse.Namespace, seed: int
) -> None:
    chance = random.Random(seed)
    end = time.monotonic() + options.seconds
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.monotonic() < end:
        names = chance.sample(sorted(images), min(options.images, len(images)))
        start = time.perf_counter()
        try:
            writer.write(request_of(images, names, options.path))
            await writer.drain()
            status, body = await read_answer(reader)
        except (OSError, asyncio.IncompleteReadError) as error:
            tally.lost.append(repr(error))
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            continue
        tally.seconds.append(time.perf_counter() - start)
        tally.take(names, status, body)
    writer.close()


async def all_clients(port: int, images, tally: Tally, options, pid: int) -> list[float]:
    """Run the clients; return the service's memory at the start, in the middle and at the end."""

    async def watch() -> list[float]:
        seen = [memory_mb(pid)]
        for _ in range(2):
            await asyncio.sleep(options.seconds / 2)
            seen.append(memory_mb(pid))
        return seen

    clients = [client(port, images, tally, options, seed) for seed in range(options.clients)]
    return (await asyncio.gather(watch(), *clients))[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="model folder or .onnx file")
    parser.add_argument("--folder", type=Path, help="images to send; the digits by default")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--images", type=int, default=20, help="in one request")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--path", default="/v1/score", help="/v1/score?heatmap=true, …")
    options = parser.parse_args()
    images, folder = pool_of_images(options.folder)
    assessed = adcgan.load(options.model).assess(folder)
    scores = [None if np.isnan(score) else float(score) for score in assessed.scores]
    tally = Tally(dict(zip(assessed.names, scores, strict=True)))
    with service(options.model) as (process, port):
        memory = asyncio.run(all_clients(port, images, tally, options, process.pid))
        _, text = asyncio.run(ask(port, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"))
    batches = {
        key: float(re.search(rf"adcgan_batch_images_{key} (\S+)", text.decode())[1])
        for key in ("sum", "count")
    }
    cuts = statistics.quantiles(tally.seconds, n=100)
    n = len(tally.seconds)
    result = {
        "clients": options.clients,
        "images_per_request": options.images,
        "seconds": options.seconds,
        "requests": n,
        "lost": len(tally.lost),
        "wrong": len(tally.wrong),
        "largest_relative_difference": tally.largest_difference,
        "requests_per_second": n / options.seconds,
        "images_per_second": n * options.images / options.seconds,
        "latency_p50_seconds": cuts[49],
        "latency_p99_seconds": cuts[98],
        "images_per_batch": batches["sum"] / batches["count"],
        "memory_mb_start_middle_end": memory,
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "adcgan": adcgan.__version__,
        "date": date.today().isoformat(),
    }
    print(json.dumps(result, indent=2))
    for line in [*tally.lost[:5], *tally.wrong[:5]]:
        print(line, file=sys.stderr)
    return 1 if tally.lost or tally.wrong or n == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
