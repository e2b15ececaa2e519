from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import adcgan
from adcgan import DETECTORS, Detector, InputError, MissingExtraError, OnnxScorer, load, load_named
from adcgan.onnx import export as export_file
from adcgan.onnx.export import Export, export_onnx
from adcgan.onnx.metadata import Weighing

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

QUICK: dict[str, Any] = {
    "width": 0.06,
    "batch_size": 16,
    "warmup_epochs": 1,
    "epochs": 1,
    "min_steps": 0,
    "warmup_steps": 2,
    "fpr": 0.2,
    "device": "cpu",
}
REFUSED = sorted(name for name, kind in DETECTORS.items() if kind.not_exported and not kind.extra)
EXPORTED = sorted(name for name, kind in DETECTORS.items() if not kind.not_exported)
# Settings that change the graph or what the score is made of, by a name for the test.
VARIATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in EXPORTED},
    "single": ("adcgan", {"latent": "single"}),
    "none": ("adcgan", {"latent": "none"}),
    "normalised": ("adcgan", {"normalise": "validation", "reduction": "mean"}),
    "colour": ("adcgan", {"image_size": 32}),
    "residual": ("adcgan-ss", {"image_size": 32}),
    "thorough": ("adcgan-ss", {"effort": "thorough"}),
    "clusters": ("adcgan-ss", {"n_clusters": 2}),
}
# They differ from others in the shape of the networks alone, and take long.
SLOW_VARIATIONS = {"residual", "thorough"}
COLOUR = {"alad", "egbad", "colour"}


def digits(label_is_zero: bool) -> NDArray[np.uint8]:
    """Return digits (n, 16, 16, 1) of the training split: zeros, or all others."""
    images = load_named("digits", "train")
    assert images.labels is not None
    return images.images[(images.labels == 0) == label_is_zero].transpose(0, 2, 3, 1)


def colourful(n: int, seed: int) -> NDArray[np.uint8]:
    """Return smooth colour images with some noise (n, 32, 32, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 200, (n, 4, 4, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    return coarse + rng.integers(0, 56, coarse.shape, dtype=np.uint8)


def images_for(name: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return images to learn from, and 1,000 others."""
    if name in COLOUR:
        return colourful(60, 0), colourful(1000, 1)
    # Enough for two clusters.
    return digits(True)[: None if name == "clusters" else 60], digits(False)[:1000]


def quick(name: str, **settings: Any) -> Detector:
    known = inspect.signature(DETECTORS[name]).parameters
    return DETECTORS[name](**{k: v for k, v in QUICK.items() if k in known}, **settings)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Detector, Export]]:
    """Return a function that gives a fitted detector and its export, made once each."""
    folder = tmp_path_factory.mktemp("exports")
    made: dict[str, tuple[Detector, Export]] = {}

    def get(name: str) -> tuple[Detector, Export]:
        if name not in made:
            system, settings = VARIATIONS[name]
            detector = quick(system, **settings).fit(images_for(name)[0])
            made[name] = detector, export_onnx(detector, folder / "new" / f"{name}.onnx")
        return made[name]

    return get


Exported = Callable[[str], tuple[Detector, Export]]


# -- the file answers as the detector does ---------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.matrix] if name in SLOW_VARIATIONS else [])
        for name in VARIATIONS
    ],
)
def test_a_thousand_images_get_the_detectors_answers(name: str, exported: Exported) -> None:
    detector, export = exported(name)
    scorer, images = load(export.path), images_for(name)[1]
    assert len(images) == 1000
    expected, found = detector.assess(images), scorer.assess(images)
    for part, values in expected.components.items():
        # L_FL is a difference of probabilities, which float32 knows to 1e-7.
        atol = 1e-6 if part == "latent" else 0
        np.testing.assert_allclose(found.components[part], values, rtol=1e-4, atol=atol)
    # Components on one scale may cancel out.
    on_one_scale = VARIATIONS[name][0] in {"adcgan-ss", "adcgan-local"} or name == "normalised"
    atol = 1e-3 if on_one_scale else 0
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-4, atol=atol)
    np.testing.assert_array_equal(found.p_values, expected.p_values)
    np.testing.assert_array_equal(found.anomalous, expected.anomalous)
    assert list(found.variants) == list(expected.variants)
    for key, values in expected.variants.items():
        np.testing.assert_allclose(found.variants[key], values, rtol=1e-4, atol=atol)
    some = images[:50]
    heat = detector.anomaly_map(some)
    np.testing.assert_allclose(scorer.anomaly_map(some), heat, rtol=1e-4, atol=1e-4 * heat.max())
    if name != "patch-pca":
        np.testing.assert_allclose(scorer.reconstruct(some), detector.reconstruct(some), atol=1e-4)
    np.testing.assert_array_equal(scorer.predict_proba(some), detector.predict_proba(some))


