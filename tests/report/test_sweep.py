from __future__ import annotations

import re

import pytest
from typer.testing import CliRunner

import adcgan.cli
from adcgan.benchmark.rows import RowsFile
from adcgan.errors import InputError
from adcgan.report import render, sweep_page


def row(class_, auroc=0.9, **changes):
    made = {
        "dataset": "cats-vs-dogs",
        "scheme": "one-vs-all",
        "class": class_,
        "detector": "pixel-pca",
        "settings": {},
        "seed": 0,
        "protocol": "paper",
        "split": "test",
        "max_train": None,
        "auroc": auroc,
        "variants": {},
        "seconds": 30.0,
        "device": "cpu (x)",
        "commit": "abc",
        "versions": {"adcgan": "0.1.0"},
        "date": "2026-11-23T10:00:00+00:00",
        "note": "",
        "error": None,
    } | changes
    names = ("dataset", "scheme", "class", "detector", "seed", "protocol", "split")
    return {"key": "-".join(str(made[name]) for name in names), **made}


def text_of(rows):
    page = render(sweep_page(rows, "cats <1>"))
    return page, " ".join(re.sub(r"<[^>]*>", " ", page).split())


def test_a_whole_average_is_in_the_verdict_and_in_the_tables():
    page, text = text_of([row(0, 0.8), row(1, 0.9)])
    assert "2 cells of pixel-pca on cats-vs-dogs. Mean AUROC over classes, in percent" in text
    assert "pixel-pca on cats-vs-dogs one-vs-all 85.0." in text
    assert "Table 1: AUROC (%), mean over classes; cats-vs-dogs, one-vs-all" in text
    assert "0 (cat) pixel-pca default 1 80.0 under 3 seeds" in text
    assert page.count("<svg") == 2
    assert "cats &lt;1&gt;" in page


def test_an_average_that_lacks_a_class_is_not_told():
    page, text = text_of([row(0)])
    assert "No average is complete: it needs every class." in text
    assert "1 of 2 classes" in text
    assert page.count("<svg") == 1


def test_what_was_not_run_is_not_listed():
    _, text = text_of([row(0), row(1)])
    assert "missing" not in text
    assert "alad" not in text


def test_failures_are_counted_and_listed_with_their_errors():
    page, text = text_of([row(0), row(1, None, error="DivergedError: <b> at step 3", seconds=None)])
    assert "and 1 cell that failed." in text
    assert "DivergedError: &lt;b&gt; at step 3" in page
    assert "Failures" in text


def test_pretrained_detectors_have_a_section_of_their_own():
    own = [row(c, 0.95, detector="pretrained-knn") for c in (0, 1)]
    page, text = text_of([*own, row(0, 0.8), row(1, 0.9)])
    assert "in percent: pixel-pca on cats-vs-dogs one-vs-all 85.0." in text
    papers, league = page.split("Results, pretrained on ImageNet</h2>")
    assert 'scope="row">pretrained-knn' not in papers
    assert "pixel-pca" not in league.split("These detectors use")[0]
    assert "are not comparable" in league
    # No part of the page has the name of another.
    anchors = re.findall(r'\bid="(results-[^"]+)"', page)
    assert len(anchors) == len(set(anchors)) > 4
    _, text = text_of(own)
    assert "in percent, pretrained on ImageNet: pretrained-knn on" in text
    assert "Table 1" not in text


def test_protocols_and_splits_have_sections_of_their_own():
    rows = [
        row(c, protocol=p, split=s)
        for c in (0, 1)
        for p, s in (("paper", "test"), ("released", "test"), ("paper", "development"))
    ]
    page, text = text_of(rows)
    anchors = re.findall(r'<section id="(results[^"]*)"', page)
    assert anchors == [
        "results-paper-test",
        "results-paper-development",
        "results-released-test",
    ]
    assert "This protocol leaks labels; for audit only." in text
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_figures_of_the_released_protocol_are_never_told_without_the_warning():
    _, text = text_of([row(c, protocol="released") for c in (0, 1)])
    assert "in percent, released protocol (leaks labels; for audit only): pixel-pca" in text


def test_a_sweep_without_rows_is_refused():
    with pytest.raises(InputError, match="must hold rows"):
        sweep_page([], "empty")


def test_report_takes_the_folder_of_a_benchmark(tmp_path):
    folder = tmp_path / "sweep"
    with RowsFile(folder) as file:
        file.append(row(0))
    run = CliRunner().invoke(adcgan.cli.app, ["report", str(folder)])
    assert run.exit_code == 0, run.output
    assert "Benchmark sweep" in (folder / "report.html").read_text(encoding="utf-8")


def test_report_refuses_the_folder_of_a_benchmark_that_has_no_result_yet(tmp_path):
    (tmp_path / "rows.jsonl").touch()
    run = CliRunner().invoke(adcgan.cli.app, ["report", str(tmp_path)])
    assert run.exit_code == 2
    assert "holds no rows yet" in run.stderr
    assert not (tmp_path / "report.html").exists()


def test_benchmark_writes_the_page_of_its_sweep(tmp_path):
    arguments = ["benchmark", "--dataset", "digits", "--detectors", "pixel-pca", "--classes", "0"]
    arguments += ["--seeds", "0", "--workers", "1", "--out", str(tmp_path / "r")]
    run = CliRunner().invoke(adcgan.cli.app, arguments)
    assert run.exit_code == 0, run.output
    page = (tmp_path / "r" / "report.html").read_text(encoding="utf-8")
    assert "1 cell of pixel-pca on digits." in page
    assert str(tmp_path / "r" / "report.html") in run.stderr
