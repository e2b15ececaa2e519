from __future__ import annotations

import os
import subprocess
import sys
import threading
from io import BytesIO

import numpy as np
import psutil
import pytest
from PIL import Image

from adcgan.bulk.decoder import Decoder
from adcgan.data.image_file import Target, decode_file


@pytest.fixture
def decoder():
    decoder = Decoder(Target(32, "pad", 3), seconds=5)
    yield decoder
    decoder.close()


def picture(size=(40, 20), kind="PNG"):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def children():
    return [p for p in psutil.Process().children() if "adcgan.bulk.decoder" in p.cmdline()[-1]]


def test_pixels_are_those_of_decoding_here(decoder, tmp_path):
    for kind in ("PNG", "JPEG"):
        content = picture(kind=kind)
        path = tmp_path / f"image.{kind}"
        path.write_bytes(content)
        expected = decode_file(BytesIO(content), Target(32, "pad", 3))
        np.testing.assert_array_equal(decoder.decode(content, is_path=False), expected)
        np.testing.assert_array_equal(decoder.decode(os.fsencode(path), is_path=True), expected)


def test_one_process_decodes_many_images(decoder):
    decoder.decode(picture(), is_path=False)
    (first,) = children()
    decoder.decode(picture(), is_path=False)
    assert children() == [first]
    decoder.close()
    assert children() == []


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "the file is empty"),
        (b"hello", "not an image in a format that can be read"),
        (picture()[:100], "truncated"),
    ],
)
def test_a_broken_image_is_a_reason(decoder, content, error):
    assert error in decoder.decode(content, is_path=False).lower()


def test_a_missing_file_is_a_reason(decoder, tmp_path):
    reason = decoder.decode(os.fsencode(tmp_path / "gone.png"), is_path=True)
    assert reason == "No such file or directory"


def test_an_image_that_ends_the_process_costs_itself_alone(decoder):
    decoder.decode(picture(), is_path=False)
    (process,) = children()
    process.suspend()
    threading.Timer(0.2, process.kill).start()
    reason = decoder.decode(picture(), is_path=False)
    assert reason == "decoding it ended the decoder's process (signal SIGKILL)"
    assert decoder.decode(picture(), is_path=False).shape == (3, 32, 32)


def test_an_image_that_takes_too_long_is_given_up():
    decoder = Decoder(Target(32, "squash", 1), seconds=0)
    assert decoder.decode(picture(), is_path=False) == "decoding it took more than 0 seconds"
    assert children() == []


def test_decoding_starts_without_torch_or_pyarrow():
    code = "import adcgan.bulk.decoder, sys\nprint(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    ).stdout.split()
    assert "PIL" in loaded
    assert not {"torch", "pyarrow", "ray", "sklearn"} & set(loaded)
