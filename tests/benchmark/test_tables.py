from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from matplotlib.figure import Figure
from typer.testing import CliRunner

from adcgan.benchmark import formats
from adcgan.benchmark.lines import interval, mean_and_spread
from adcgan.benchmark.published import published
from adcgan.benchmark.tables import make_tables, select
from adcgan.cli import app
from adcgan.errors import InputError
from adcgan.report.comparison import bars_against_paper, scatter_against_paper


def row(class_=0, seed=0, auroc=0.9, **changes):
    settings = changes.get("settings", {})
    identity = {
        "dataset": "mnist",
        "scheme": "one-vs-all",
        "detector": "adcgan",
        "settings": settings,
        "protocol": "paper",
        "split": "test",
        "max_train": None,
        "error": None,
        "note": "",
        "date": "2026-01-02T03:04:05+00:00",
        "device": "cpu (x86_64)",
        "commit": "abc",
        "variants": auroc and {"LG": auroc - 0.1, "GF": auroc},
        **changes,
    }
    key = json.dumps([class_, seed, *(identity[k] for k in list(identity)[:7])])
    return {"key": key, "class": class_, "seed": seed, "auroc": auroc, **identity}


def whole(seed=0, offset=0.0, **changes):
    """A row for each of ten classes; their mean is 0.9 plus the offset."""
    return [row(c, seed, 0.855 + 0.01 * c + offset, **changes) for c in range(10)]


def lines(rows, number, **wanted):
    table = {table.number: table for table in make_tables(rows)}[number]
    return [x for x in table.lines if all(getattr(x, k) == v for k, v in wanted.items())]


def only(found):
    assert len(found) == 1
    return found[0]


OURS = {"dataset": "mnist", "scheme": "one-vs-all", "detector": "adcgan"}


# -- figures -------------------------------------------------------------------------------------


def test_the_average_is_over_classes_and_its_spread_over_seeds():
    rows = whole(0) + whole(1, 0.01) + whole(2, 0.02)
    line = only(lines(rows, 1, **OURS))
    assert line.seeds == (0, 1, 2)
    assert line.ours == pytest.approx(91.0)
    assert line.spread == pytest.approx(1.0)
    assert line.paper == 92.3
    # t with two degrees of freedom, from a printed table.
    assert line.interval == pytest.approx((91 - 4.303 / 3**0.5, 91 + 4.303 / 3**0.5), abs=1e-3)


def test_one_seed_has_no_spread_and_two_have_no_interval():
    one, two = only(lines(whole(), 1, **OURS)), only(lines(whole() + whole(1, 0.01), 1, **OURS))
    assert (one.ours, one.spread, one.interval) == (pytest.approx(90.0), None, None)
    assert two.spread == pytest.approx(0.5**0.5)
    assert two.interval is None


def test_equal_seeds_have_no_interval():
    assert interval([90.0, 90.0, 90.0]) is None
    assert mean_and_spread([90.0, 90.0]) == (90.0, 0.0)


def test_an_average_that_lacks_a_class_is_not_shown():
    line = only(lines(whole()[:7], 1, **OURS))
    assert line.ours is None
    assert line.state == "7 of 10 classes"
    # Seven classes of one seed and three of another are no average either.
    line = only(lines(whole()[:7] + whole(1)[7:], 1, **OURS))
    assert (line.ours, line.state) == (None, "7 of 10 classes")


def test_seeds_that_lack_a_class_are_left_out_of_the_average():
    line = only(lines(whole() + whole(1, 0.05)[:4], 1, **OURS))
    assert (line.ours, line.seeds) == (pytest.approx(90.0), (0,))


def test_every_class_is_listed_and_the_missing_say_so():
    found = lines([*whole()[:2], row(1, 1, 0.965)], 3, **OURS)
    assert [line.subject for line in found] == [str(c) for c in range(10)]
    assert (found[0].ours, found[0].seeds) == (pytest.approx(85.5), (0,))
    assert (found[1].ours, found[1].seeds) == (pytest.approx(91.5), (0, 1))
    assert found[1].spread == pytest.approx(5 * 2**0.5)
    assert [line.state for line in found[2:]] == ["missing"] * 8
    assert found[9].paper == 95.2


def test_whatever_the_paper_has_and_nobody_ran_is_missing():
    table1 = lines(whole(), 1)
    assert len([line for line in table1 if line.state == "missing"]) == len(published(1)) - 1
    alad = only(lines(whole(), 1, dataset="cats-vs-dogs", detector="alad"))
    assert (alad.ours, alad.paper, alad.state) == (None, 53.4, "missing")


