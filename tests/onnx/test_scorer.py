from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from adcgan import Detector, InputError, MissingExtraError, OnnxScorer, export_onnx, load
from adcgan.detectors import RobustAutoencoder
from adcgan.onnx.metadata import seal
from adcgan.onnx.scorer import _thread_count

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

# Makes a process where none of these can be imported.
WITHOUT_TORCH = (
    "import sys\n"
    "for name in ('torch', 'sklearn', 'scipy', 'accelerate', 'safetensors', 'matplotlib', 'jinja2',"
    " 'onnx', 'onnxscript'):\n"
    "    sys.modules[name] = None\n"
)


def discs(n: int, seed: int) -> np.ndarray:
    """Return grey discs on noise (n, 20, 24), which become square images when they are read."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:20, :24]
    disc = ((x - 12) ** 2 + (y - 10) ** 2 < 30) * 180
    return (disc + rng.integers(0, 60, (n, 20, 24))).astype(np.uint8)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures, one of them broken."""
    folder = tmp_path_factory.mktemp("photos")
    for i, image in enumerate(discs(20, 1)):
        Image.fromarray(image).save(folder / f"{i:02}.png")
    (folder / "05.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    folder = tmp_path_factory.mktemp("train")
    for i, image in enumerate(discs(40, 0)):
        Image.fromarray(image).save(folder / f"{i}.png")
    settings: dict[str, Any] = {"width": 0.06, "epochs": 1, "min_steps": 0, "device": "cpu"}
    return RobustAutoencoder(**settings, image_size=16, fpr=0.2, resize="crop").fit(folder)


@pytest.fixture(scope="module")
def file(detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(detector, tmp_path_factory.mktemp("export") / "m.onnx").path


@pytest.fixture
def copy(file: Path, tmp_path: Path) -> Path:
    """The same file where a test may change it."""
    path = tmp_path / "m.onnx"
    path.write_bytes(file.read_bytes())
    return path


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_TORCH + code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# -- without torch ---------------------------------------------------------------------------------


def test_a_process_without_torch_gives_the_same_answers(
    file: Path, detector: Detector, tmp_path: Path
) -> None:
    images = discs(1000, 2)[:, 2:18, 4:20]
    np.save(tmp_path / "images.npy", images)
    code = (
        "import json, adcgan\n"
        "scorer = adcgan.load(sys.argv[1])\n"
        "found = scorer.assess(sys.argv[2])\n"
        "print(json.dumps([found.scores.tolist(), found.p_values.tolist(),"
        " scorer.predict(sys.argv[2]).tolist(), scorer.threshold_,"
        " float(scorer.anomaly_map(sys.argv[2]).sum())]))\n"
    )
    result = run(code, str(file), str(tmp_path / "images.npy"))
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    scores, p_values, predicted, threshold, heat = json.loads(result.stdout)
    np.testing.assert_array_equal(scores, load(file).decision_function(images))
    np.testing.assert_allclose(scores, detector.decision_function(images), rtol=1e-4)
    np.testing.assert_array_equal(p_values, detector.p_values(images))
    np.testing.assert_array_equal(predicted, detector.predict(images))
    assert threshold == detector.threshold_
    assert heat == pytest.approx(detector.anomaly_map(images).sum(), rel=1e-4)


def test_onnx_runtime_keeps_no_identifier_of_the_user(file: Path, tmp_path: Path) -> None:
    code = "import sys, adcgan\nadcgan.load(sys.argv[1])"
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    subprocess.run(
        [sys.executable, "-c", code, str(file)],
        env={**environment, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)},
        check=True,
    )
    assert list(tmp_path.iterdir()) == []


def test_the_score_command_works_without_torch_bad_files_included(
    file: Path, detector: Detector, photos: Path, tmp_path: Path
) -> None:
    code = "from adcgan.cli import main\nsys.argv[0] = 'adcgan'\nmain()\n"
    out = tmp_path / "scores.csv"
    result = run(code, "score", str(file), str(photos), "--out", str(out), "--json")
    assert result.returncode == 0, result.stderr
    expected = detector.assess(photos)
    printed = json.loads(result.stdout)
    assert (printed["n_scored"], printed["n_unreadable"]) == (19, 1)
    assert printed["n_anomalous"] == (expected.anomalous == 1).sum()
    assert printed["threshold"] == detector.threshold_
    with open(out, newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    assert [row["path"] for row in rows] == [f"{i:02}.png" for i in range(20)]
    for row, score, p, anomalous in zip(
        rows, expected.scores, expected.p_values, expected.anomalous, strict=True
    ):
        if row["path"] == "05.png":
            assert row["score"] == ""
            assert row["error"]
            continue
        assert float(row["score"]) == pytest.approx(score, rel=1e-4)
        assert (float(row["p_value"]), int(row["anomalous"])) == (p, anomalous)


def test_heatmaps_without_matplotlib_are_refused_before_any_work(
    file: Path, photos: Path, tmp_path: Path
) -> None:
    code = "from adcgan.cli import main\nsys.argv[0] = 'adcgan'\nmain()\n"
    arguments = (str(file), str(photos), "--out", str(tmp_path / "s.csv"))
    result = run(code, "score", *arguments, "--heatmaps", str(tmp_path / "heat"))
    assert result.returncode == 2
    assert result.stderr == "error: --heatmaps needs matplotlib: pip install matplotlib\n"
    assert list(tmp_path.iterdir()) == []


def test_a_model_folder_without_torch_says_what_to_do(detector: Detector, tmp_path: Path) -> None:
    detector.save(tmp_path / "m")
    result = run("import adcgan\nadcgan.load(sys.argv[1])", str(tmp_path / "m"))
    assert "takes torch to load" in result.stderr
    assert "adcgan export" in result.stderr
    with pytest.raises(InputError, match=r"no model folder .*, and no \.onnx file"):
        load(tmp_path / "nothing.onnx")


def test_photographs_are_prepared_as_the_detector_prepares_them(
    file: Path, detector: Detector, photos: Path
) -> None:
    scorer = load(file)
    assert (scorer.resize, scorer.resized_) == ("crop", True)
    with pytest.warns(UserWarning, match="1 of 20 images could not be read"):
        found = scorer.decision_function(photos)
    expected = detector.assess(photos).scores
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert np.isnan(found[5])


# -- files that are not as they should be ----------------------------------------------------------


def test_any_changed_byte_is_noticed(copy: Path) -> None:
    content = copy.read_bytes()
    seal_at = content.rfind(b"adcgan.sha256")
    places = {*np.linspace(0, len(content) - 1, 80).astype(int).tolist()}
    places |= set(range(seal_at - 2, seal_at + 20))
    for place in sorted(places):
        changed = bytearray(content)
        changed[place] ^= 0x11
        copy.write_bytes(changed)
        with pytest.raises(InputError, match=r"m\.onnx"):
            load(copy)
    copy.write_bytes(content)
    load(copy)


@pytest.mark.parametrize("kept", [0, 1, 100, 0.3, 0.99])
def test_a_truncated_file_is_noticed(copy: Path, kept: float) -> None:
    content = copy.read_bytes()
    length = int(kept * len(content)) if isinstance(kept, float) else kept
    copy.write_bytes(content[:length])
    with pytest.raises(InputError, match=r"m\.onnx"):
        load(copy)


def test_bytes_at_the_end_are_noticed(copy: Path) -> None:
    copy.write_bytes(copy.read_bytes() + b"\0")
    with pytest.raises(InputError, match="changed or damaged"):
        load(copy)


def test_what_is_no_onnx_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_text("a poem\n" * 50)
    with pytest.raises(InputError, match=r"m\.onnx is not an ONNX file, or a damaged one"):
        load(path)
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        OnnxScorer(tmp_path)


def test_another_programs_onnx_file_is_refused(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info
    kind = onnx.TensorProto.FLOAT
    node = onnx.helper.make_node("Abs", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [value("x", kind, [1])], [value("y", kind, [1])])
    opset = onnx.helper.make_opsetid("", 18)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8)
    path = tmp_path / "other.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(
        InputError, match=r"other\.onnx is an ONNX file that 'adcgan export' did no"
    ):
        load(path)


def rewritten(content: bytes, **metadata: str) -> bytes:
    """Return the file with other metadata, sealed anew."""
    model = onnx.load_model_from_string(content)
    values = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, values | metadata | {"adcgan.sha256": "0" * 64})
    return seal(model.SerializeToString())


