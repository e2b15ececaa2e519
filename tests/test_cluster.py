from __future__ import annotations

import socket
import sys
import time

import pytest

from adcgan.cluster import connected
from adcgan.errors import InputError, MissingExtraError


def test_without_ray_a_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'adcgan\[ray\]'"), connected("auto"):
        pass


def refused(address):
    with pytest.raises(InputError, match="--ray must be HOST:PORT") as caught, connected(address):
        pass
    assert repr(address) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.ray
@pytest.mark.parametrize(
    "address", ["", "here", "localhost", "ray://127.0.0.1:10001", "127.0.0.1:x", "127.0.0.1:99999"]
)
def test_what_is_no_address_is_refused(address):
    pytest.importorskip("ray")
    refused(address)


@pytest.mark.ray
def test_an_address_where_nothing_listens_is_refused_at_once(monkeypatch):
    pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    started = time.monotonic()
    refused(address)
    # $RAY_ADDRESS is what "auto" goes by first.
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(InputError, match="refused"), connected("auto"):
        pass
    assert time.monotonic() - started < 10


@pytest.mark.ray
@pytest.mark.slow
def test_a_local_cluster_lives_as_long_as_the_block():
    ray = pytest.importorskip("ray")
    with connected("local") as cluster:
        assert cluster is ray
        assert ray.get(ray.put(1)) == 1
        with connected("127.0.0.1:1"):  # an open connection is used as it is
            pass
        assert ray.is_initialized()
    assert not ray.is_initialized()