def test_variants_are_averaged_in_table_4():
    found = lines(whole() + whole(1, 0.02), 4, **OURS)
    assert [line.subject for line in found] == ["LG", "LFE", "LFL", "GF"]
    assert found[0].ours == pytest.approx(81.0)
    assert found[3].ours == pytest.approx(91.0)
    assert [line.state for line in found] == ["", "missing", "missing", ""]
    assert [line.paper for line in found] == [72.3, 84.4, 84.9, 92.3]


def test_cheap_rows_stand_on_lines_of_their_own():
    cheap = whole(settings={"epochs": 2, "width": 0.25}, max_train=500)
    faithful, marked = lines(whole() + cheap, 1, **OURS)
    assert faithful.settings == ""
    assert marked.settings == "epochs=2, width=0.25, max_train=500"


def test_a_failure_is_no_figure_and_is_counted():
    rows = [*whole()[:9], row(9, error="DivergedError: loss", auroc=None)]
    assert only(lines(rows, 1, **OURS)).state == "9 of 10 classes"
    assert "Cells that failed: 1." in make_tables(rows)[0].notes


def test_a_later_success_stands_for_an_earlier_failure():
    failed = row(3, error="it was killed", auroc=None)
    assert only(lines([failed, *whole()], 1, **OURS)).ours == pytest.approx(90.0)


def test_systems_and_sets_that_the_paper_lacks_have_no_figure_of_it():
    rows = whole(detector="pixel-pca", variants={}) + whole(dataset="digits")
    assert only(lines(rows, 1, detector="pixel-pca")).paper is None
    assert only(lines(rows, 1, dataset="digits")).paper is None
    assert lines(rows, 4, detector="pixel-pca") == []


def test_the_notes_say_when_where_and_by_what():
    rows = [row(0, date="2026-02-01T00:00:00"), row(1, note="a local copy")]
    notes = " ".join(make_tables(rows)[0].notes)
    assert "Cells: 2. Dates: 2026-01-02 to 2026-02-01." in notes
    assert "Devices: cpu (x86_64). Commits: abc." in notes
    assert "a local copy." in notes


# -- what must not be mixed ----------------------------------------------------------------------


@pytest.mark.parametrize("other", [{"protocol": "released"}, {"split": "development"}])
def test_rows_of_another_protocol_or_split_are_refused(other):
    with pytest.raises(InputError, match="contain only protocol"):
        make_tables([*whole(), row(**other)])
    assert select([*whole(), row(**other)], "paper", "test") == whole()


def test_other_tables_say_what_they_are_in_every_title():
    released = make_tables(whole(protocol="released"), "released")
    assert all("leaks labels; for audit only" in table.title for table in released)
    development = make_tables(whole(split="development"), split="development")
    assert all(table.title.startswith("DEVELOPMENT SPLIT") for table in development)
    for written in (formats.markdown(released), formats.latex(released)):
        assert written.count("leaks labels; for audit only") >= 3
    assert formats.comma_separated(released).count("released") > 10


# -- a separate league ---------------------------------------------------------------------------


PRETRAINED = {"detector": "pretrained-knn", "variants": {}}
HEADING = "Pretrained on ImageNet: a separate league. AUROC (%)"


def test_pretrained_detectors_stand_in_tables_of_their_own():
    alone, mixed = make_tables(whole()), make_tables([*whole(), *whole(offset=0.05, **PRETRAINED)])
    # The paper's tables, notes included, are as if the others had not been run.
    assert mixed[:3] == alone
    averages, classes = mixed[3:]
    assert averages.title == f"{HEADING}, mean over classes"
    assert classes.title == f"{HEADING} of every class"
    assert [(line.detector, line.ours) for line in averages.lines] == [
        ("pretrained-knn", pytest.approx(95.0))
    ]
    assert len(classes.lines) == 10
    assert {line.detector for line in classes.lines} == {"pretrained-knn"}
    assert "a million labelled photographs" in averages.notes[0]
    assert "Cells: 10. Dates: 2026-01-02 to 2026-01-02." in averages.notes


