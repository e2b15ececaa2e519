"""Thousands of hostile requests against a real `adcgan serve`: it refuses each, and stays healthy.

Truncated, huge and mutated images, decompression bombs, wrong types, slow bodies and heads, broken
multipart, wrong methods, keys, addresses and parameters, and bytes that are not HTTP. Ends with
exit code 1 if one is answered other than it should be, or the service is not well afterwards.

    python benchmarks/service_hostile.py adcgan-demo/model --requests 2000
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import random
import struct
import sys
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from service_load import ask, memory_mb, service

KEY = "sesame"
SLOW_SECONDS = 2
CLOSED, GONE = "closed without an answer", "went away by itself"
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


def chunk(name: bytes, data: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + data))
    return struct.pack(">I", len(data)) + name + data + checksum


def bomb(side: int) -> bytes:
    """Return a small PNG that says it is `side` pixels wide and high."""
    size = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1_000_000), 9)
    body = chunk(b"IHDR", size) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def truncated(chance: Chance) -> bytes:
    data = image_of(chance, chance.choice(["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"]))
    return post(data[: chance.randrange(1, len(data) // 2)])


def mutated(chance: Chance) -> bytes:
    data = bytearray(image_of(chance, chance.choice(["PNG", "JPEG", "GIF", "TIFF", "WEBP", "ICO"])))
    for _ in range(chance.randrange(1, 40)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    return post(bytes(data))


def bombs(chance: Chance) -> bytes:
    return post(bomb(chance.choice([6_000, 20_000, 60_000, 2**31 - 1])))


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
            b"\r\n" * 100_000,
        ]
    )
    boundary = chance.choice(["; boundary=B"] * 8 + ["", "; boundary=" + "B" * 1000])
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


async def attack(port: int, data: bytes, *, leave: bool) -> object:
    """Send one request and return its status, or how it ended."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        if leave:
            return GONE
        try:
            answer = await asyncio.wait_for(reader.read(65536), 60)
        except ConnectionResetError:
            return CLOSED
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
    allowed = {kind.__name__: {503, GONE, *statuses} for kind, statuses in KINDS.items()}
    return [
        f"{name}: {count} × {outcome}"
        for name, counts in outcomes.items()
        for outcome, count in counts.items()
        if outcome not in allowed[name]
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="model folder or .onnx file")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--at-a-time", type=int, default=20)
    options = parser.parse_args()
    times = [f"--{what}-seconds={SLOW_SECONDS}" for what in ("body", "header")]
    good = post(image_of(Chance(0)))
    with service(options.model, f"--api-key={KEY}", *times) as (process, port):
        before = asyncio.run(ask(port, good))
        memory = [memory_mb(process.pid)]
        outcomes = asyncio.run(all_attacks(port, options.requests, options.at_a_time))
        alive = process.poll() is None
        after = asyncio.run(ask(port, good))
        memory.append(memory_mb(process.pid))
        ready = asyncio.run(ask(port, head("GET", "/readyz", {})))[0]
    problems = unexpected(outcomes)
    healthy = alive and ready == 200 and before == after and before[0] == 200
    result = {
        "requests": sum(sum(counts.values()) for counts in outcomes.values()),
        "outcomes": {k: {str(o): n for o, n in c.items()} for k, c in sorted(outcomes.items())},
        "unexpected": problems,
        "healthy_afterwards": healthy,
        "exit_code": process.returncode,
        "memory_mb_before_after": memory,
        "date": date.today().isoformat(),
    }
    print(json.dumps(result, indent=2, ensure_ascii=False))
    return 1 if problems or not healthy or process.returncode else 0


if __name__ == "__main__":
    sys.exit(main())
