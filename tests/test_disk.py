"""A disk that is full or read-only: one line, exit code 4, nothing half-written, and then on."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

import adcgan
from adcgan.benchmark.rows import RowsFile, read_rows
from adcgan.cli import app
from adcgan.data import load_images
from adcgan.errors import system_failure
from adcgan.files import append_line, replacing

resource = pytest.importorskip("resource", reason="limits of a file's size are POSIX")

PIXELS = ("--detector", "pixel-pca", "--image-size", "16", "--set", "fpr=0.5")
NETWORKS = (
    *("--detector", "rda", "--image-size", "16", "--epochs", "1", "--device", "cpu"),
    *("--set", "width=0.125", "--set", "min_steps=6", "--set", "batch_size=8", "--set", "fpr=0.5"),
    *("--checkpoint-every", "2"),
)


@contextmanager
def files_of_at_most(n_bytes: int) -> Iterator[None]:
    """Have the system refuse longer files, in this process and those that it starts."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class Disk:
    """A file system of its own, of a few kilobytes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def mount(self, options: str) -> bool:
        """Mount it, or change what it is; say whether that is allowed here."""
        command = ["mount", "-t", "tmpfs", "-o", options, "none", str(self.folder)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A disk with room for 16 KiB."""
    found = Disk(tmp_path / "disk")
    found.folder.mkdir()
    if shutil.which("mount") is None or not found.mount("size=16k"):
        pytest.skip("mounting is not allowed here")
    yield found
    subprocess.run(["umount", "--lazy", str(found.folder)], check=True)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs, labelled ones, and two models."""
    root = tmp_path_factory.mktemp("root")
    rng = np.random.default_rng(0)
    for folder in ("train", "test/normal", "test/anomalous"):
        (root / folder).mkdir(parents=True)
        for i in range(20):
            pixels = rng.integers(90, 150, (16, 16), dtype=np.uint8)
            Image.fromarray(pixels).save(root / folder / f"{i:02}.png")
    for name, settings in (("pixels", PIXELS), ("networks", NETWORKS)):
        done = run("fit", root / "train", "--out", root / name, *settings)
        assert done.exit_code == 0, done.output
    return root


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def failed(*arguments: object) -> str:
    """Run a command that must end with exit code 4 and one line for it; return the line."""
    done = run(*arguments)
    assert done.exit_code == 4, done.output
    assert done.stdout == ""
    *before, line = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert not any(text.startswith(("error", "Traceback", " ")) for text in before)
    return line


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("fit train --out OUT/m " + " ".join(PIXELS), "OUT/m/weights.safetensors"),
        ("score pixels test --out OUT/s.csv", "OUT/s.csv"),
        ("evaluate pixels test --out OUT/e", "OUT/e/scores.csv"),
        ("report pixels --out OUT/r.html", "OUT/r.html"),
        ("export networks --out OUT/m.onnx", "OUT/m.onnx"),
    ],
)
def test_a_file_that_cannot_be_written_is_named_in_one_line_and_not_there(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, name: str
) -> None:
    if command.startswith("export"):
        pytest.importorskip("onnx")
    monkeypatch.chdir(root)
    arguments = command.replace("OUT", str(tmp_path)).split()
    with files_of_at_most(1000):
        line = failed(*arguments)
    file = Path(name.replace("OUT", str(tmp_path)))
    assert line.startswith(f"error: the system failed at {str(file)!r}: File too large. ")
    assert not file.exists()
    assert not [path for path in tmp_path.rglob(".*.tmp") if path.is_file()]
    again = [*arguments, "--resume"] if command.startswith("fit") else arguments
    assert run(*again).exit_code == 0
    assert file.exists()


def test_training_on_a_full_disk_goes_on_once_there_is_room(root: Path, disk: Disk) -> None:
    out = disk.folder / "m"
    for room in ("size=16k", "size=200k"):
        assert disk.mount(f"remount,{room}")
        resumed = ("--resume",) if out.exists() else ()
        line = failed("fit", root / "train", "--out", out, *NETWORKS, *resumed)
        assert line == (
            f"error: the system failed at {str(out / 'checkpoint.safetensors')!r}: No space left "
            "on device. Free some space; then the same command with --resume continues."
        )
    # There was room for one checkpoint, and none for the next.
    assert {path.name for path in out.iterdir()} == {
        "checkpoint.safetensors", "run.json", "skipped.csv",
    }  # fmt: skip
    assert disk.mount("remount,size=20m")
    assert run("fit", root / "train", "--out", out, *NETWORKS, "--resume").exit_code == 0
    weights = "weights.safetensors"
    assert (out / weights).read_bytes() == (root / "networks" / weights).read_bytes()


def test_a_place_that_cannot_be_written_to_is_refused_before_any_work(
    root: Path, disk: Disk
) -> None:
    assert disk.mount("remount,ro")
    for command in (
        ("fit", root / "train", "--out", disk.folder / "m", *PIXELS),
        ("score", root / "pixels", root / "test", "--out", disk.folder / "s.csv"),
        ("score", root / "pixels", root / "test", "--out", "s.csv", "--masks", disk.folder / "x"),
    ):
        done = run(*command)
        assert done.exit_code == 4
        assert done.stderr.startswith(f"error: the system failed at '{disk.folder}")
        assert "Read-only file system. Choose a writable place.\n" in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_cache_without_room_is_a_warning_and_is_left_empty(
    root: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = load_images(root / "train", image_size=64).images
    monkeypatch.setenv("ADCGAN_CACHE", str(disk.folder))
    for options, reason in (("size=16k", "No space left"), ("ro", "Read-only")):
        assert disk.mount(f"remount,{options}")
        with pytest.warns(UserWarning, match=f"cannot be written .{reason}.*ADCGAN_CACHE"):
            found = load_images(root / "train", image_size=64, cache=True)
        np.testing.assert_array_equal(found.images, expected)
        assert list(disk.folder.iterdir()) == []


def test_preparing_a_cache_that_cannot_be_written_fails(
    root: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADCGAN_CACHE", str(disk.folder))
    for options, reason in (("size=16k", "No space left on device"), ("ro", "Read-only file")):
        assert disk.mount(f"remount,{options}")
        line = failed("data", "prepare", root / "train", "--image-size", 64)
        assert line.startswith(f"error: The cache folder '{disk.folder}' cannot be written")
        assert reason in line
        assert list(disk.folder.iterdir()) == []
    assert disk.mount("remount,rw,size=1m")
    assert run("data", "prepare", root / "train", "--image-size", 64).exit_code == 0


def test_a_folder_for_temporary_files_without_room_is_named(
    root: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(disk.folder))
    assert failed(
        "score", root / "pixels", root / "test", "--out", root / "s.csv", "--heatmaps", root / "h"
    ) == (
        f"error: the system failed at {str(disk.folder)!r}: No space left on device. Free some "
        "space, or set $TMPDIR to a folder with room; then give the same command again."
    )
    assert not (root / "s.csv").exists()
    monkeypatch.setattr("adcgan.data.parallel._IN_MEMORY_BYTES", 0)
    with pytest.raises(OSError, match="No space left on device") as caught:
        load_images(root / "train")
    assert caught.value.filename == str(disk.folder)


@pytest.mark.parametrize("home", ["file/home", "~"])
def test_without_a_home_folder_there_is_no_cache_and_a_warning(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    (tmp_path / "file").touch()
    # "~" is what Python makes of a user without a home.
    monkeypatch.setenv("HOME", home if home == "~" else str(tmp_path / home))
    for name in ("ADCGAN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.warns(UserWarning, match=r"images are not kept. Set \$ADCGAN_CACHE"):
        assert len(load_images(root / "train", cache=True)) == 20


@pytest.mark.slow
def test_a_missing_home_folder_is_one_warning_and_nothing_else(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "heat"
    environment = {**os.environ, "HOME": str(tmp_path / "file/home")}
    for name in ("ADCGAN_CACHE", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR"):
        environment.pop(name, None)
    command = ("score", root / "pixels", root / "train", "--out", out / "s.csv", "--heatmaps", out)
    done = subprocess.run(
        [sys.executable, "-m", "adcgan", *map(str, command)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stderr.splitlines() if not line.startswith("heatmaps in")]
    assert len(told) == 1
    assert told[0].startswith(f"warning: The cache folder '{tmp_path}/file/home/.cache/adcgan' ca")


def test_images_are_not_left_out_for_want_of_open_files(root: Path) -> None:
    paths = sorted((root / "train").iterdir())
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, before[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            load_images(paths)
        with pytest.raises(OSError, match="Too many open files"):
            load_images(root / "train")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_line_is_appended_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    append_line(path, file, "one\n")
    with files_of_at_most(6), pytest.raises(OSError, match="File too large") as caught:
        append_line(path, file, "two\n")
    assert caught.value.filename == str(path)
    append_line(path, file, "three\n")
    os.close(file)
    assert path.read_text() == "one\nthree\n"


def test_a_row_of_results_that_does_not_fit_is_not_there(tmp_path: Path) -> None:
    with RowsFile(tmp_path) as file:
        file.append({"key": "a"})
        with files_of_at_most(20), pytest.raises(OSError, match="File too large"):
            file.append({"key": "b"})
    assert read_rows(tmp_path) == [{"key": "a"}]


@pytest.mark.slow
def test_a_benchmark_on_a_full_disk_ends_and_goes_on(root: Path, tmp_path: Path) -> None:
    del root
    command = ("benchmark", "--dataset", "digits", "--detectors", "pixel-pca", "--classes", "0,1")
    command += ("--seeds", "0", "--workers", "1", "--out", str(tmp_path))
    with files_of_at_most(400):
        line = failed(*command)
    assert line.startswith(f"error: the system failed at '{tmp_path}/")
    assert line.endswith("; then the same command continues.")
    assert read_rows(tmp_path) == []
    assert run(*command).exit_code == 0
    assert [row["error"] for row in read_rows(tmp_path)] == [None, None]


def test_what_a_library_says_of_the_system_is_the_systems_error(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match="No space left on device") as caught,
        replacing(tmp_path / "a"),
    ):
        raise RuntimeError("I/O error: No space left on device (os error 28)")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "a"))
    assert list(tmp_path.iterdir()) == []


def test_the_systems_failures_are_told_from_mistakes_of_the_program(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    wrapped = RuntimeError("of a library")
    wrapped.__cause__ = full
    gone = FileNotFoundError(errno.ENOENT, "No such file", str(tmp_path / "gone.png"))
    ours = FileNotFoundError(errno.ENOENT, "No such file", f"{adcgan.__path__[0]}/page.html")
    assert system_failure(full) is system_failure(wrapped) is full
    assert system_failure(gone) is gone
    for mistake in (ours, OSError("of a library"), ValueError("no number"), KeyError("key")):
        assert system_failure(mistake) is None


def test_a_mistake_of_the_program_keeps_its_traceback(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Path(adcgan.__path__[0], "page.html")
    monkeypatch.setattr("adcgan.report.render", lambda _: page.read_text())
    done = run("report", root / "pixels", "--out", root / "r.html")
    assert isinstance(done.exception, FileNotFoundError)


def test_a_name_that_is_too_long_is_the_users_to_change(root: Path) -> None:
    done = run("fit", root / "train", "--out", root / ("m" * 300), *PIXELS)
    assert done.exit_code == 2
    assert done.stderr.endswith("cannot be used: File name too long.\n")
    assert done.stderr.count("\n") == 1