def test_pretrained_detectors_alone_leave_the_papers_tables_without_figures_of_ours():
    made = make_tables([*whole(**PRETRAINED)[:9], row(9, error="x", auroc=None, **PRETRAINED)])
    assert all(line.ours is None for table in made[:3] for line in table.lines)
    assert made[3].lines[0].state == "9 of 10 classes"
    assert "Cells that failed: 1." in made[3].notes


def test_a_separate_league_is_marked_on_other_splits_too():
    made = make_tables(whole(split="development", **PRETRAINED), split="development")
    assert all(table.title.startswith("DEVELOPMENT SPLIT") for table in made)
    assert all("separate league" in table.title for table in made[3:])


@pytest.mark.parametrize(("written", "mark"), [("markdown", "## "), ("latex", r"\caption{")])
def test_every_format_puts_a_separate_league_under_its_own_heading(written, mark):
    text = getattr(formats, written)(make_tables([*whole(), *whole(**PRETRAINED)]))
    papers, averages, classes = text.split(f"{mark}Pretrained on ImageNet: a separate league. ")
    assert "pretrained-knn" not in papers
    for own in (averages, classes):
        assert "pretrained-knn" in own
        assert "adcgan" not in own
        # No column to compare with the paper.
        assert "paper " not in own.split("These detectors use")[0]


def test_csv_names_the_league_of_every_line():
    text = formats.comma_separated(make_tables([*whole(), *whole(**PRETRAINED)]))
    for line in csv.DictReader(io.StringIO(text)):
        own = line["method"] == "pretrained-knn"
        assert line["league"] == ("pretrained on ImageNet" if own else "")


# -- as text -------------------------------------------------------------------------------------


def shown(rows, number=1, **wanted):
    table = {table.number: table for table in make_tables(rows)}[number]
    columns, cells = formats.grid(table)
    found = [dict(zip(columns, row, strict=True)) for row in cells]
    return [x for x in found if all(x[key] == value for key, value in wanted.items())]


def test_a_figure_is_shown_with_spread_interval_and_the_papers_place():
    rows = whole(0) + whole(1, 0.01) + whole(2, 0.02)
    cell = only(shown(rows, data="mnist", scheme="one-vs-all", method="adcgan"))
    assert cell["ours"] == "91.0 ± 1.0"
    assert cell["seeds"] == "3"
    assert cell["settings"] == "default"
    assert cell["95% interval"] == "88.5 to 93.5"
    assert cell["paper"] == "92.3 (inside)"


def test_the_papers_figure_is_placed_above_or_below_our_interval():
    low = whole(0) + whole(1, 0.001) + whole(2, 0.002)
    high = whole(0, 0.05) + whole(1, 0.051) + whole(2, 0.052)
    place = {"data": "mnist", "scheme": "one-vs-all", "method": "adcgan"}
    assert only(shown(low, **place))["paper"] == "92.3 (above)"
    assert only(shown(high, **place))["paper"] == "92.3 (below)"


def test_few_seeds_and_missing_cells_are_shown_as_such():
    place = {"data": "mnist", "scheme": "one-vs-all", "method": "adcgan"}
    assert only(shown(whole(), **place))["95% interval"] == "under 3 seeds"
    assert only(shown(whole()[:3], **place))["ours"] == "3 of 10 classes"
    absent = only(shown(whole(), data="mnist", scheme="one-vs-all", method="alad"))
    assert (absent["ours"], absent["settings"], absent["paper"]) == ("missing", "", "62.4")


def test_classes_are_shown_with_their_names():
    rows = [row(3, dataset="cifar10")]
    assert "3 (cat)" in [cell["class"] for cell in shown(rows, 3)]
    assert "3" in [cell["class"] for cell in shown([row(3)], 3)]


def test_csv_holds_every_line_of_every_table():
    tables = make_tables(whole() + whole(1, 0.01) + whole(2, 0.02))
    read = list(csv.DictReader(io.StringIO(formats.comma_separated(tables))))
    assert len(read) == sum(len(table.lines) for table in tables)
    first = next(r for r in read if r["ours"])
    assert (first["table"], first["ours"], first["paper"]) == ("1", "91.0000", "92.3000")
    assert (first["seeds"], first["spread"]) == ("0 1 2", "1.0000")


def test_latex_has_nothing_left_to_escape():
    rows = whole(settings={"warmup_epochs": 1})
    text = formats.latex(make_tables(rows))
    assert r"warmup\_epochs=1" in text
    assert "±" not in text
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 3


# -- the paper's figures -------------------------------------------------------------------------


