"""Each limit on a real connection, and what a service does when it is told to end."""

from __future__ import annotations

import http.client
import json
import socket
import struct
import tempfile
import threading
import time
from contextlib import suppress

import numpy as np
import pytest

from adcgan.errors import InputError
from adcgan.serve import Limits, server
from adcgan.serve.server import address, bind, is_loopback

IMAGE = {"Content-Type": "image/png"}
MB = 1_000_000


def form(*files):
    return [("file", (name, data)) for name, data in files]


def refusal(answer, status):
    """Check that an answer is a refusal, and return its reason."""
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    if status == 503:
        assert int(answer.headers["retry-after"]) >= 1
    return answer.json()["error"]


def head(length, **headers):
    lines = ["POST /v1/score HTTP/1.1", "Host: x", "Content-Type: image/png"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, f"Content-Length: {length}", "", ""]).encode()


def in_background(function):
    """Call in a thread; the returned function waits for the result."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()

    def result():
        thread.join(20)
        return results[0]

    return result


@pytest.fixture
def small(scorer, serve, wait_until):
    """Return a service with little room, and a model that is warm."""
    limits = Limits(max_file_mb=0.1, max_request_mb=0.25, max_files=3, max_megapixels=0.01)
    with serve(scorer, limits) as site:
        wait_until(lambda: site.get("/readyz").status_code == 200)
        yield site


# -- sizes -----------------------------------------------------------------------------------


def test_a_file_over_the_limit_is_refused_by_name(small, picture):
    files = form(("a.png", picture(5)), ("big.png", bytes(100_001)))
    assert refusal(small.post(files=files), 413) == (
        "The file 'big.png' is larger than 0.1 MB (--max-file-mb)"
    )
    assert small.post(files=files[:1]).status_code == 200


def test_an_image_body_over_the_limit_is_refused(small):
    answer = small.post(content=bytes(100_001), headers=IMAGE)
    assert refusal(answer, 413) == "The image is larger than 0.1 MB (--max-file-mb)"


def test_a_file_at_the_limit_is_read(small, picture):
    data = picture(5)
    padded = data + bytes(100_000 - len(data))
    assert small.post(content=padded, headers=IMAGE).status_code == 200


def test_a_request_over_the_limit_is_refused_by_its_announced_length_alone(small):
    answer = small.raw(head(100_001))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer.lower()


def test_a_request_of_unknown_length_is_refused_once_it_is_over_the_limit(small):
    parts = (bytes(10_000) for _ in range(1_000))
    with suppress(BrokenPipeError, ConnectionResetError):
        answer = small.post(content=parts, headers=IMAGE)
        assert refusal(answer, 413) == "The image is larger than 0.1 MB (--max-file-mb)"
    body = b"\r\n--B\r\nContent-Disposition: form-data; name=f; filename=f\r\n\r\n"
    many = (part for _ in range(5) for part in (body, bytes(90_000)))
    kind = {"Content-Type": "multipart/form-data; boundary=B"}
    assert "larger than 0.25 MB (--max-request-mb)" in refusal(
        small.post(content=many, headers=kind), 413
    )


def test_a_refused_client_that_sends_everything_first_still_reads_why(small):
    connection = http.client.HTTPConnection("127.0.0.1", small.port, timeout=10)
    connection.request("POST", "/v1/score", body=bytes(5 * MB), headers=IMAGE)
    answer = connection.getresponse()
    assert answer.status == 413
    assert "larger than" in json.load(answer)["error"]
    connection.close()


def test_too_many_files_are_refused(small, picture):
    files = form(*((str(i), picture(5)) for i in range(4)))
    assert refusal(small.post(files=files), 413) == (
        "The request has more than 3 files (--max-files)"
    )
    assert small.post(files=files[:3]).status_code == 200


def test_an_image_with_too_many_pixels_is_not_decoded(small, picture):
    bomb = picture(5, side=101)
    files = form(("bomb.png", bomb), ("good.png", picture(5, side=100)))
    rows = small.post(files=files).json()["images"]
    assert rows[0]["error"] == (
        "101×101 pixels exceed the limit of 0.01 megapixels (--max-megapixels)"
    )
    assert rows[1]["score"] == 5
    assert "exceed the limit" in refusal(small.post(content=bomb, headers=IMAGE), 422)


@pytest.mark.parametrize("kind", ["ICO", "ICNS"])
def test_an_icon_with_more_inside_than_outside_is_not_decoded(small, picture, kind):
    inside = picture(5, side=512)
    if kind == "ICO":
        head = struct.pack("<3H4B2H2I", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(inside), 22)
    else:
        sizes = len(inside) + 16, len(inside) + 8
        head = struct.pack(">4sI4sI", b"icns", sizes[0], b"icp4", sizes[1])
    answer = small.post(content=head + inside, headers=IMAGE)
    assert "its pixels exceed the limit of 0.01 megapixels" in refusal(answer, 422)


def test_an_image_that_is_gone_over_a_thousand_times_is_not_decoded(small, picture):
    scans = b"\xff\xda" * 1001
    answer = small.post(content=picture(5, kind="JPEG") + scans, headers=IMAGE)
    assert "more than 1000 scans" in refusal(answer, 422)


def test_nothing_that_was_sent_is_written_to_a_disk(scorer, serve, picture, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    padded = picture(5) + bytes(3 * MB)
    with serve(scorer) as site:
        assert site.post(files=form(("a.png", padded))).status_code == 200


@pytest.mark.parametrize("charset", ["undefined", "idna", "zlib", "utf-16"])
def test_a_form_is_read_alike_in_any_character_set(small, picture, charset):
    body = (
        b'--B\r\nContent-Disposition: form-data; name=f; filename="\xc3\xa4"\r\n\r\n'
        + picture(5)
        + b"\r\n--B--"
    )
    kind = f"multipart/form-data; charset={charset}; boundary=B"
    answer = small.post(content=body, headers={"Content-Type": kind})
    assert [row["name"] for row in answer.json()["images"]] == ["ä"]


# -- room ------------------------------------------------------------------------------------


def test_a_full_queue_refuses_and_has_room_again_later(scorer, serve, picture, wait_until):
    with serve(scorer, Limits(max_queue=4, max_files=4, max_batch=2)) as site:
        wait_until(lambda: site.get("/readyz").status_code == 200)
        scorer.go.clear()
        files = form(*((str(i), picture(i)) for i in range(3)))
        first = in_background(lambda: site.post(files=files))
        wait_until(lambda: "adcgan_queue_images 3.0" in site.get("/metrics").text)
        refused = site.post(files=files[:2])
        assert refusal(refused, 503) == "Too many images are waiting (--max-queue)"
        second = in_background(lambda: site.post(files=files[:1]))
        wait_until(lambda: "adcgan_queue_images 4.0" in site.get("/metrics").text)
        scorer.go.set()
        assert [row["score"] for row in first().json()["images"]] == [0, 1, 2]
        assert second().status_code == 200
        assert site.post(files=files).status_code == 200


def test_too_many_requests_at_a_time_are_refused(scorer, serve, picture, wait_until):
    with serve(scorer, Limits(max_requests=1)) as site:
        wait_until(lambda: site.get("/readyz").status_code == 200)
        scorer.go.clear()
        scorer.asked.clear()
        first = in_background(lambda: site.post(content=picture(5), headers=IMAGE))
        assert scorer.asked.wait(10)
        refused = site.post(content=picture(5), headers=IMAGE)
        assert refusal(refused, 503) == "Too many requests at a time (--max-requests)"
        assert site.get("/healthz").status_code == 200
        scorer.go.set()
        assert first().status_code == 200
        assert site.post(content=picture(5), headers=IMAGE).status_code == 200


def test_too_many_bytes_at_a_time_are_refused(scorer, serve, picture, wait_until):
    limits = Limits(max_file_mb=0.1, max_request_mb=0.1, max_held_mb=0.1)
    with serve(scorer, limits) as site:
        wait_until(lambda: site.get("/readyz").status_code == 200)
        with socket.create_connection(("127.0.0.1", site.port)) as slow:
            slow.sendall(head(95_000) + bytes(90_000))
            padded = picture(5) + bytes(20_000)
            wait_until(lambda: site.post(content=padded, headers=IMAGE).status_code == 503)
            refused = site.post(content=padded, headers=IMAGE)
            assert refusal(refused, 503) == "Too many bytes at a time (--max-held-mb)"
        wait_until(lambda: site.post(content=padded, headers=IMAGE).status_code == 200)


def test_too_many_connections_are_refused(scorer, serve):
    with serve(scorer, Limits(max_connections=3)) as site:
        idle = [socket.create_connection(("127.0.0.1", site.port)) for _ in range(3)]
        time.sleep(0.2)
        answer = site.raw(b"")
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 1" in answer
        assert b'{"error": "Too many connections (--max-connections)"}' in answer
        for connection in idle:
            connection.close()
        time.sleep(0.2)
        assert site.get("/healthz").status_code == 200


# -- time ------------------------------------------------------------------------------------


def test_a_body_that_comes_too_slowly_is_refused(scorer, serve, picture):
    with serve(scorer, Limits(body_seconds=0.3)) as site:
        start = time.monotonic()
        answer = site.raw(head(1000) + b"x")
        assert 0.2 < time.monotonic() - start < 5
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"The body did not arrive within 0.3 s (--body-seconds)" in answer
        assert site.post(content=picture(5), headers=IMAGE).status_code == 200


@pytest.mark.parametrize("begun", [b"", b"POST /v1/sc", b"GET / HTTP/1.1\r\nHost: x\r\n"])
def test_a_head_that_comes_too_slowly_is_refused(scorer, serve, begun):
    with serve(scorer, Limits(header_seconds=0.3)) as site:
        answer = site.raw(begun)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"No request came within 0.3 s (--header-seconds)" in answer


def test_a_second_head_on_a_connection_has_no_more_time(scorer, serve):
    with (
        serve(scorer, Limits(header_seconds=0.3)) as site,
        socket.create_connection(("127.0.0.1", site.port), timeout=10) as connection,
    ):
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        first = b""
        while not first.endswith(b'{"status":"ok"}'):
            first += connection.recv(65536)
        connection.sendall(b"GET /hea")
        assert connection.recv(65536).startswith(b"HTTP/1.1 408 ")


def test_scoring_that_takes_too_long_is_given_up(scorer, serve, picture, wait_until):
    with serve(scorer, Limits(score_seconds=0.3, max_batch=1)) as site:
        wait_until(lambda: site.get("/readyz").status_code == 200)
        scorer.go.clear()
        scorer.batches.clear()
        files = form(*((str(i), picture(5)) for i in range(5)))
        answer = site.post(files=files)
        assert refusal(answer, 503) == "Not scored within 0.3 s (--score-seconds)"
        assert "adcgan_queue_images 0.0" in site.get("/metrics").text
        scorer.go.set()
        wait_until(lambda: site.post(content=picture(5), headers=IMAGE).status_code == 200)
        # One image was under way; the other four were never begun.
        assert sum(scorer.batches) < 5


# -- clients that misbehave ------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
        b"hello\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 100_000,
        head(5, **{"Content-Length": "6"}),
        head("-5"),
        head(10**30),
    ],
)
def test_what_is_not_http_is_a_json_error(small, data):
    answer = small.raw(data)
    assert answer[:13] in {b"HTTP/1.1 400 ", b"HTTP/1.1 413 "}
    assert b'"error"' in answer
    assert small.get("/healthz").status_code == 200


def test_a_chunked_body_that_breaks_off_is_forgotten(small):
    data = (
        b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nnonsense\r\n"
    )
    assert small.raw(data).startswith(b"HTTP/1.1 400 ")


def test_a_client_that_goes_away_leaves_nothing_behind(small, picture, wait_until):
    with socket.create_connection(("127.0.0.1", small.port)) as connection:
        connection.sendall(head(50_000) + bytes(20_000))
        time.sleep(0.1)
    gone = 'adcgan_requests_total{path="/v1/score",status="499"} 1.0'
    wait_until(lambda: gone in small.get("/metrics").text)
    assert "adcgan_requests_in_progress 1.0" in small.get("/metrics").text
    assert small.post(content=picture(5), headers=IMAGE).status_code == 200


def test_a_client_that_reads_nothing_is_cut_off(scorer, serve, monkeypatch, wait_until):
    monkeypatch.setattr(server, "_FLUSH_SECONDS", 0.3)
    # An answer of several megabytes: more than the kernel takes off the service's hands.
    scorer.calibration_scores_ = np.sort(np.random.default_rng(0).normal(size=600_000))
    with serve(scorer, Limits(max_connections=1)) as site, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", site.port))
        connection.sendall(b"GET /v1/model HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert connection.recv(9) == b"HTTP/1.1 "
        assert site.get("/healthz").status_code == 503
        wait_until(lambda: site.get("/healthz").status_code == 200)


def test_requests_share_a_connection(small, picture):
    connection = http.client.HTTPConnection("127.0.0.1", small.port, timeout=10)
    for level in (1, 2, 3):
        connection.request("POST", "/v1/score", body=picture(level), headers=IMAGE)
        assert json.load(connection.getresponse())["images"][0]["score"] == level
    connection.close()


# -- beginning and end -----------------------------------------------------------------------


def test_what_was_accepted_is_answered_at_the_end_and_new_work_refused(
    scorer, serve, picture, wait_until
):
    with serve(scorer) as site:
        wait_until(lambda: site.get("/readyz").status_code == 200)
        scorer.go.clear()
        accepted = [
            in_background(lambda level=level: site.post(content=picture(level), headers=IMAGE))
            for level in range(8)
        ]
        wait_until(lambda: "adcgan_queue_images 8.0" in site.get("/metrics").text)
        site.app.draining = True
        refused = site.post(content=picture(9), headers=IMAGE)
        assert refusal(refused, 503) == "The service is shutting down"
        scorer.go.set()
        answers = [result() for result in accepted]
    assert [answer.json()["images"][0]["score"] for answer in answers] == list(range(8))


def test_a_port_in_use_is_one_line():
    with bind("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        with pytest.raises(InputError, match=f"--port {port} on 127.0.0.1 cannot be used: .+"):
            bind("127.0.0.1", port)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "a" * 300])
def test_a_host_that_is_none_is_one_line(host):
    with pytest.raises(InputError, match=r"--host .+ cannot be used: .+"):
        bind(host, 0)


@pytest.mark.parametrize(
    ("host", "alone"), [("127.0.0.1", True), ("localhost", True), ("0.0.0.0", False)]
)
def test_who_can_reach_an_address_is_known(host, alone):
    with bind(host, 0) as bound:
        assert is_loopback(bound) is alone
        assert address(bound).startswith("http://")
