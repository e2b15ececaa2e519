"""``adcgan serve`` as a user runs it: in a process of its own, with real models."""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import adcgan
from adcgan.cli import app
from adcgan.cli import serve as command
from adcgan.detectors import ADCGAN, PixelKNN
from adcgan.serve import Limits, server
from adcgan.serve.model import Item, ServedModel

# What a machine that only serves has not installed.
ABSENT = ("torch", "sklearn", "scipy", "matplotlib", "accelerate", "safetensors", "onnx", "jinja2")


@pytest.fixture(scope="module")
def digits():
    return adcgan.load_named("digits", "test")


@contextmanager
def serving(*arguments, without=(), environment=None):
    """Run the command in a process; yields it and the port that it says it serves on."""
    code = (
        f"import sys\nfor name in {tuple(without)!r}: sys.modules[name] = None\n"
        "from adcgan.cli import main\nmain()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "serve", *map(str, arguments), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    try:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        yield process, int(re.search(r" on http://127\.0\.0\.1:(\d+)\n$", line)[1])
    finally:
        process.kill()
        process.communicate()


def ask(port, method, path, body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, json.load(answer)
    finally:
        connection.close()


def multipart(files):
    """Return the body and the headers of a form of files, by name."""
    body = b"".join(
        b'--B\r\nContent-Disposition: form-data; name="f"; filename="%s"\r\n\r\n%s\r\n'
        % (name.encode(), data)
        for name, data in files.items()
    )
    return body + b"--B--\r\n", {"Content-Type": "multipart/form-data; boundary=B"}


def pngs(images, count):
    files = {}
    for i in range(count):
        buffer = io.BytesIO()
        Image.fromarray(images.images[i, 0]).save(buffer, "PNG")
        files[f"{i}.png"] = buffer.getvalue()
    return files


def assert_scores_are_those_of(model, digits, port):
    expected = adcgan.load(model).assess(digits.select(slice(20)))
    body, headers = multipart(pngs(digits, 20))
    status, answer = ask(port, "POST", "/v1/score?heatmap=true", body, **headers)
    assert status == 200
    scores = [row["score"] for row in answer["images"]]
    assert np.allclose(scores, expected.scores, rtol=1e-4)
    assert [row["anomalous"] for row in answer["images"]] == (expected.anomalous == 1).tolist()
    for key, values in expected.components.items():
        got = [row["components"][key] for row in answer["images"]]
        assert np.allclose(got, values, rtol=1e-3, atol=1e-4)
    return answer


def ended(process):
    """Tell a service to end, and return what it says on standard error."""
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 0
    return err


def test_an_exported_model_is_served_without_torch(models, digits):
    with serving(models / "rda.onnx", without=ABSENT) as (process, port):
        answer = assert_scores_are_those_of(models / "rda.onnx", digits, port)
        assert all(row["heatmap"] for row in answer["images"])
        _, described = ask(port, "GET", "/v1/model")
        assert described["detector"] == "RobustAutoencoder"
        assert "onnxruntime" in described["versions"]
        assert "torch" not in described["versions"]
        assert described["card"] == asdict(adcgan.load(models / "rda").card())
        assert described["card"]["source"] == "digits (train)"
        assert ended(process) == ""


def test_a_model_folder_is_exported_and_then_served(models, digits, capsys):
    scorer = command.scorer_for(models / "rda", "auto")
    assert isinstance(scorer, adcgan.OnnxScorer)
    some = digits.select(slice(20))
    expected = adcgan.load(models / "rda", device="cpu").decision_function(some)
    assert np.allclose(scorer.decision_function(some), expected, rtol=1e-4)
    assert capsys.readouterr().err == ""


def test_a_detector_without_an_export_is_served_by_torch(models, capsys):
    scorer = command.scorer_for(models / "knn", "cpu")
    assert isinstance(scorer, PixelKNN)
    assert "serving by torch: PixelKNN cannot be exported" in capsys.readouterr().err


def test_on_another_device_a_folder_is_served_by_torch(models, monkeypatch):
    loaded = object()
    monkeypatch.setattr(adcgan, "load", lambda _, device: (loaded, device))
    assert command.scorer_for(models / "rda", "cuda:1") == (loaded, "cuda:1")


@pytest.mark.parametrize("kind", ["exported", "by torch"])
def test_scores_of_networks_do_not_depend_on_the_company(models, zeros, digits, kind):
    if kind == "exported":
        scorer = adcgan.load(models / "rda.onnx")
    else:
        small = {"width": 0.0625, "warmup_epochs": 1, "epochs": 1, "min_steps": 0, "fpr": 0.1}
        scorer = ADCGAN(**small, device="cpu").fit(zeros)
    model = ServedModel(scorer, 10**6)
    items = [Item(digits.images[i], heatmap=False) for i in range(64)]
    alone = np.array([model.score([item])[0].score for item in items])
    for size in (2, 7, 32, 64):
        for start in range(0, 64, size):
            company = [result.score for result in model.score(items[start : start + size])]
            assert np.allclose(company, alone[start : start + size], rtol=1e-5)


def test_sigterm_answers_what_was_accepted_and_refuses_what_is_new(models, digits):
    data = pngs(digits, 1)["0.png"]
    lines = ["POST /v1/score HTTP/1.1", "Host: x", "Content-Type: image/png"]
    head = "\r\n".join([*lines, f"Content-Length: {len(data)}", "", ""]).encode()
    with serving(models / "rda.onnx") as (process, port):
        _, before = ask(port, "POST", "/v1/score", data, **{"Content-Type": "image/png"})
        connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
        for connection in connections:
            connection.sendall(head + data[:50])
        deadline = time.monotonic() + 10
        while b"in_progress 21.0" not in metrics(port):
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGTERM)
        while ask(port, "GET", "/readyz")[0] != 503:
            assert time.monotonic() < deadline
        status, refused = ask(port, "POST", "/v1/score", data, **{"Content-Type": "image/png"})
        assert (status, refused) == (503, {"error": "The service is shutting down"})
        for connection in connections:
            connection.sendall(data[50:])
        for connection in connections:
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            assert answer.status == 200
            assert json.load(answer) == before
            answer.close()
            connection.close()
        assert process.wait(20) == 0
        assert process.stderr.read() == ""
        with pytest.raises(ConnectionRefusedError):
            ask(port, "GET", "/healthz")


def metrics(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read()
    connection.close()
    return text


def test_the_key_comes_from_the_environment_and_requests_are_logged_on_demand(models):
    environment = {"ADCGAN_API_KEY": "sesame"}
    with serving(models / "rda.onnx", "--access-log", environment=environment) as (process, port):
        assert ask(port, "GET", "/v1/model?x=%0A")[0] == 401
        assert ask(port, "GET", "/v1/model", **{"X-API-Key": "sesame"})[0] == 200
        assert ask(port, "GET", "/a%0Ab")[0] == 404
        lines = ended(process).splitlines()
    assert [re.sub(r"^.*? .*? | \d+ ms$", "", line) for line in lines] == [
        "GET /v1/model 401",
        "GET /v1/model 200",
        "GET /a%0Ab 404",
    ]


# -- what is refused before anything runs ----------------------------------------------------


def refused(*arguments, **options):
    result = CliRunner().invoke(app, ["serve", *map(str, arguments)], **options)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    return result.stderr


def test_a_port_in_use_is_one_line_and_exit_code_2(models):
    with server.bind("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        line = refused(models / "rda.onnx", "--port", port)
    assert line == f"error: --port {port} on 127.0.0.1 cannot be used: Address already in use\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-files", "0"], "The 'max_files' parameter must be an integer of at least 1"),
        (["--max-file-mb", "nan"], "The 'max_file_mb' parameter must be above 0"),
        (["--api-key", "two words"], "The API key must be"),
    ],
)
def test_a_wrong_option_is_one_line_and_exit_code_2(models, arguments, message):
    line = refused(models / "rda.onnx", "--port", "0", *arguments)
    assert message in line
    assert line.count("\n") == 1