def test_the_papers_tables_are_whole():
    assert len(published(1)) == 28
    assert len(published(3)) == 6 * 10 * 4 + 2 * 4
    assert len(published(4)) == 16
    assert published(3)["cats-vs-dogs", "one-vs-all", "1", "adcgan"] == 86.9


def test_table_1_is_the_mean_of_table_3_in_the_paper_too():
    # A slip of the pen in a file would show. The paper has one of its own.
    off = []
    for (dataset, scheme, _, method), average in published(1).items():
        classes = [
            v for k, v in published(3).items() if (k[0], k[1], k[3]) == (dataset, scheme, method)
        ]
        if abs(np.mean(classes) - average) > 0.15:
            off.append((dataset, scheme, method))
    assert off == [("cats-vs-dogs", "one-vs-all", "aegan")]


# -- plots and the command -----------------------------------------------------------------------


def test_bars_stand_for_both_figures():
    axes = Figure().add_subplot()
    assert bars_against_paper(axes, ["a", "b"], [90, 60], [80, np.nan], [1, np.nan]) is axes
    ours, paper = (container for container in axes.containers if len(container) == 2)
    assert [bar.get_width() for bar in ours] == [90, 60]
    assert paper[0].get_width() == 80


def test_points_lie_at_the_papers_figure_and_ours():
    axes = Figure().add_subplot()
    assert scatter_against_paper(axes, {"a": ([90, 80], [70, 60])}) is axes
    assert axes.collections[0].get_offsets().tolist() == [[70, 90], [60, 80]]


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "R"
    folder.mkdir()
    text = "".join(json.dumps(r) + "\n" for r in [*whole(), row(protocol="released")])
    (folder / "rows.jsonl").write_text(text)
    return folder


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_shows_tables_and_counts_what_it_leaves_out(results):
    result = run("tables", results)
    assert result.exit_code == 0
    assert "Table 1" in result.stdout
    assert "mnist, one-vs-all" in result.stdout
    assert "left out   1 of another protocol or split" in result.stderr
    assert "leaks labels" not in result.stdout


def test_the_command_shows_a_separate_league_last_with_its_own_notes(tmp_path):
    text = "".join(json.dumps(r) + "\n" for r in [*whole(**PRETRAINED), *whole()])
    (tmp_path / "rows.jsonl").write_text(text)
    result = run("tables", tmp_path, "--plots", tmp_path / "p")
    assert result.exit_code == 0
    papers, own = result.stdout.split(f"{HEADING}, mean over classes")
    assert "pretrained-knn" not in papers
    assert "paper's figure" in papers
    assert "adcgan" not in own
    assert "are not comparable" in own
    assert sorted(p.name for p in (tmp_path / "p").iterdir()) == ["averages.png", "classes.png"]


def test_the_command_writes_files_and_plots(results, tmp_path):
    arguments = ["--format", "markdown", "--out", tmp_path / "t.md", "--plots", tmp_path / "p"]
    assert run("tables", results, *arguments).exit_code == 0
    assert (tmp_path / "t.md").read_text().startswith("## Table 1")
    assert sorted(p.name for p in (tmp_path / "p").iterdir()) == ["averages.png", "classes.png"]


def test_released_rows_are_shown_when_asked_for_and_marked(results):
    result = run("tables", results, "--protocol", "released")
    assert result.stdout.startswith("RELEASED PROTOCOL (leaks labels; for audit only)")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "word"], "--format must be one of terminal"),
        (["--protocol", "mine"], "--protocol must be one of paper, released"),
        (
            ["--split", "development"],
            "R must hold rows of protocol 'paper' and split 'development'",
        ),
        (["--out", "t.txt"], "--out needs --format"),
    ],
)
def test_what_cannot_be_shown_is_one_line_and_exit_code_2(results, arguments, message):
    result = run("tables", results, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_folder_without_rows_is_refused(tmp_path):
    result = run("tables", tmp_path)
    assert result.exit_code == 2
    assert "R must be a folder with rows.jsonl in it, or a file of rows" in result.stderr


def test_files_of_rows_make_the_tables_of_their_folder(results, tmp_path):
    moved = tmp_path / "some-name.jsonl"
    moved.write_bytes((results / "rows.jsonl").read_bytes())
    from_folder = run("tables", results, "--format", "csv")
    from_file = run("tables", moved, "--format", "csv")
    assert from_file.exit_code == 0
    assert from_file.stdout == from_folder.stdout
