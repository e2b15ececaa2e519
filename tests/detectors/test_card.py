"""The card of a model: what hubs of models show, and what the service says."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard

import adcgan
from adcgan import DETECTORS, Detector, load, load_images
from adcgan.detectors import PixelPCA, PretrainedKNN, RobustAutoencoder

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 16, 16), np.uint8)


@pytest.fixture
def detector() -> Detector:
    return PixelPCA(fpr=0.25, n_components=3).fit(IMAGES)


def section(text: str, title: str) -> str:
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_a_model_folder_has_a_card_that_hubs_can_read(detector: Detector, tmp_path: Path) -> None:
    detector.save(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.library_name == "adcgan"
    assert {"anomaly-detection", "pixel-pca"} <= set(card.data.tags)
    assert card.text.startswith("\n# PixelPCA\n\nMean squared error of a projection")


def test_the_card_says_what_the_model_is(detector: Detector, tmp_path: Path) -> None:
    before = datetime.now(timezone.utc).replace(microsecond=0)
    detector = PixelPCA(fpr=0.25, n_components=3).fit(IMAGES)
    detector.save(tmp_path)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    learned = section(text, "Training data")
    for said in ("`array`", "40 read, 0 unreadable", "| 36 |", "4 held-out", "16×16 pixels, grey"):
        assert said in learned, said
    assert "| `n_components` | `3` | `64` | Principal components to keep;" in text
    threshold = section(text, "Threshold")
    assert f"above {detector.threshold_:.6g}" in threshold
    assert "At most a fraction of 0.25 of new normal images" in threshold
    assert "with that many images, the smallest possible budget is 0.2." in threshold
    assert "before any evaluation" in section(text, "Evaluation")
    made = section(text, "Provenance")
    assert f"adcgan {adcgan.__version__}" in made
    date = datetime.fromisoformat(made.split("| date | ")[1].split(" |")[0])
    assert before <= date <= datetime.now(timezone.utc)
    assert platform.node() not in text


def test_a_loaded_model_has_the_same_card(detector: Detector, tmp_path: Path) -> None:
    detector.save(tmp_path / "first")
    again = load(tmp_path / "first")
    assert isinstance(again, Detector)
    again.save(tmp_path / "second")
    first, second = ((tmp_path / name / "README.md").read_text() for name in ("first", "second"))
    assert first == second
    assert again.card() == detector.card()


def test_a_model_from_before_there_were_cards_loads_and_says_what_is_known(
    detector: Detector, tmp_path: Path
) -> None:
    from adcgan.detectors import storage

    detector.save(tmp_path)
    stored = storage.read(tmp_path)
    config = {key: value for key, value in stored.config.items() if key != "provenance"}
    storage.write(tmp_path, config, stored.calibration, stored.state, "")
    (tmp_path / "README.md").unlink()
    older = load(tmp_path)
    card = older.card()
    assert card is not None
    assert (card.source, card.date, card.hardware, card.n_images) == (None, None, None, None)
    assert card.version == adcgan.__version__
    assert (card.n_train, card.n_calibration) == (36, 4)
    assert isinstance(older, Detector)
    older.save(tmp_path)
    assert "| source | not recorded |" in (tmp_path / "README.md").read_text()


def test_an_edited_card_does_not_break_its_model(detector: Detector, tmp_path: Path) -> None:
    detector.save(tmp_path)
    path = tmp_path / "README.md"
    path.write_text(path.read_text().replace("tags:", "license: mit\ntags:"))
    assert load(tmp_path).threshold_ == detector.threshold_
    detector.save(tmp_path)
    assert "license" not in path.read_text()


def test_a_readme_that_is_no_card_is_left_alone(detector: Detector, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_bytes(b"\xffMine.\n")
    detector.save(tmp_path)
    assert (tmp_path / "README.md").read_bytes() == b"\xffMine.\n"
    (tmp_path / "README.md").unlink()
    (tmp_path / "README.md").mkdir()
    detector.save(tmp_path)
    assert load(tmp_path).threshold_ == detector.threshold_


def test_a_card_tells_of_a_path_only_its_last_parts(folder_of_images: Path, tmp_path: Path) -> None:
    images = load_images(folder_of_images, image_size=16)
    assert str(tmp_path) in images.source
    detector = PixelPCA(fpr=0.5).fit(images)
    detector.save(tmp_path / "model")
    text = (tmp_path / "model" / "README.md").read_text()
    assert "no`rm|al" in detector.card().source  # type: ignore[operator]
    assert "photos/no`rm\\|al" in text
    assert str(tmp_path) not in text
    assert "8 read, 1 unreadable" in text


@pytest.fixture
def folder_of_images(tmp_path: Path) -> Path:
    """Return a folder whose name Markdown would trip over, with an image that cannot be read."""
    from PIL import Image

    folder = tmp_path / "photos" / "no`rm|al"
    folder.mkdir(parents=True)
    for index in range(8):
        Image.fromarray(IMAGES[index]).save(folder / f"{index}.png")
    (folder / "broken.png").write_bytes(b"")
    return folder


def test_what_a_card_warns_of_depends_on_the_model(detector: Detector) -> None:
    assert not any("ImageNet" in limit for limit in detector.card().limits)
    assert DETECTORS["pretrained-knn"] is PretrainedKNN
    twin = PretrainedKNN(resize="crop")
    for name in ("image_shape_", "n_train_", "n_calibration_", "threshold_", "fpr_", "_provenance"):
        setattr(twin, name, getattr(detector, name))
    twin.resized_ = True
    text = " ".join(twin.card().limits)
    for said in ("pretrained on ImageNet", "resized to 16×16 pixels", "central square"):
        assert said in text, said


@pytest.mark.parametrize("kind", DETECTORS.values(), ids=DETECTORS)
def test_every_detector_says_what_it_is_without_lists_of_settings(kind: type[Detector]) -> None:
    assert (kind.__doc__ or "").startswith(kind.about.split("\n\n")[0])
    assert "----" not in kind.about
    assert ">>>" not in kind.about


def test_an_exported_file_has_the_card_of_its_model(tmp_path: Path) -> None:
    settings = {"width": 0.25, "epochs": 1, "min_steps": 0, "rounds": 1, "fpr": 0.25}
    detector = RobustAutoencoder(**settings, device="cpu").fit(IMAGES)
    adcgan.export_onnx(detector, tmp_path / "m.onnx")
    card = load(tmp_path / "m.onnx").card()
    assert card == detector.card()
    assert card is not None
    json.dumps(asdict(card), allow_nan=False)
