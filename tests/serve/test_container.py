"""The Containerfile: its steps name what there is, and what it starts serves without rights."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
NOBODY = 65534


@pytest.fixture(scope="module")
def steps():
    """Return the instructions of the Containerfile, (name, rest) each."""
    text = (ROOT / "Containerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [tuple(line.split(" ", 1)) for line in lines]


def named(steps, name):
    return [rest for found, rest in steps if found == name]


def test_what_is_copied_is_there(steps):
    stages = {rest.split(" AS ")[1] for rest in named(steps, "FROM") if " AS " in rest}
    for copied in named(steps, "COPY"):
        *sources, _ = shlex.split(copied)
        if sources[0].startswith("--from="):
            assert sources[0].removeprefix("--from=") in stages
        else:
            assert all((ROOT / source).exists() for source in sources), copied


def test_what_is_installed_is_what_the_service_takes(steps):
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    serve = json.loads(re.search(r"^serve = (\[.*\])$", project, re.MULTILINE)[1])
    taken = {re.match(r"[\w-]+", requirement)[0] for requirement in serve}
    first = next(rest for rest in named(steps, "RUN") if rest.startswith("pip install"))
    installed = {word for word in shlex.split(first)[2:] if not word.startswith("-")}
    assert installed == taken | {"numpy", "pillow", "typer"}


def as_nobody():
    """Return what starts a program as the image's user; nothing where this one is not root."""
    if os.geteuid() != 0:
        return []
    drop = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    # Python itself may lie where root alone can read; the image's does not.
    reading = ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]
    for way in (drop, drop + reading):
        probe = [*way, sys.executable, "-c", "import adcgan"]
        if shutil.which("setpriv") and subprocess.run(probe, capture_output=True).returncode == 0:
            return way
    return pytest.skip("root cannot start Python as another user here")


@contextmanager
def container(steps, model):
    """Run what the image runs, as its user where this one may; yield the process and its port."""
    (user,) = named(steps, "USER")
    (entry,) = named(steps, "ENTRYPOINT")
    program, *arguments = json.loads(entry)
    assert program == "adcgan"
    assert user == f"{NOBODY}:{NOBODY}"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        # pytest's own folders are for one user.
        os.chmod(folder, 0o755)
        mounted = shutil.copy(model, f"{folder}/model.onnx")
        os.chmod(mounted, 0o444)
        given = [mounted if word == "/model.onnx" else word for word in arguments]
        assert mounted in given
        process = subprocess.Popen(
            [*as_nobody(), sys.executable, "-m", "adcgan", *given, "--port", str(port)],
            cwd="/",
            env={**os.environ, "HOME": "/nonexistent", "ADCGAN_API_KEY": "sesame"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process, port
        finally:
            process.kill()
            process.communicate()


def healthy(steps, port):
    """Run the image's health check, against another port."""
    (check,) = named(steps, "HEALTHCHECK")
    python, *arguments = json.loads(check.split(" CMD ")[1])
    assert python == "python"
    given = [word.replace("8000", str(port)) for word in arguments]
    done = subprocess.run([sys.executable, *given], check=False, stderr=subprocess.DEVNULL)
    return done.returncode == 0


def test_the_image_serves_as_a_user_without_rights_and_ends_when_told(steps, models):
    assert named(steps, "EXPOSE") == ["8000"]
    with container(steps, models / "rda.onnx") as (process, port):
        line = process.stdout.readline()
        assert f"on http://0.0.0.0:{port}" in line, process.stderr.read()
        assert psutil.Process(process.pid).uids().effective != 0
        assert healthy(steps, port)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stderr.read() == ""
        assert not healthy(steps, port)
