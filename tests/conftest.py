from __future__ import annotations

import importlib
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# One thread each, before torch is there: processes that spin on the same cores slow one another
# down a hundredfold.
os.environ.setdefault("OMP_NUM_THREADS", "1")

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
WATCHED_VARIABLES = ("ADCGAN_", "MLFLOW_", "OMP_")
CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    no_data = pytest.mark.skip(reason="needs the image sets in $ADCGAN_DATA")
    not_slow = pytest.mark.skip(reason="slow; run with --slow")
    no_cuda = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if item.get_closest_marker("data") and not os.environ.get("ADCGAN_DATA"):
            item.add_marker(no_data)
        if item.get_closest_marker("cuda") and not has_cuda():
            item.add_marker(no_cuda)
        slow = item.get_closest_marker("slow") or item.get_closest_marker("matrix")
        if slow and not config.getoption("--slow"):
            item.add_marker(not_slow)


def has_cuda() -> bool:
    """Say whether there is a CUDA device."""
    import torch

    return torch.cuda.is_available()


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keep decoded images out of the user's own cache."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["ADCGAN_CACHE"] = str(folder)
    return folder


def global_modes() -> dict[str, Any]:
    """Return what holds for the whole process and a test could leave set for the next one."""
    import torch

    modes = {
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "default dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "denormals flushed": float(torch.tensor(1e-40) * 1.0) == 0.0,
        "float32 products": torch.get_float32_matmul_precision(),
        "convolutions": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "CUDA waits": torch.cuda.is_initialized() and torch.cuda.get_sync_debug_mode(),
        "NumPy errors": np.geterr(),
        "logging": logging.root.manager.disable,
        "folder": Path.cwd(),
    }
    # Libraries write variables of their own when they are first used; those are theirs.
    variables = {k: v for k, v in os.environ.items() if k.startswith(WATCHED_VARIABLES)}
    return modes | {f"${name}": value for name, value in variables.items()}


@pytest.fixture(autouse=True)
def modes_as_before(cache_folder: Path) -> Iterator[None]:  # noqa: ARG001
    """Fail a test that leaves a mode of the whole process set."""
    before = global_modes()
    yield
    after = global_modes()
    names = before.keys() | after.keys()
    changed = {n: (before.get(n), after.get(n)) for n in names if before.get(n) != after.get(n)}
    assert not changed, "these hold for the whole process, and the test left them changed"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Return headless Chromium as installed on this machine, driven by Playwright."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("Chromium is not installed")
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
        yield running
        running.close()


@pytest.fixture
def benchmark_script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Return what imports a script of ``benchmarks/`` afresh, by its name."""

    def imported(name: str) -> Any:
        monkeypatch.syspath_prepend(str(BENCHMARKS))
        for file in BENCHMARKS.glob("*.py"):
            monkeypatch.delitem(sys.modules, file.stem, raising=False)
        return importlib.import_module(name)

    return imported
