"""Thousands of hostile requests against a real `adcgan serve`: it refuses each, and stays healthy.

Four waves, all but the last by default. `requests`: truncated, huge and mutated images, claims of
size in every format, wrong types, broken forms, wrong methods, keys, addresses and parameters,
bytes that are not HTTP. `held`: 500 connections that say nothing or a byte every tenth of a second,
and more than are taken. `heavy`: small files that unpack to the largest image allowed, or to more.
`schema`: requests that Schemathesis, in an environment of its own, makes from the service's
description. Ends with exit code 1 if one is answered other than it should be, or the service is not
well afterwards.

    python benchmarks/service_hostile.py adcgan-demo/model --requests 2000
    python -m venv schema && schema/bin/pip install schemathesis
    python benchmarks/service_hostile.py adcgan-demo/model --waves schema \\
        --schemathesis schema/bin/st
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import random
import re
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from datetime import date
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from image_bombs import CLAIMS, FILLS, icon_around, long_text, many_scans
from service_load import ask, memory_mb, service

KEY = "sesame"
SLOW_SECONDS = 2
# Answered within this, or not at all.
PATIENCE_SECONDS = 60
# Pixels on a side of an image just below the limit of 30 megapixels.
LARGEST_SIDE = 5_400
# What the documentation allows: what is held, and two images being decoded.
MEMORY_MB = 512 + 2 * 900
IDLE, MOST = 500, 512
WAVES = ["requests", "held", "heavy", "schema"]
CLOSED, GONE = "closed without an answer", "went away by itself"
HELD = "open to the end"
Chance = random.Random


def head(method: str, path: str, headers: dict[str, object]) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: x"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def post(body: bytes, kind: str = "image/png", path: str = "/v1/score", **more: object) -> bytes:
    headers = {"X-API-Key": KEY, "Content-Type": kind, "Content-Length": len(body), **more}
    return head("POST", path, headers) + body


def image_of(chance: Chance, kind: str = "PNG", side: int = 24) -> bytes:
    pixels = np.frombuffer(chance.randbytes(3 * side * side), np.uint8).reshape(side, side, 3)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def truncated(chance: Chance) -> bytes:
    data = image_of(chance, chance.choice(["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"]))
    return post(data[: chance.randrange(1, len(data) // 2)])


def mutated(chance: Chance) -> bytes:
    data = bytearray(image_of(chance, chance.choice(["PNG", "JPEG", "GIF", "TIFF", "WEBP", "ICO"])))
    for _ in range(chance.randrange(1, 40)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    return post(bytes(data))


def bombs(chance: Chance) -> bytes:
    claim = chance.choice(list(CLAIMS.values()))
    return post(claim(chance.choice([6_000, 13_000, 20_000, 60_000])))


def not_images(chance: Chance) -> bytes:
    head_of = chance.choice(
        [
            b"%PDF-1.7\n",
            b"%!PS-Adobe-3.0 EPSF-3.0\n",
            b"PK\x03\x04",
            b"\x7fELF",
            b"<svg xmlns='http://www.w3.org/2000/svg'/>",
            b"\x93NUMPY",
            b"\0",
        ]
    )
    return post(head_of + chance.randbytes(chance.randrange(2000)), "application/octet-stream")


def huge_announced(chance: Chance) -> bytes:
    length = chance.choice([64_000_001, 10**10, 10**25])
    kind = chance.choice(["image/png", "multipart/form-data; boundary=B"])
    headers = {"X-API-Key": KEY, "Content-Type": kind, "Content-Length": length}
    return head("POST", "/v1/score", headers) + bytes(1000)


def huge_chunked(_: Chance) -> bytes:
    headers = {"X-API-Key": KEY, "Content-Type": "image/png", "Transfer-Encoding": "chunked"}
    piece = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    return head("POST", "/v1/score", headers) + piece * 340


def wrong_types(chance: Chance) -> bytes:
    kind = chance.choice(["application/json", "text/plain", "", "image", "video/mp4", "\t;;;"])
    if chance.random() < 0.3:
        return post(image_of(chance), **{"Content-Encoding": "gzip"})
    return post(chance.randbytes(100), kind)


def broken_forms(chance: Chance) -> bytes:
    disposition = b'Content-Disposition: form-data; name="f"; filename="f"\r\n\r\n'
    body = chance.choice(
        [
            b"",
            chance.randbytes(500),
            b"--B--\r\n",
            b"--B\r\n" + disposition + b"data",
            b"--B\r\nbad header\r\n\r\n\r\n--B--\r\n",
            b"--B\r\nContent-Disposition: form-data; name=f\r\n\r\ntext\r\n--B--\r\n",
            b"--B\r\nX: " + b"y" * 50_000 + b"\r\n\r\n\r\n--B--\r\n",
            b"--B\r\n" + b"X: y\r\n" * 5_000 + b"\r\n\r\n--B--\r\n",
            (b"--B\r\n" + disposition + b"x\r\n") * 10_000 + b"--B--\r\n",
            b"--B\r\n" + disposition.replace(b'"f"', b'"\xff"') + b"\r\n",
            b"\r\n" * 100_000,
        ]
    )
    charset = "; charset=" + chance.choice(["undefined", "idna", "punycode", "zlib", "utf-7"])
    usual = ["; boundary=B", "; boundary=B" + charset]
    boundary = chance.choice([*usual * 4, "", "; boundary=" + "B" * 1000])
    return post(body, "multipart/form-data" + boundary)


def wrong_methods(chance: Chance) -> bytes:
    method = chance.choice(["GET", "PUT", "DELETE", "PATCH", "TRACE", "OPTIONS", "NONSENSE"])
    return head(method, "/v1/score", {"X-API-Key": KEY, "Content-Length": 0})


def wrong_keys(chance: Chance) -> bytes:
    key = chance.choice(["", "Sesame", KEY * 1000, KEY[:-1], "'; DROP TABLE", "0"])
    path = chance.choice(["/v1/score", "/v1/model", "/metrics"])
    name = chance.choice(["X-API-Key", "Authorization"])
    return head(chance.choice(["GET", "POST"]), path, {name: key, "Content-Length": 10}) + bytes(10)


def wrong_addresses(chance: Chance) -> bytes:
    path = chance.choice(
        [
            "/v2",
            "/page/../app.py",
            "/page/%2e%2e/%2e%2e/cli/serve.py",
            "/page//etc/passwd",
            "//x",
            "/v1/score/../../x",
            "/%00",
            "/" + "a" * 5000,
            "/v1/%ff",
            "/page/..%5capp.py",
        ]
    )
    return head("GET", path, {"X-API-Key": KEY})


def wrong_parameters(chance: Chance) -> bytes:
    query = chance.choice(
        [
            "fpr=-1",
            "fpr=2",
            "fpr=nan",
            "fpr=" + "9" * 1000,
            "heatmap=9",
            "heatmap_top=-1",
            "heatmap_top=inf",
            "fpr=%00",
        ]
    )
    return post(image_of(chance), path=f"/v1/score?{query}")


def not_http(chance: Chance) -> bytes:
    return chance.choice(
        [
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc" + chance.randbytes(500),
            chance.randbytes(chance.randrange(10, 2000)) + b"\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
            head("GET", "/", {"X": "y" * 1_000_000}),
            head("POST", "/v1/score", {"Content-Length": "-5"}),
            head("POST", "/v1/score", {"Content-Length": 5, "content-length": 6}),
            head(
                "POST",
                "/v1/score",
                {"X-API-Key": KEY, "Content-Type": "image/png", "Transfer-Encoding": "chunked"},
            )
            + b"zz\r\n",
        ]
    )


def slow_body(_: Chance) -> bytes:
    return post(bytes(1000))[:-500]


def slow_head(chance: Chance) -> bytes:
    return post(bytes(10))[: chance.randrange(60)]


KINDS: dict[Callable[[Chance], bytes], set[object]] = {
    truncated: {422},
    # A changed byte may be one that does no harm.
    mutated: {200, 422},
    bombs: {422},
    not_images: {422},
    # A length of too many digits is not HTTP.
    huge_announced: {413, 400},
    # Or the time is up before the limit is reached.
    huge_chunked: {413, 408},
    wrong_types: {415},
    broken_forms: {400, 413},
    wrong_methods: {405},
    wrong_keys: {401},
    wrong_addresses: {404, 400},
    wrong_parameters: {422},
    not_http: {400},
    slow_body: {408},
    slow_head: {408},
}
# What may come of the other waves.
OTHERS: dict[str, set[object]] = {
    **{f"full_{kind.lower()}": {200} for kind in FILLS},
    "inside_ico": {422},
    "inside_icns": {422},
    "many_scans": {422},
    "long_text": {200, 422},
    "idle": {408, "another: 200"},
    "idle_after_an_answer": {200, 408, "another: 200"},
    "dripping_head": {408, "another: 200"},
    "dripping_body": {408, "another: 200"},
    # Where the first have run out of time by then, there is room for another.
    "too_many": {408, "another: 503", "another: 200"},
    "from_the_schema": {200, 400, 401, 404, 405, 413, 415, 422},
}


async def attack(port: int, data: bytes, *, leave: bool) -> object:
    """Send one request and return its status, or how it ended."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        if leave:
            return GONE
        try:
            answer = await asyncio.wait_for(reader.read(65536), PATIENCE_SECONDS)
        except ConnectionResetError:
            return CLOSED
        except asyncio.TimeoutError:
            return HELD
        while answer.startswith(b"HTTP/1.1 100"):
            answer = await reader.read(65536)
        return int(answer[9:12]) if answer.startswith(b"HTTP/1.1 ") else CLOSED
    finally:
        writer.close()


