from __future__ import annotations

import os
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    no_data = pytest.mark.skip(reason="needs the image sets in $ADCGAN_DATA")
    not_slow = pytest.mark.skip(reason="slow; run with --slow")
    for item in items:
        if item.get_closest_marker("data") and not os.environ.get("ADCGAN_DATA"):
            item.add_marker(no_data)
        if item.get_closest_marker("slow") and not config.getoption("--slow"):
            item.add_marker(not_slow)


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keep decoded images out of the user's own cache."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["ADCGAN_CACHE"] = str(folder)
    return folder
