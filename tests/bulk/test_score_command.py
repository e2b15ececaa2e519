"""What ``adcgan score`` says of ``--ray`` before any cluster is there."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from adcgan.cli import app
from adcgan.detectors import PixelPCA


@pytest.fixture
def model(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (60, 16, 16), np.uint8)
    PixelPCA(fpr=0.2).fit(images).save(tmp_path / "m1")
    return tmp_path / "m1"


@pytest.fixture
def images(tmp_path):
    (tmp_path / "in").mkdir()
    Image.new("L", (16, 16)).save(tmp_path / "in/a.png")
    return tmp_path / "in"


def refused(*arguments):
    """Return the one line that the command ends with."""
    result = CliRunner().invoke(app, ["score", *map(str, arguments)])
    assert result.exit_code == 2, result.output
    line = result.stderr.strip()
    assert line.startswith("error: ")
    assert "\n" not in line
    return line


@pytest.mark.parametrize("option", ["--shard-size", "--workers", "--gpus"])
def test_what_tunes_a_cluster_needs_one(model, images, tmp_path, option):
    line = refused(model, images, "--out", tmp_path / "s.csv", option, "1")
    assert line == f"error: {option} needs --ray."
    assert not (tmp_path / "s.csv").exists()


def test_a_uri_for_the_results_needs_one(model, images):
    line = refused(model, images, "--out", "s3://bucket/scores.csv")
    assert "--out must be a file, unless with --ray" in line


def test_heatmaps_are_not_made_on_a_cluster(model, images, tmp_path):
    options = ["--ray", "local", "--heatmaps", tmp_path / "h"]
    line = refused(model, images, "--out", tmp_path / "out", *options)
    assert line == "error: --heatmaps cannot be combined with --ray."


def test_without_ray_a_line_says_how_to_install_it(model, images, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    line = refused(model, images, "--out", tmp_path / "out", "--ray", "auto")
    assert line == "error: --ray needs Ray: pip install 'adcgan[ray]'"
    assert not (tmp_path / "out").exists()


@pytest.mark.ray
def test_wrong_input_is_one_line_and_writes_nothing(model, images, tmp_path):
    pytest.importorskip("ray")
    out = tmp_path / "out"
    on_ray = ["--out", out, "--ray", "127.0.0.1:1"]
    assert "--ray must be HOST:PORT" in refused(model, images, *on_ray)
    assert "must be one of auto, cpu, cuda" in refused(model, images, *on_ray, "--device", "mps")
    assert "does not exist" in refused(model, tmp_path / "gone", *on_ray)
    assert "does not exist" in refused(model, "digits", *on_ray)
    assert "no model folder" in refused(tmp_path / "gone", images, *on_ray)
    inside = ["--out", images / "out", "--ray", "local"]
    assert "--out must not be in DATA" in refused(model, images, *inside)
    (tmp_path / "empty").mkdir()
    assert "holds no files" in refused(model, tmp_path / "empty", *on_ray)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/mine.txt").touch()
    taken = ["--out", tmp_path / "taken", "--ray", "local"]
    assert "must be a new or empty folder" in refused(model, images, *taken)
    assert not out.exists()
