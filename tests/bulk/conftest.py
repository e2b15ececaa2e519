from __future__ import annotations

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def broken():
    """Return the content of files that are no images, by name."""
    return {"empty.png": b"", "noise.png": b"\x89PNG\r\n\x1a\nno more", "note.txt": b"hello"}


@pytest.fixture(scope="module")
def folder(broken, tmp_path_factory):
    """Return 150 images in two folders, and some files that are none."""
    root = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(1)
    for i in range(150):
        path = root / "ab"[i % 2] / f"{i:03d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20, 20), np.uint8)).save(path)
    for name, content in broken.items():
        (root / name).write_bytes(content)
    (root / "b/link.png").symlink_to("nowhere")
    return root
