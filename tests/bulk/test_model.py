from __future__ import annotations

import numpy as np
import pytest

from adcgan import load
from adcgan.bulk.model import Model
from adcgan.detectors import ADCGAN, PixelPCA
from adcgan.errors import InputError


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (60, 16, 16), np.uint8)


@pytest.fixture(scope="module")
def folder(images, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "m1"
    PixelPCA(fpr=0.2).fit(images).save(path)
    (path / "notes.txt").write_text("not of the model")
    return path


def test_a_folder_travels_without_what_is_not_of_the_model(folder, images):
    shipped = Model.at(folder)
    assert shipped.name == "m1"
    assert set(shipped.files) == {
        "manifest.json",
        "config.json",
        "weights.safetensors",
        "calibration.json",
    }
    there = shipped.load("cpu")
    np.testing.assert_array_equal(
        there.decision_function(images), load(folder).decision_function(images)
    )


def test_an_exported_file_travels(images, tmp_path):
    pytest.importorskip("onnx")
    from adcgan.onnx.export import export_onnx

    path = tmp_path / "m1.onnx"
    settings = {"width": 0.0625, "warmup_epochs": 1, "epochs": 1, "min_steps": 0, "fpr": 0.2}
    detector = ADCGAN(**settings, device="cpu")
    export_onnx(detector.fit(images), path)
    shipped = Model.at(path)
    assert set(shipped.files) == {"m1.onnx"}
    np.testing.assert_array_equal(
        shipped.load("cpu").decision_function(images), load(path).decision_function(images)
    )


def test_the_digest_is_that_of_the_content(folder, images, tmp_path):
    shipped = Model.at(folder)
    load(folder).save(tmp_path / "again")
    assert Model.at(tmp_path / "again").digest() == shipped.digest()
    PixelPCA(fpr=0.2, n_components=3).fit(images).save(tmp_path / "other")
    assert Model.at(tmp_path / "other").digest() != shipped.digest()


def test_a_damaged_model_is_refused_by_name(folder, tmp_path):
    shipped = Model.at(folder)
    content = shipped.files["weights.safetensors"]
    shipped.files["weights.safetensors"] = content[:-1] + bytes([content[-1] ^ 1])
    with pytest.raises(InputError, match=r"weights\.safetensors was changed"):
        shipped.load("cpu")
    for path in (tmp_path, tmp_path / "gone"):
        with pytest.raises(InputError, match="model folder"):
            Model.at(path)