def test_what_is_known_of_normal_images_is_in_the_file(exported: Exported) -> None:
    detector, export = exported("adcgan")
    scorer = load(export.path)
    assert isinstance(scorer, OnnxScorer)
    assert (scorer.threshold_, scorer.fpr_) == (detector.threshold_, detector.fpr_)
    np.testing.assert_array_equal(scorer.calibration_scores_, detector.calibration_scores_)
    assert (scorer.n_train_, scorer.n_calibration_) == (detector.n_train_, detector.n_calibration_)
    assert (scorer.image_shape_, scorer.resize) == (detector.image_shape_, detector.resize)
    assert scorer.resized_ == detector.resized_ is False
    assert scorer.description_.parameters == detector.get_params()
    assert scorer.description_.detector == "ADCGAN"


def test_any_runtime_gets_score_and_pictures_from_the_graph(exported: Exported) -> None:
    detector, export = exported("adcgan")
    session = onnxruntime.InferenceSession(export.path, providers=["CPUExecutionProvider"])
    assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [
        ("images", "tensor(uint8)", ["n", 16, 16, 1])
    ]
    assert [(o.name, o.type, o.shape) for o in session.get_outputs()] == [
        ("score", "tensor(double)", ["n"]),
        *((f"{part}", "tensor(float)", ["n"]) for part in detector.score_components(digits(True))),
        ("anomaly_map", "tensor(float)", ["n", 16, 16]),
        ("reconstruction", "tensor(float)", ["n", 16, 16, 1]),
    ]
    metadata = session.get_modelmeta().custom_metadata_map
    facts = {key: json.loads(metadata[f"adcgan.{key}"]) for key in ("format", "version", "resize")}
    assert facts == {"format": 1, "version": adcgan.__version__, "resize": "squash"}
    images = images_for("adcgan")[1]
    expected = detector.decision_function(images)
    # 16 is the number of draws of z too.
    for size in (1, 7, 16, 256):
        found = session.run(["score"], {"images": np.ascontiguousarray(images[:size])})[0]
        np.testing.assert_allclose(found, expected[:size], rtol=1e-4)


def test_the_metadata_are_those_on_their_page(exported: Exported) -> None:
    page = Path(__file__).parents[2] / "docs" / "export.md"
    part = page.read_text(encoding="utf-8").split("## Metadata")[1].split("## ")[0]
    described = re.findall(r"`(adcgan\.\w+)`(?=.*\|.*\|$)", part, re.MULTILINE)
    model = onnx.load(exported("adcgan")[1].path)
    assert set(described) == {entry.key for entry in model.metadata_props}


def test_the_file_is_whole_for_other_tools_and_says_nothing_of_where_it_was_made(
    exported: Exported,
) -> None:
    _, export = exported("adcgan")
    assert export.n_bytes == export.path.stat().st_size
    assert export.parity < 1e-4
    content = export.path.read_bytes()
    model = onnx.load_model_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    assert {opset.domain for opset in model.opset_import} == {""}
    for word in (b".py", str(Path.home()).encode(), str(Path(adcgan.__file__).parent).encode()):
        assert word not in content


def test_networks_are_computed_once_for_score_map_and_reconstruction(exported: Exported) -> None:
    # Every generator ends in one tanh, written as a sigmoid or not, but the local one, whose images
    # are not bounded. AD-CGAN's D_z takes two sigmoids more.
    for name in sorted(set(EXPORTED) - {"adcgan-local", "patch-pca"}):
        kinds = [node.op_type for node in onnx.load(exported(name)[1].path).graph.node]
        expected = {"adcgan": (0, 3), "adcgan-ss": (0, 1)}.get(name)
        if expected is None:
            assert kinds.count("Tanh") == 1, name
        else:
            assert (kinds.count("Tanh"), kinds.count("Sigmoid")) == expected, name


def test_the_detector_is_left_as_it_was(exported: Exported) -> None:
    detector, _ = exported("alad")
    images = images_for("alad")[1][:20]
    again = quick("alad").fit(images_for("alad")[0])
    np.testing.assert_array_equal(
        detector.decision_function(images), again.decision_function(images)
    )