def test_a_later_format_is_refused_by_number(copy: Path) -> None:
    copy.write_bytes(rewritten(copy.read_bytes(), **{"adcgan.format": "2"}))
    with pytest.raises(InputError, match=r"has export format 2; this version reads format 1\."):
        load(copy)


def test_a_graph_that_the_runtime_cannot_run_is_said_to_be_whole(copy: Path) -> None:
    model = onnx.load_model_from_string(rewritten(copy.read_bytes()))
    model.opset_import[0].version = 999
    for entry in model.metadata_props:
        if entry.key == "adcgan.sha256":
            entry.value = "0" * 64
    copy.write_bytes(seal(model.SerializeToString()))
    with pytest.raises(InputError, match=r"ONNX Runtime [\d.]+ cannot load .*m\.onnx: .*opset"):
        load(copy)


def test_a_missing_runtime_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'adcgan\[export\]'"):
        load(file)


# -- device and threads ----------------------------------------------------------------------------


def test_devices(file: Path) -> None:
    for device in ("auto", "cpu"):
        assert load(file, device=device).n_calibration_ == 4
    for device in ("mps", "cuda:x", "cudax", "gpu"):
        with pytest.raises(InputError, match=f"'auto', 'cpu', 'cuda' or 'cuda:N'. Got '{device}'"):
            load(file, device=device)


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_device_that_the_runtime_lacks_is_refused(
    file: Path, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_cpu = ["AzureExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: only_cpu)
    with pytest.raises(InputError, match=f"{device}.*CPUExecutionProvider.*onnxruntime-gpu"):
        load(file, device=device)


def test_threads(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for bad in (0, -1, 1.5, True, "2"):
        with pytest.raises(InputError, match="'threads' parameter must be None or a whole number"):
            OnnxScorer(file, threads=bad)  # type: ignore[arg-type]
    images = discs(3, 3)[:, 2:18, 4:20]
    np.testing.assert_allclose(
        OnnxScorer(file, threads=2).decision_function(images),
        OnnxScorer(file, threads=1).decision_function(images),
        rtol=1e-5,
    )
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert _thread_count(None) == 3
    for unusable in ("", "0", "many"):
        monkeypatch.setenv("OMP_NUM_THREADS", unusable)
        assert _thread_count(None) >= 1
    assert _thread_count(5) == 5