def test_a_model_that_is_none_is_one_line_and_exit_code_2(tmp_path):
    assert refused(tmp_path / "no.onnx", "--port", "0").count("\n") == 1
    (tmp_path / "text.onnx").write_text("hello")
    assert refused(tmp_path / "text.onnx", "--port", "0").count("\n") == 1


@pytest.mark.parametrize("package", ["fastapi", "uvicorn", "prometheus_client", "python_multipart"])
def test_a_missing_extra_is_one_line_and_exit_code_2(package):
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from adcgan.cli import main; sys.argv = ['adcgan', 'serve', 'm.onnx']; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert re.fullmatch(
        rf"error: 'adcgan serve' needs {package}[.\w]*: pip install 'adcgan\[serve\]'\n",
        done.stderr,
    )


@pytest.fixture
def not_run(monkeypatch):
    """Let everything happen but the serving; returns what would have been run."""
    calls = []

    def run(app, _bound, limits, **_options):
        calls.append((app, limits))

    monkeypatch.setattr(server, "run", run)
    return calls


def test_every_limit_is_an_option_with_the_limits_own_default(models, not_run):
    result = CliRunner().invoke(app, ["serve", str(models / "rda.onnx"), "--port", "0"])
    assert result.exit_code == 0, result.output
    arguments = []
    for name in vars(Limits()):
        arguments += [f"--{name.replace('_', '-')}", "7"]
    assert (
        CliRunner()
        .invoke(app, ["serve", str(models / "rda.onnx"), "--port", "0", *arguments])
        .exit_code
        == 0
    )
    assert [limits for _, limits in not_run] == [
        Limits(),
        Limits(**dict.fromkeys(vars(Limits()), 7)),
    ]


@pytest.mark.parametrize(
    ("arguments", "warned"),
    [
        (["--host", "127.0.0.1"], False),
        (["--host", "0.0.0.0"], True),
        (["--host", "0.0.0.0", "--api-key", "sesame"], False),
    ],
)
def test_a_warning_where_others_can_come_in_without_a_key(models, not_run, arguments, warned):
    command = ["serve", str(models / "rda.onnx"), "--port", "0", *arguments]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0
    assert len(not_run) == 1
    assert ("warning: --host 0.0.0.0 lets other machines in" in result.stderr) is warned


def test_help_has_an_example_and_the_limits():
    result = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "160"})
    assert result.exit_code == 0
    assert "adcgan serve models/m1.onnx" in result.stdout
    assert "--max-megapixels" in result.stdout


def test_the_page_is_in_the_package():
    page = Path(adcgan.__file__).parent / "serve" / "page"
    assert {"index.html", "app.js", "style.css", "docs.html"} <= {p.name for p in page.iterdir()}