async def all_attacks(port: int, n: int, at_a_time: int) -> dict[str, Counter]:
    """Send `n` requests of all kinds in turn; one client in 31 leaves before the answer."""
    outcomes: dict[str, Counter] = defaultdict(Counter)
    kinds = list(KINDS)
    free = asyncio.Semaphore(at_a_time)

    async def one(i: int) -> None:
        async with free:
            kind = kinds[i % len(kinds)]
            outcome = await attack(port, kind(Chance(i)), leave=i % 31 == 30)
            outcomes[kind.__name__][outcome] += 1

    await asyncio.gather(*(one(i) for i in range(n)))
    return outcomes


def unexpected(outcomes: dict[str, Counter]) -> list[str]:
    allowed = {kind.__name__: statuses for kind, statuses in KINDS.items()} | OTHERS
    return [
        f"{name}: {count} × {outcome}"
        for name, counts in outcomes.items()
        for outcome, count in counts.items()
        if outcome not in {503, GONE, *allowed[name]}
    ]


async def served(port: int, good: bytes) -> tuple[int, bytes]:
    """Ask until there is room, for a while; return the last answer."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        status, body = await ask(port, good)
        if status != 503 or time.monotonic() > deadline:
            return status, body
        await asyncio.sleep(0.1)


async def heavy_attacks(port: int) -> dict[str, Counter]:
    """Send images that are as large as allowed, or larger inside than outside, two at a time."""
    attacks = {f"full_{kind.lower()}": fill(LARGEST_SIDE) for kind, fill in FILLS.items()}
    attacks |= {f"inside_{kind.lower()}": icon_around(kind, 13_000) for kind in ("ICO", "ICNS")}
    attacks |= {"long_text": long_text(), "many_scans": many_scans(LARGEST_SIDE, 100_000)}

    async def twice(data: bytes) -> Counter:
        pair = (attack(port, post(data), leave=False) for _ in range(2))
        return Counter(await asyncio.gather(*pair))

    return {name: await twice(data) for name, data in attacks.items()}


async def to_the_end(reader: asyncio.StreamReader) -> object:
    """Return the last status that comes before the connection ends."""
    answer = b""
    with suppress(ConnectionResetError):
        while piece := await reader.read(65536):
            answer += piece
    found = re.findall(rb"HTTP/1\.1 (\d+) ", answer)
    return int(found[-1]) if found else CLOSED


async def hold(port: int, said: bytes = b"", drip: bytes = b"") -> object:
    """Keep a connection open, silent or with a byte every tenth of a second, as long as it goes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(said)
    answer = asyncio.create_task(to_the_end(reader))
    try:
        for i in range(10 * PATIENCE_SECONDS):
            writer.write(drip[i : i + 1])
            if (await asyncio.wait([answer], timeout=0.1))[0]:
                return answer.result()
        return HELD
    finally:
        answer.cancel()
        writer.close()


