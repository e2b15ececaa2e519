"""A scorer that is quick and can be held up, and services on loopback ports."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import adcgan
from adcgan.detectors import PixelKNN, RobustAutoencoder
from adcgan.scoring import Components, ModelCard, Scored, Scorer


class Brightness(Scorer):
    """The brighter, the more anomalous; waits for `go` before each batch."""

    resize = "squash"
    image_shape_ = (3, 16, 16)
    resized_ = True
    n_train_, n_calibration_ = 400, 99

    def __init__(self) -> None:
        self.calibration_scores_ = np.linspace(10, 108, 99)
        self.calibration_peaks_: NDArray[np.float64] | None = self.calibration_scores_
        self.threshold_, self.fpr_ = 107.0, 0.02
        self.go = threading.Event()
        self.go.set()
        self.asked = threading.Event()
        self.batches: list[int] = []
        self.fails = False

    backend = property(lambda self: self)
    system = "Brightness"
    images_at_once = 256
    has_maps = True

    def scored(self, batch: NDArray[np.uint8]) -> Scored[NDArray[Any]]:
        self.asked.set()
        assert self.go.wait(30)
        if self.fails:
            raise ZeroDivisionError("secret")
        self.batches.append(len(batch))
        return Scored(
            {"mean": batch.mean((1, 2, 3)), "spread": batch.std((1, 2, 3))},
            batch.mean(1).astype(np.float32) if self.has_maps else None,
        )

    def combine(self, components: Components) -> NDArray[np.float64]:
        return components["mean"]

    def variants(self, components: Components) -> dict[str, NDArray[np.float64]]:
        return dict.fromkeys(set(), components["mean"])

    def card(self) -> ModelCard | None:
        return None

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        return {"deep": deep}

    def generate(self, n: int = 16, *, seed: int = 0) -> NDArray[np.float32]:
        raise AssertionError(f"the service asks for {n} images of seed {seed}")

    def _check_fitted(self) -> None:
        pass


@dataclass
class Site:
    """A running service."""

    url: str
    app: Any
    port: int

    def get(self, path: str, **options: Any) -> Any:
        return self.ask("GET", path, **options)

    def post(self, path: str = "/v1/score", **options: Any) -> Any:
        return self.ask("POST", path, **options)

    def ask(self, method: str, path: str, **options: Any) -> Any:
        with httpx.Client(trust_env=False, verify=False, timeout=30) as client:
            return client.request(method, self.url + path, **options)

    def raw(self, data: bytes, timeout: float = 10) -> bytes:
        """Send bytes, and return all that comes back until the connection closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as connection:
            connection.sendall(data)
            received = b""
            with suppress(ConnectionResetError):
                while piece := connection.recv(65536):
                    received += piece
        return received


@contextmanager
def running(scorer: Any, limits: Any = None, **options: Any) -> Iterator[Site]:
    from adcgan.serve import Limits, create_app
    from adcgan.serve.server import bind, run

    limits = limits or Limits()
    app = create_app(scorer, limits, **options)
    bound = bind("127.0.0.1", 0)
    port = bound.getsockname()[1]
    started = threading.Event()
    thread = threading.Thread(
        target=run, args=(app, bound, limits), kwargs={"on_ready": started.set}, daemon=True
    )
    thread.start()
    assert started.wait(20)
    site = Site(f"http://127.0.0.1:{port}", app, port)
    try:
        yield site
    finally:
        app.draining = True
        thread.join(20)
        assert not thread.is_alive()


def until(condition: Callable[[], Any], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


@pytest.fixture
def scorer() -> Iterator[Brightness]:
    made = Brightness()
    yield made
    made.go.set()


@pytest.fixture
def serve() -> Callable[..., Any]:
    """Return a function that runs a service while a block runs."""
    return running


@pytest.fixture
def wait_until() -> Callable[..., None]:
    return until


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """Return a service with the default limits that nothing disturbs."""
    with running(Brightness()) as found:
        until(lambda: found.get("/readyz").status_code == 200)
        yield found


@pytest.fixture(scope="session")
def picture() -> Callable[..., bytes]:
    """Return a function that makes the bytes of an image of one brightness."""

    def make(level: int, *, side: int = 16, mode: str = "RGB", kind: str = "PNG") -> bytes:
        buffer = io.BytesIO()
        Image.new(mode, (side, side), (level,) * len(Image.new(mode, (1, 1)).getbands())).save(
            buffer, kind
        )
        return buffer.getvalue()

    return make


@pytest.fixture(scope="session")
def zeros() -> Any:
    """Return images to learn from."""
    train = adcgan.load_named("digits", "train")
    return train.select(train.labels == 0)


@pytest.fixture(scope="session")
def models(zeros: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a detector of networks, its export, and one that has no export."""
    folder = tmp_path_factory.mktemp("models")
    detector = RobustAutoencoder(
        width=0.25, epochs=1, min_steps=0, rounds=1, fpr=0.1, device="cpu"
    ).fit(zeros)
    detector.save(folder / "rda")
    adcgan.export_onnx(detector, folder / "rda.onnx")
    PixelKNN(fpr=0.1, device="cpu").fit(zeros).save(folder / "knn")
    return folder


@pytest.fixture
def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