def test_images_of_another_size_are_refused_as_the_detector_refuses_them(
    exported: Exported,
) -> None:
    scorer = load(exported("adcgan")[1].path)
    with pytest.raises(
        InputError, match=r"ADCGAN in adcgan\.onnx was trained on .* 16×16 .* 20×20"
    ):
        scorer.decision_function(np.zeros((2, 20, 20), np.uint8))


# -- how a score is read off -----------------------------------------------------------------------


@pytest.mark.parametrize("normalise", ["none", "validation"])
def test_a_weighing_equals_the_function_it_was_read_off(normalise: str) -> None:
    detector = quick("adcgan", normalise=normalise, rho=0.25).fit(digits(True)[:60])
    components = detector.score_components(digits(False)[:20])
    found = Weighing.of(detector.backend.combine, list(components))
    np.testing.assert_allclose(
        found(components), detector.backend.combine(components), rtol=1e-10, atol=1e-10
    )
    if normalise == "none":
        assert found.weights == pytest.approx(
            {"discrimination": 0.1, "residual": 0.9, "encoded": 0.25, "latent": 0.75}
        )
        assert found.bias == 0


def test_a_score_that_is_no_weighted_sum_is_refused() -> None:
    with pytest.raises(InputError, match=r"weighted sum of its components \(a, b\)"):
        Weighing.of(lambda parts: parts["a"] * parts["b"] + parts["a"], ["a", "b"])


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REFUSED)
def test_systems_without_one_forward_pass_say_why(name: str, tmp_path: Path) -> None:
    few = {"steps_per_epoch": 2, "search_steps": 1, "restarts": 1}
    known = inspect.signature(DETECTORS[name]).parameters
    detector = quick(name, **{k: v for k, v in few.items() if k in known}).fit(digits(True)[:60])
    with pytest.raises(InputError) as refused:
        export_onnx(detector, tmp_path / "m.onnx")
    assert str(refused.value) == f"{detector.system} cannot be exported: {detector.not_exported}."
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_fitted_detector_is_refused(exported: Exported, tmp_path: Path) -> None:
    detector, export = exported("rda")
    with pytest.raises(InputError, match="Call fit first"):
        export_onnx(quick("adcgan"), tmp_path / "m.onnx")
    with pytest.raises(InputError, match=r"must be a detector\. Got OnnxScorer"):
        export_onnx(load(export.path), tmp_path / "m.onnx")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="is a folder"):
        export_onnx(detector, tmp_path)


def test_a_missing_extra_is_named(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_file, "find_spec", lambda name: None if name == "onnx" else name)
    with pytest.raises(MissingExtraError, match=r"needs onnx: pip install 'adcgan\[export\]'"):
        export_onnx(exported("rda")[0], tmp_path / "m.onnx")


def test_weights_that_one_file_cannot_hold_are_refused(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_file, "_MOST_WEIGHT_BYTES", 1000)
    with pytest.raises(
        InputError, match=r"smaller than 2 GiB\. This detector's weights take [\d,]+"
    ):
        export_onnx(exported("rda")[0], tmp_path / "m.onnx")


def unsealed(path: Path) -> bytes:
    """Return an exported file's bytes as they were before the seal."""
    content = path.read_bytes()
    digest = onnxruntime.InferenceSession(content).get_modelmeta().custom_metadata_map
    return content.replace(digest["adcgan.sha256"].encode(), b"0" * 64)


def test_a_file_that_does_not_agree_is_not_left_behind(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, export = exported("rda")
    other = quick("rda", random_state=1).fit(digits(True)[:60])
    monkeypatch.setattr(export_file, "to_onnx", lambda *_: unsealed(export.path))
    (tmp_path / "m.onnx").write_text("what stood here")
    with pytest.raises(RuntimeError, match="exported residual does not agree"):
        export_onnx(other, tmp_path / "m.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    assert (tmp_path / "m.onnx").read_text() == "what stood here"


def test_an_interruption_leaves_nothing(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector, export = exported("rda")
    monkeypatch.setattr(export_file, "to_onnx", lambda *_: unsealed(export.path))

    def interrupted(*_: Any) -> None:
        assert len(list(tmp_path.iterdir())) == 1
        raise KeyboardInterrupt

    monkeypatch.setattr(export_file, "check_parity", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_onnx(detector, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_the_same_detector_gives_the_same_bytes(exported: Exported, tmp_path: Path) -> None:
    detector, export = exported("rda")
    again = export_onnx(detector, tmp_path / "m.onnx")
    assert dataclasses.replace(again, path=export.path) == export
    assert again.path.read_bytes() == export.path.read_bytes()