async def held_connections(port: int) -> dict[str, Counter]:
    """Hold connections open, and ask for something else meanwhile."""
    again = head("GET", "/healthz", {})
    length = {"X-API-Key": KEY, "Content-Type": "image/png", "Content-Length": 10_000}
    ways = {
        "idle": (IDLE, b"", b""),
        "idle_after_an_answer": (IDLE, again, b""),
        "dripping_head": (IDLE, b"", again[:-2] + b"X: " + b"y" * 10_000),
        "dripping_body": (100, head("POST", "/v1/score", length), bytes(10_000)),
        "too_many": (MOST + 100, b"", b""),
    }
    outcomes = {}
    for name, (n, said, drip) in ways.items():
        holding = [asyncio.create_task(hold(port, said, drip)) for _ in range(n)]
        await asyncio.sleep(SLOW_SECONDS / 2)
        status, _ = await ask(port, again)
        outcomes[name] = Counter([*await asyncio.gather(*holding), f"another: {status}"])
    return outcomes


def requests_by_status(port: int) -> Counter:
    """Return how many requests the service says it has answered."""
    _, text = asyncio.run(ask(port, head("GET", "/metrics", {"X-API-Key": KEY})))
    counts: Counter = Counter()
    for status, n in re.findall(r'adcgan_requests_total{.*status="(\d+)"} (\S+)', text.decode()):
        counts[int(status)] += int(float(n))
    return counts


