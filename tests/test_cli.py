from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import version

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import adcgan
from adcgan.cli import app, demo
from adcgan.cli.settings import settings
from adcgan.data import FOLDER_SETS
from adcgan.detectors import ADCGAN, PixelPCA
from adcgan.errors import DivergedError, InputError, MissingExtraError

TINY = [
    *("--detector", "adcgan"),
    *("--image-size", "16", "--epochs", "1"),
    *("--set", "width=0.125", "--set", "warmup_epochs=1", "--set", "min_steps=0"),
    *("--set", "fpr=0.2", "--device", "cpu"),
]
COMMANDS = [
    "demo",
    "compare",
    "fit",
    "score",
    "evaluate",
    "report",
    "detectors",
    "data list",
    "data prepare",
    "export",
    "serve",
]


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(*arguments):
    """Run a command that must end with exit code 2 and one line; return the line."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    line = result.stderr.removesuffix("\n")
    assert line.startswith("error: ")
    assert "\n" not in line
    return line


def write_images(folder, n, *, bar=False, seed=0):
    """Write noisy discs, with a bright bar across them if asked."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:16, :16]
    for i in range(n):
        image = ((x - 8) ** 2 + (y - 8) ** 2 < 20) * 180 + rng.integers(0, 20, (16, 16))
        if bar:
            image[6:9] = 255
        Image.fromarray(image.astype(np.uint8)).save(folder / f"{i:02}.png")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder to train on, with one broken file, and one to test on."""
    root = tmp_path_factory.mktemp("photos")
    write_images(root / "train", 40)
    (root / "train" / "broken.png").write_bytes(b"no image")
    write_images(root / "test" / "normal", 8, seed=1)
    write_images(root / "test" / "anomalous", 6, bar=True, seed=2)
    (root / "test" / "normal" / "broken.png").write_bytes(b"no image")
    return root


@pytest.fixture(scope="module")
def fitted(photos, tmp_path_factory):
    """The model folder of a small run, and what the command printed."""
    folder = tmp_path_factory.mktemp("models") / "m"
    result = run("fit", photos / "train", "--out", folder, "--json", *TINY)
    assert result.exit_code == 0, result.output
    return folder, result


@pytest.fixture
def model(fitted):
    return fitted[0]


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# -- help, version, exit codes ---------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command):
    result = run(*command.split(), "--help")
    assert result.exit_code == 0
    assert "Example" in result.stdout
    assert f"adcgan {command}" in " ".join(result.stdout.split())


def test_the_version_comes_with_those_of_what_it_runs_on():
    shown = dict(line.split(" ", 1) for line in run("--version").stdout.splitlines())
    assert list(shown) == ["adcgan", "python", "torch", "extras"]
    assert shown["adcgan"] == adcgan.__version__
    device = "cuda (" if torch.cuda.is_available() else "cpu"
    assert shown["torch"].startswith(f"{version('torch')} on {device}")
    there, _, absent = shown["extras"].partition("; not installed: ")
    # From its source, without being installed, it does not know.
    assert "export" in there.split(", ") or "runs from its source" in shown["extras"]
    assert not set(there.split(", ")) & set(absent.split(", "))


@pytest.mark.parametrize(
    ("hidden", "said"),
    [(True, "torch not installed"), (False, "which does not work: import of torch halted")],
)
def test_the_version_is_told_without_torch(hidden, said):
    code = (
        "import sys, importlib.metadata as installed\n"
        "sys.modules['torch'] = None\n"
        "version = installed.version\n"
        "def without_torch(name):\n"
        f"    if {hidden} and name == 'torch': raise installed.PackageNotFoundError(name)\n"
        "    return version(name)\n"
        "installed.version = without_torch\n"
        "sys.argv = ['adcgan', '--version']\n"
        "from adcgan.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"adcgan {adcgan.__version__}\n")
    assert said in done.stdout
    assert "extras " in done.stdout
    assert done.stderr == ""


def test_help_is_quick_and_loads_none_of_the_heavy_packages():
    code = (
        "import sys; sys.argv = ['adcgan', 'fit', '--help']\n"
        "from adcgan.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('torch', 'sklearn', 'matplotlib', 'numpy') if m in sys.modules])"
    )
    # Time of the processor, which a busy machine does not stretch as it does time on the clock.
    start = os.times()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    end = os.times()
    used = end.children_user + end.children_system - start.children_user - start.children_system
    assert used < 3
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_package_runs_as_a_module():
    command = [sys.executable, "-m", "adcgan", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"adcgan {adcgan.__version__}\n")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("The 'a' parameter\nis wrong."), 2, "error: The 'a' parameter is wrong."),
        (MissingExtraError("pip install it"), 2, "error: pip install it"),
        (DivergedError("critic at step 3"), 3, "error: critic at step 3"),
        (KeyboardInterrupt(), 130, "interrupted; the same command with --resume continues"),
    ],
)
def test_errors_a_user_can_meet_are_one_line_and_an_exit_code(
    photos, tmp_path, monkeypatch, error, code, line
):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(ADCGAN, "fit", fail)
    monkeypatch.setattr(ADCGAN, "fit_cost", lambda *_, **__: None)
    result = run("fit", photos / "train", "--out", tmp_path / "m", *TINY)
    assert result.exit_code == code
    assert result.stderr.splitlines()[-1] == line
    assert "Traceback" not in result.output


def test_other_errors_are_bugs_and_keep_their_traceback(photos, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(ADCGAN, "fit", fail)
    monkeypatch.setattr(ADCGAN, "fit_cost", lambda *_, **__: None)
    result = run("fit", photos / "train", "--out", tmp_path / "m", *TINY)
    assert isinstance(result.exception, ZeroDivisionError)


def test_a_warning_is_one_line_without_source(model, photos, tmp_path):
    result = run("score", model, photos / "test", "--out", tmp_path / "s.csv", "--fpr", 0.001)
    assert result.stderr.startswith("warning: A false-positive budget of 0.001 needs 999 held-out")
    assert len(result.stderr.splitlines()) == 1


# -- settings ----------------------------------------------------------------------------------


class Sample:
    """Has a parameter of each kind."""

    def __init__(self, flag=False, count=3, rate=0.5, name="sum", size=None, random_state=0):
        pass


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("flag=true", True),
        ("flag=No", False),
        ("count=7", 7),
        ("rate=2", 2.0),
        ("rate=1e-3", 0.001),
        ("name=none", "none"),
        ("name=a=b", "a=b"),
        ("size=none", None),
        ("size=32", 32),
        ("size=0.5", 0.5),
        ("size=big", "big"),
    ],
)
def test_set_is_read_by_the_type_of_the_default(text, value):
    (found,) = settings(Sample, [text], {}).values()
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("assignments", "shorthands", "message"),
    [
        (["count"], {}, "--set must be given as key=value. Got 'count' instead."),
        (["count=1.5"], {}, "--set count must be a whole number. Got '1.5' instead."),
        (["rate=x"], {}, "--set rate must be a number. Got 'x' instead."),
        (["flag=2"], {}, "--set flag must be true or false. Got '2' instead."),
        (["count=1", "count=2"], {}, "--set count is given twice."),
        (["count=1"], {"count": 2}, "--count and --set count set the same parameter"),
        (["depth=1"], {}, "Sample has no parameter 'depth'. It has count, flag, name, "),
        ([], {"epochs": 2}, "--epochs: Sample has no parameter 'epochs'."),
    ],
)
def test_set_refuses_what_it_cannot_mean(assignments, shorthands, message):
    with pytest.raises(InputError) as caught:
        settings(Sample, assignments, shorthands)
    assert message in str(caught.value)


def test_options_stand_for_parameters():
    assert settings(Sample, [], {"random_state": 5, "count": None}) == {"random_state": 5}


# -- fit ---------------------------------------------------------------------------------------


def test_fit_makes_a_model_folder_and_says_what_it_plans(fitted):
    folder, result = fitted
    assert {"manifest.json", "run.json", "skipped.csv"} <= {p.name for p in folder.iterdir()}
    assert json.loads(result.stdout) == {
        "model": str(folder),
        "detector": "adcgan",
        "n_train": 36,
        "n_calibration": 4,
        "n_skipped": 1,
        "threshold": pytest.approx(adcgan.load(folder).threshold_),
        "fpr": 0.2,
        "seconds": pytest.approx(0, abs=60),
        "already_finished": False,
    }
    for part in ("16×16 pixels, grey", "36 to train on, 4 held out, 1 skipped", "adcgan on cpu"):
        assert part in result.stderr


def test_what_fit_could_not_read_is_in_the_models_skipped_csv(model):
    (row,) = rows(model / "skipped.csv")
    assert row["name"] == "broken.png"
    assert row["error"]


def test_fit_refuses_a_folder_that_is_not_empty(model, photos):
    line = refused("fit", photos / "train", "--out", model, *TINY)
    assert "--out must be a new or empty folder" in line


def test_resuming_a_finished_run_says_so_and_changes_nothing(model, photos):
    before = (model / "manifest.json").read_bytes()
    result = run("fit", photos / "train", "--out", model, "--resume", *TINY)
    assert result.exit_code == 0
    assert "finished already" in result.stderr
    assert (model / "manifest.json").read_bytes() == before


def test_resuming_a_finished_run_with_other_settings_is_refused(model, photos):
    line = refused("fit", photos / "train", "--out", model, "--resume", *TINY, "--seed", 3)
    assert "random_state was 0, is 3" in line


def test_resume_starts_where_nothing_is(photos, tmp_path):
    out = tmp_path / "new"
    result = run("fit", photos / "train", "--out", out, "--resume", *TINY)
    assert result.exit_code == 0, result.output
    assert (out / "manifest.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent"], "'absent' does not exist"),
        (["digits"], "name the normal one with --normal, or the anomalous one with --anomalous"),
        (["digits", "--normal", "ten"], "Got 'ten' instead"),
        (["digits", "--normal", "1", "--anomalous", "2"], "Exactly one"),
        (["{train}", "--normal", "1"], "has no labels"),
        (["{train}", "--strict"], "'broken.png'"),
        (["{train}", "--detector", "none"], "--detector must be one of adcgan"),
        (["{train}", "--set", "depth=3"], "It has adversarial, alike, alpha, batch_size"),
        (["{train}", "--epochs", "0"], "'epochs' parameter of SelfSupervisedADCGAN"),
        (["{train}", "--image-size", "3"], "image_size"),
    ],
)
def test_fit_refuses_wrong_input_and_leaves_nothing(photos, tmp_path, arguments, message):
    out = tmp_path / "m"
    filled = [argument.format(train=photos / "train") for argument in arguments]
    assert message in refused("fit", *filled, "--out", out)
    assert not out.exists()


def captured_fit(monkeypatch):
    """Replace training by a record of the detector and the images it was given."""
    seen = {}

    def fit(detector, images, **options):
        seen.update(detector=detector, images=images, options=options)
        raise DivergedError("stop here")

    monkeypatch.setattr(ADCGAN, "fit", fit)
    monkeypatch.setattr(ADCGAN, "fit_cost", lambda *_, **__: None)
    return seen


@pytest.mark.parametrize(
    ("option", "n_classes", "epochs"), [("--normal", 1, (5, 15)), ("--anomalous", 9, (5, 15))]
)
def test_one_class_is_chosen_and_the_epochs_stay_the_detectors(
    tmp_path, monkeypatch, option, n_classes, epochs
):
    seen = captured_fit(monkeypatch)
    arguments = ["fit", "digits", "--detector", "adcgan", option, "3", "--out", tmp_path / "m"]
    assert run(*arguments).exit_code == 3
    classes = set(seen["images"].labels)
    assert len(classes) == n_classes
    assert (3 in classes) == (option == "--normal")
    assert (seen["detector"].warmup_epochs, seen["detector"].epochs) == epochs


def test_epochs_that_are_given_stay(tmp_path, monkeypatch):
    seen = captured_fit(monkeypatch)
    options = ["--detector", "adcgan", "--anomalous", "3", "--epochs", "2"]
    run("fit", "digits", *options, "--out", tmp_path / "m")
    assert (seen["detector"].warmup_epochs, seen["detector"].epochs) == (5, 2)


def test_options_reach_the_detector_and_the_run(photos, tmp_path, monkeypatch):
    seen = captured_fit(monkeypatch)
    options = ["--seed", 7, "--precision", "float32", "--tracker", "tensorboard"]
    options += ["--checkpoint-every", 9, "--set", "negatives=self"]
    run("fit", photos / "train", "--out", tmp_path / "m", *TINY, *options)
    parameters = seen["detector"].get_params()
    assert parameters["random_state"] == 7
    assert parameters["precision"] == "float32"
    assert parameters["negatives"] == "self"
    assert seen["images"].shape == (1, 16, 16)
    assert seen["options"] == {
        "run_dir": tmp_path / "m",
        "resume": False,
        "checkpoint_every": 9,
        "trackers": ["tensorboard"],
        "cuda_graphs": None,
    }


@pytest.mark.parametrize(("shape", "name"), [((40, 30), "adcgan-ss"), ((100, 150), "adcgan-local")])
def test_without_a_detector_fit_takes_one_that_suits_the_size_and_says_why(tmp_path, shape, name):
    rng, folder = np.random.default_rng(0), tmp_path / "photos"
    folder.mkdir()
    (folder / "broken.png").write_bytes(b"no image")
    for i in range(8):
        Image.fromarray(rng.integers(0, 255, shape).astype(np.uint8)).save(folder / f"{i}.png")
    options = ["--epochs", "1", "--set", "min_steps=1", "--set", "width=0.1", "--set", "fpr=0.6"]
    options += ["--set", "warmup_steps=1"] if name == "adcgan-ss" else []
    arrays = tmp_path / "photos.npy"
    np.save(arrays, rng.integers(0, 255, (8, max(shape), max(shape))).astype(np.uint8))
    for data in (folder, arrays):
        out = tmp_path / f"model-of-{data.name}"
        result = run("fit", data, "--out", out, *options, "--device", "cpu")
        assert result.exit_code == 0, result.output
        assert f"chosen     {name}, for " in result.stderr
        assert f"detector   {name} on cpu" in result.stderr


def test_labels_of_an_npz_file_choose_the_images(tmp_path, monkeypatch):
    seen = captured_fit(monkeypatch)
    images = np.arange(6, dtype=np.uint8)[:, None, None].repeat(16, 1).repeat(16, 2)
    np.savez(tmp_path / "set.npz", images=images, labels=np.array([4, 5, 4, 5, 5, 4]))
    options = ["--detector", "adcgan", "--normal", "5"]
    run("fit", tmp_path / "set.npz", *options, "--out", tmp_path / "m")
    assert seen["images"].images[:, 0, 0, 0].tolist() == [1, 3, 4]


def test_a_long_fit_on_a_cpu_names_narrower_networks(photos, tmp_path, monkeypatch):
    from adcgan.detectors import FitCost

    captured_fit(monkeypatch)
    cost = FitCost(
        steps=2500,
        flops_per_step=1e9,
        flops_per_second=1e9,
        seconds=7800,
        seconds_by_width={1.0: 7800, 0.25: 480},
    )
    monkeypatch.setattr(ADCGAN, "fit_cost", lambda *_, **__: cost)
    result = run("fit", photos / "train", "--out", tmp_path / "m", *TINY)
    assert "2,500 steps, about 2 h 10 min" in result.stderr
    assert "--set width=0.25 takes about 8 min" in result.stderr


def test_an_interrupted_fit_goes_on_by_resume(photos, tmp_path):
    out = tmp_path / "m"
    # Long enough to be interrupted, short enough to be finished.
    options = ["--image-size", "16", "--set", "width=0.125", "--set", "fpr=0.2", "--device", "cpu"]
    options += ["--set", "min_steps=100", "--checkpoint-every", "10"]
    arguments = [str(a) for a in ("fit", photos / "train", "--out", out, *options)]
    process = subprocess.Popen(
        [sys.executable, "-m", "adcgan", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background has told its children to ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not (out / "checkpoint.safetensors").exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "interrupted; the same command with --resume continues"
    assert not (out / "manifest.json").exists()
    result = run(*arguments, "--resume")
    assert result.exit_code == 0, result.output
    assert (out / "manifest.json").exists()


# -- score -------------------------------------------------------------------------------------


def test_score_writes_one_row_for_each_input(model, photos, tmp_path):
    out = tmp_path / "new" / "scores.csv"
    result = run("score", model, photos / "test", "--out", out)
    assert result.exit_code == 0, result.output
    assert "14 images scored" in result.stdout
    assert "1 unreadable" in result.stdout
    found = {row["path"]: row for row in rows(out)}
    assert len(found) == 15
    assert found["normal/broken.png"]["score"] == ""
    assert found["normal/broken.png"]["error"]
    expected = adcgan.load(model).decision_function(photos / "test" / "anomalous")
    scores = [float(found[f"anomalous/{i:02}.png"]["score"]) for i in range(6)]
    assert scores == pytest.approx(expected)
    header = list(found["normal/00.png"])
    assert header[:4] == ["path", "score", "p_value", "anomalous"]
    assert header[-1] == "error"
    assert "residual" in header


def test_score_prints_json_alone_on_standard_output(model, photos, tmp_path):
    out = tmp_path / "scores.csv"
    result = json.loads(run("score", model, photos / "test", "--out", out, "--json").stdout)
    assert (result["n_scored"], result["n_unreadable"]) == (14, 1)
    assert result["n_anomalous"] == sum(row["anomalous"] == "1" for row in rows(out))
    top = [row["score"] for row in result["highest"]]
    assert top == sorted((float(r["score"] or "-inf") for r in rows(out)), reverse=True)[:5]


def test_score_warns_of_images_unlike_those_learned_from(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 120, (460, 16, 16), np.uint8)
    PixelPCA(fpr=0.05, device="cpu").fit(images[:400]).save(tmp_path / "model")
    np.save(tmp_path / "usual.npy", images[400:])
    np.save(tmp_path / "brighter.npy", 2 * images[400:])
    arguments = ["--out", tmp_path / "s.csv"]
    usual = run("score", tmp_path / "model", tmp_path / "usual.npy", *arguments)
    assert usual.stderr == ""
    assert "distance from held-out normal images 0." in usual.stdout
    warned = run("score", tmp_path / "model", tmp_path / "brighter.npy", *arguments, "--json")
    start = "warning: These images are unlike those it learned from: their scores are higher"
    assert warned.stderr.startswith(start)
    found = json.loads(warned.stdout)["drift"]
    assert (found["n"], found["share_above"], found["unlike"]) == (60, 1, True)
    assert found["p_value"] < 0.001


def test_another_budget_moves_the_decisions_and_not_the_scores(model, photos, tmp_path):
    first, second = tmp_path / "a.csv", tmp_path / "b.csv"
    run("score", model, photos / "test", "--out", first)
    result = run("score", model, photos / "test", "--out", second, "--fpr", "0.9")
    assert result.stderr == ""
    lowest = adcgan.load(model).calibration_scores_[0]
    for before, after in zip(rows(first), rows(second), strict=True):
        assert before["score"] == after["score"]
        if after["score"]:
            assert (after["anomalous"] == "1") == (float(after["score"]) > lowest)


def test_a_budget_that_is_not_supported_is_warned_of(model, photos, tmp_path):
    arguments = ["score", model, photos / "test", "--out", tmp_path / "s.csv"]
    result = run(*arguments, "--fpr", "0.001", "--json")
    assert "needs 999 held-out normal images. There are 4" in result.stderr
    assert json.loads(result.stdout)["fpr"] == pytest.approx(0.2)
    assert "'fpr'" in refused(*arguments, "--fpr", "2")


def test_heatmaps_have_a_picture_for_each_readable_image(model, photos, tmp_path):
    folder = tmp_path / "maps"
    arguments = ["score", model, photos / "test", "--out", tmp_path / "s.csv"]
    assert run(*arguments, "--heatmaps", folder).exit_code == 0
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*.png")}
    assert len(found) == 14
    assert "anomalous/05.png.png" in found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{model}", "absent"], "'absent' does not exist"),
        (["absent", "{test}"], "no model folder absent"),
        (["{test}", "{test}"], "not a finished model folder"),
        (["{model}", "{test}", "--strict"], "normal/broken.png"),
        (["{model}", "{test}", "--device", "abacus"], "'device'"),
    ],
)
def test_score_refuses_wrong_input_and_writes_nothing(model, photos, tmp_path, arguments, message):
    out = tmp_path / "s.csv"
    filled = [argument.format(model=model, test=photos / "test") for argument in arguments]
    assert message in refused("score", *filled, "--out", out)
    assert not out.exists()


def test_score_refuses_a_folder_for_a_file(model, photos, tmp_path):
    assert "must be a file" in refused("score", model, photos / "test", "--out", tmp_path)


# -- evaluate ----------------------------------------------------------------------------------


def test_evaluate_writes_figures_scores_and_report(model, photos, tmp_path):
    out = tmp_path / "results"
    result = run("evaluate", model, photos / "test", "--out", out)
    assert result.exit_code == 0, result.output
    assert {p.name for p in out.iterdir()} == {"metrics.json", "scores.csv", "report.html"}
    metrics = json.loads((out / "metrics.json").read_text())
    assert (metrics["n_normal"], metrics["n_anomalous"], metrics["n_unreadable"]) == (8, 6, 1)
    assert metrics["unreadable"] == ["normal/broken.png"]
    assert metrics["detector"] == "adcgan"
    assert f"{metrics['auroc']:.4f}" in result.stdout
    assert len(rows(out / "scores.csv")) == 15
    assert (out / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_evaluate_prints_what_it_writes_as_json(model, photos, tmp_path):
    result = run("evaluate", model, photos / "test", "--out", tmp_path / "r", "--json")
    assert json.loads(result.stdout) == json.loads((tmp_path / "r" / "metrics.json").read_text())


def test_evaluate_takes_the_whole_test_split_of_a_named_set(model, tmp_path):
    result = run("evaluate", model, "digits", "--anomalous", 3, "--out", tmp_path, "--json")
    metrics = json.loads(result.stdout)
    assert metrics["n_normal"] + metrics["n_anomalous"] == 359
    assert metrics["data"] == "digits (test), 3 anomalous"


def test_labels_0_and_1_of_an_npz_file_need_no_class(model, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (6, 16, 16), np.uint8)
    np.savez(tmp_path / "set.npz", images=images, labels=np.array([0, 1, 1, 0, 1, 1]))
    result = run("evaluate", model, tmp_path / "set.npz", "--out", tmp_path / "r", "--json")
    metrics = json.loads(result.stdout)
    assert (metrics["n_normal"], metrics["n_anomalous"]) == (2, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{train}"], "images in normal/ and anomalous/"),
        (["{test}/normal"], "images in normal/ and anomalous/"),
        (["{test}", "--normal", "0"], "has no labels"),
        (["digits"], "Exactly one"),
        (["{test}", "--strict"], "normal/broken.png"),
    ],
)
def test_evaluate_refuses_data_without_labels(model, photos, tmp_path, arguments, message):
    out = tmp_path / "r"
    names = {"train": photos / "train", "test": photos / "test"}
    filled = [argument.format(**names) for argument in arguments]
    assert message in refused("evaluate", model, *filled, "--out", out)
    assert not out.exists()


# -- the other commands ------------------------------------------------------------------------


def test_report_writes_a_page_beside_the_model_or_where_asked(model, tmp_path):
    assert run("report", model).exit_code == 0
    assert run("report", model, "--out", tmp_path / "new" / "page.html").exit_code == 0
    page = (tmp_path / "new" / "page.html").read_bytes()
    assert page == (model / "report.html").read_bytes()
    assert b"36 normal images" in page
    assert adcgan.load(model).n_train_ == 36


def test_detectors_lists_each_with_a_description():
    listed = json.loads(run("detectors", "--json").stdout)
    assert [row["name"] for row in listed] == list(adcgan.DETECTORS)
    assert all(row["description"] for row in listed)
    assert "adcgan" in run("detectors").stdout


def test_data_list_says_whether_the_folder_has_a_set(tmp_path, monkeypatch):
    (tmp_path / "ylecun" / "mnist").mkdir(parents=True)
    monkeypatch.setenv("ADCGAN_DATA", str(tmp_path))
    listed = {row["name"]: row for row in json.loads(run("data", "list", "--json").stdout)}
    assert list(listed) == [*adcgan.DATASETS, *FOLDER_SETS]
    here = [listed[name]["in_adcgan_data"] for name in ("mnist", "cifar10", "digits")]
    assert here == [True, False, None]
    assert "fashion-mnist" in run("data", "list").stdout


def test_data_prepare_counts_and_names_what_it_skipped(photos):
    result = run("data", "prepare", photos / "train", "--image-size", "16")
    assert result.exit_code == 0
    assert "40 images of 16×16 pixels, 1 skipped" in result.stdout
    assert "broken.png" in result.stderr
    splits = json.loads(run("data", "prepare", "digits", "--json").stdout)
    assert [split["n_images"] for split in splits] == [1438, 359]
    assert "broken.png" in refused("data", "prepare", photos / "train", "--strict")


def test_demo_goes_from_images_to_a_report_and_a_second_time_only_by_resume(tmp_path, monkeypatch):
    tiny = {"width": 0.125, "warmup_epochs": 1, "epochs": 1, "min_steps": 0, "device": "cpu"}
    monkeypatch.setattr(demo, "SETTINGS", tiny)
    out = tmp_path / "d"
    result = run("demo", "--out", out)
    assert result.exit_code == 0, result.output
    assert {p.name for p in out.iterdir()} == {
        "model",
        "metrics.json",
        "scores.csv",
        "report.html",
    }
    metrics = json.loads((out / "metrics.json").read_text())
    assert (metrics["n_normal"], metrics["n_anomalous"]) == (36, 323)
    assert "--resume" in refused("demo", "--out", out)
    again = run("demo", "--out", out, "--resume", "--json")
    assert "finished already" in again.stderr
    assert json.loads(again.stdout)["auroc"] == metrics["auroc"]