def from_the_schema(
    port: int, schemathesis: str, n: int, problems: list[str]
) -> dict[str, Counter]:
    """Send about `n` requests made from the description; what Schemathesis finds is a problem."""
    before = requests_by_status(port)
    checks = "not_a_server_error,status_code_conformance,content_type_conformance"
    command = [
        *(schemathesis, "run", f"http://127.0.0.1:{port}/openapi.json", "--seed=0", "--no-color"),
        *("--header", f"X-API-Key:{KEY}", f"--max-examples={n}", "--phases=coverage,fuzzing"),
        *("--continue-on-failure", "--no-shrink", "--workers=4"),
        f"--checks={checks},response_schema_conformance",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        problems.append(f"schema: {done.stdout[-4000:]}{done.stderr}")
    return {"from_the_schema": requests_by_status(port) - before}


def peak_mb(pid: int) -> float:
    """Return the most memory that a process has had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="model folder or .onnx file")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--at-a-time", type=int, default=20)
    parser.add_argument("--waves", nargs="+", choices=WAVES, default=WAVES[:-1])
    parser.add_argument("--schemathesis", default="schemathesis", help="its command")
    parser.add_argument("--schema-requests", type=int, default=10_000)
    options = parser.parse_args()
    times = [f"--{what}-seconds={SLOW_SECONDS}" for what in ("body", "header")]
    good = post(image_of(Chance(0)))
    problems: list[str] = []
    outcomes: dict[str, Counter] = {}
    seconds: dict[str, float] = {}

    with service(options.model, f"--api-key={KEY}", *times) as (process, port):
        before = asyncio.run(ask(port, good))
        memory = {"start": memory_mb(process.pid)}

        def wave(name: str, attack: Callable[[], dict[str, Counter]]) -> None:
            """Attack, and see whether the service still answers."""
            outcomes.update(attack())
            start = time.perf_counter()
            status, body = asyncio.run(served(port, good))
            seconds[name] = round(time.perf_counter() - start, 2)
            memory[name] = memory_mb(process.pid)
            if process.poll() is not None or (status, body) != before or status != 200:
                problems.append(f"after {name}: {status}")

        waves: dict[str, Callable[[], dict[str, Counter]]] = {
            "requests": lambda: asyncio.run(all_attacks(port, options.requests, options.at_a_time)),
            "held": lambda: asyncio.run(held_connections(port)),
            "heavy": lambda: asyncio.run(heavy_attacks(port)),
            "schema": lambda: from_the_schema(
                port, options.schemathesis, options.schema_requests, problems
            ),
        }
        for name in options.waves:
            wave(name, waves[name])
        ready = asyncio.run(ask(port, head("GET", "/readyz", {})))[0]
        memory["peak"] = peak_mb(process.pid)
    problems += unexpected(outcomes)
    if memory["peak"] > memory["start"] + MEMORY_MB:
        problems.append(f"{memory['peak']} MB of memory")
    if ready != 200 or process.returncode:
        problems.append(f"not ready ({ready}), or exit code {process.returncode}")
    result = {
        "requests": sum(sum(counts.values()) for counts in outcomes.values()),
        "outcomes": {k: {str(o): n for o, n in c.items()} for k, c in sorted(outcomes.items())},
        "problems": problems,
        "seconds_until_a_good_request_was_answered": seconds,
        "memory_mb": memory,
        "date": date.today().isoformat(),
    }
    print(json.dumps(result, indent=2, ensure_ascii=False))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
