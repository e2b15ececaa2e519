"""The documentation tells the truth: its code runs, its names exist, its links lead somewhere."""

from __future__ import annotations

import functools
import http.server
import inspect
import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

import adcgan
from adcgan import DETECTORS, load_named
from adcgan.benchmark.published import published
from adcgan.cli import app, fit
from adcgan.data import DATASETS
from adcgan.detectors import SelfSupervisedADCGAN
from adcgan.detectors.effort import EFFORTS

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("results/**/*.md")])
DETECTOR_PAGES = sorted(DOCS.glob("detectors/*.md"))
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path) -> list[tuple[str, str]]:
    """Return (language, content) of the fenced blocks of a page."""
    return re.findall(r"^```(\w*)\n(.*?)^```", text_of(page), re.DOTALL | re.MULTILINE)


def table_under(page: Path, heading: str) -> dict[str, str]:
    """Return the first two columns of the first table under a heading."""
    part = text_of(page).split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.+?) \| (.*?) \|", part, re.MULTILINE)
    assert rows, heading
    return {name.strip("`"): meaning for keys, meaning in rows for name in keys.split(", ")}


# -- links ---------------------------------------------------------------------------------------


@every_page
def test_local_links_lead_to_files(page: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", text_of(page), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)#]+)", prose):
        if "://" not in target:
            assert (page.parent / target).exists(), target


# -- code ----------------------------------------------------------------------------------------

RUN = [
    "README.md",
    "docs/index.md",
    "docs/tutorial.md",
    "docs/python.md",
    "docs/coming-from.md",
    "docs/export.md",
]
# What sets up the environment that the tests run in already, and what tests/test_cli.py runs.
NOT_RUN = (
    "pip install",
    "PIP_CONSTRAINT=",
    "python3 -m venv",
    ". venv/bin/activate",
    "pytest",
    "adcgan demo",
)
# The commands are run as they stand, their options are read and checked; then the networks are
# made small, so that a page takes seconds.
SMALL = {"width": 0.06, "image_size": 16, "warmup_epochs": 1, "epochs": 1, "min_steps": 0}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the folders that the pages name, digits in the place of photographs."""
    root = tmp_path_factory.mktemp("photographs")
    digits = load_named("digits", "train")
    assert digits.labels is not None
    small, large = (digits.images[chosen, 0] for chosen in (digits.labels < 5, digits.labels > 4))
    for folder, images in {
        "photos/normal": small[:200],
        "photos/new": large[:6],
        "photos/test/normal": small[200:206],
        "photos/test/anomalous": large[6:12],
        "bottle/train/good": small[:60],
        "bottle/test/good": small[206:212],
        "bottle/test/broken_large": large[12:15],
        "bottle/test/contamination": large[15:18],
    }.items():
        (root / folder).mkdir(parents=True)
        for index, image in enumerate(images):
            Image.fromarray(image).save(root / folder / f"{index:03}.png")
    (root / "photos/normal/broken.jpg").write_bytes(b"not an image")
    return root


@pytest.fixture
def beside_photographs(photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a fresh copy of the photographs the current folder, and every network small."""
    shutil.copytree(photographs, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    asked = fit.settings

    def settings(kind: type, *rest: Any) -> dict[str, Any]:
        known = inspect.signature(kind).parameters
        return asked(kind, *rest) | {k: v for k, v in SMALL.items() if k in known}

    monkeypatch.setattr(fit, "settings", settings)
    monkeypatch.setattr(adcgan.Detector, "fit_cost", lambda *_, **__: None)  # it times a few steps
    for kind in DETECTORS.values():
        # Of those to compare, what takes no training: tests/selection has the others.
        monkeypatch.setattr(kind, "candidate", kind.candidate and "pixel" in kind.name)
    return tmp_path


@pytest.mark.parametrize("name", RUN)
def test_the_code_of_a_page_runs(name: str, beside_photographs: Path) -> None:
    names: dict[str, object] = {}
    ran = 0
    for language, content in blocks(ROOT / name):
        assert language in {"sh", "console", "python", "text"}, language
        if "import pyod" in content or "from pyod" in content:
            continue  # test_the_code_for_pyod_runs has it
        if language == "python":
            run_python(content, name, names)
        elif language != "text":
            lines = content.splitlines()
            if language == "console":
                lines = [line[2:] for line in lines if line.startswith("$ ")]
            run_shell("\n".join(lines))
        ran += language != "text"
    assert ran
    if name == "README.md":
        assert len(names["scores"]) == len(names["digits"])  # type: ignore[arg-type]
        assert set(names["labels"]) == {0, 1}  # type: ignore[call-overload]
        assert {"scores.csv", "heat", "results"} <= {p.name for p in beside_photographs.iterdir()}
    if name == "docs/tutorial.md":
        header = Path("scores.csv").read_text().splitlines()[0].split(",")
        assert header[:4] == ["path", "score", "p_value", "anomalous"]
        assert header[-1] == "error"
        assert len(list(Path("heat").iterdir())) == len(list(Path("photos/new").iterdir()))


@pytest.mark.peers
def test_the_code_for_pyod_runs(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("combo", reason="PyOD combines through the package combo")
    pytest.importorskip("pyod")
    (code,) = [code for language, code in blocks(DOCS / "coming-from.md") if language == "python"]
    run_python(code, "coming-from", {})
    assert "average ROC:" in capsys.readouterr().out


def run_python(code: str, name: str, names: dict[str, object]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Of the photographs that pages learn from, one is broken.
        warnings.filterwarnings("ignore", r"1 of .* could not be read; .*'broken\.jpg'")
        exec(compile(code, name, "exec"), names)


def run_shell(script: str) -> None:
    """Run the commands of a block: ours in this process, what is between them by a shell."""
    others: list[str] = []
    for line in [*script.replace("\\\n", " ").replace(" && ", "\n").splitlines(), "adcgan -h"]:
        if not line or line.startswith(NOT_RUN):
            continue
        if line.startswith("adcgan "):
            if others:
                subprocess.run(["bash", "-euc", "\n".join(others)], check=True)
                others = []
            done = CliRunner().invoke(app, shlex.split(line, comments=True)[1:])
            assert done.exit_code == 0, f"{line}\n{done.output}\n{done.exception!r}"
        else:
            others.append(line)


@pytest.mark.slow
@pytest.mark.data
def test_the_code_of_the_detectors_pages_runs(capsys: pytest.CaptureFixture[str]) -> None:
    ((_, code),) = blocks(DOCS / "detectors" / "published.md")
    run_python(code, "detectors", {})
    assert float(capsys.readouterr().out) > 0.95


def test_the_docstring_example_of_adcgan_runs() -> None:
    import doctest

    from adcgan.detectors import adcgan

    results = doctest.testmod(adcgan)
    assert (results.attempted, results.failed) == (6, 0)


# -- commands ------------------------------------------------------------------------------------


def shown_commands(page: Path) -> list[str]:
    """Return every command of ours that a page shows, in a block or between backticks."""
    text = text_of(page)
    fenced = [content for language, content in blocks(page) if language in {"", "sh", "console"}]
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    indented = re.findall(r"(?:^ {4}.*\n)+", prose, re.MULTILINE)
    lines = "\n".join([*fenced, *indented]).replace("\\\n", " ").splitlines()
    inline = re.findall(r"(?<!`)`(adcgan [^`]+)`(?!`)", prose)
    found = [line.strip().removeprefix("$ ") for line in lines]
    return [" ".join(one.split()) for one in [*found, *inline] if one.startswith("adcgan ")]


@every_page
def test_the_commands_of_a_page_exist_with_their_options(page: Path) -> None:
    root = typer.main.get_command(app)
    for shown in shown_commands(page):
        command, words = root, shlex.split(shown.partition(" && ")[0], comments=True)[1:]
        while words and hasattr(command, "commands") and not words[0].startswith("-"):
            name = words.pop(0)
            if name == "COMMAND":
                break
            assert name in command.commands, shown
            command = command.commands[name]
        known = {option for param in command.params for option in param.opts} | {"--help", "-h"}
        options = {word.partition("=")[0] for word in words if word.startswith("-")}
        assert options <= known, f"{shown}: {sorted(options - known)}"


@every_page
def test_the_settings_of_a_pages_commands_are_those_of_the_detector_that_they_train(
    page: Path,
) -> None:
    for shown in shown_commands(page):
        words = shlex.split(shown.partition(" && ")[0], comments=True)
        if len(words) < 3 or words[1] not in {"fit", "benchmark"}:
            continue
        given: dict[str, list[str]] = {}
        for option, value in pairwise(words):
            given.setdefault(option, []).append(value)
        named = given.get("--detector", []) + given.get("--detectors", [])
        if not named and words[1] == "fit":
            assert page.parent.name != "detectors", f"{shown}: of which detector?"
            named = ["adcgan-ss" if words[2] in DATASETS else "adcgan-local"]
        settings = [value.partition("=")[0] for value in given.get("--set", [])]
        for name in ",".join(named).split(","):
            if name in DETECTORS:
                known = inspect.signature(DETECTORS[name]).parameters
                own = {setting.removeprefix(f"{name}.") for setting in settings}
                assert {key for key in own if "." not in key} <= set(known), f"{shown}: {name}"


def test_the_reference_of_commands_is_current() -> None:
    made = runpy.run_path(str(ROOT / "scripts" / "command_reference"))["page"]()
    assert text_of(DOCS / "commands.md") == made, "docs/commands.md: run scripts/command_reference"


def test_the_reference_of_commands_names_whatever_help_does() -> None:
    reference = runpy.run_path(str(ROOT / "scripts" / "command_reference"))
    page = text_of(DOCS / "commands.md")
    tree = reference["commands"]("adcgan", reference["root"]())
    assert len(tree) > 10
    for name, _ in tree:
        section = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
        shown = CliRunner().invoke(app, [*name.split()[1:], "--help"], env={"COLUMNS": "200"})
        options = set(re.findall(r"(?<![\w-])--[a-z-]+", shown.stdout)) - {"--help"}
        missing = {option for option in options if option not in section}
        assert not missing, f"{name}: {missing}"


# -- names and fields ----------------------------------------------------------------------------


def test_the_python_page_has_every_public_name_and_no_other() -> None:
    page = DOCS / "python.md"
    assert set(table_under(page, "Names")) == set(adcgan.__all__)
    tables = ("Learning", "Scoring", "For code around a detector")
    calls = {name for table in tables for name in table_under(page, table)}
    attributes = set(table_under(page, "What a fitted detector knows"))
    detector = DETECTORS["pixel-pca"](fpr=0.5)
    detector.fit(np.random.default_rng(0).integers(0, 256, (40, 16, 16), np.uint8))
    inherited = {"get_metadata_routing", "set_fit_request"}  # scikit-learn's
    public = {
        n for n in dir(DETECTORS["pixel-pca"]) if not n.startswith("_") and not n.endswith("_")
    }
    assert calls == public - inherited - set(DETECTORS["pixel-pca"].rules())
    assert attributes <= set(dir(detector))
    for name in re.findall(r"^    (\w+_(?:, \w+_)*) :", adcgan.Detector.__doc__ or "", re.M):
        assert set(name.split(", ")) <= attributes


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that was stopped, and the model folder it becomes in "model"."""
    from adcgan import ADCGAN

    folder = tmp_path_factory.mktemp("run")
    digits = load_named("digits", "train")
    assert digits.labels is not None
    zeros = digits.select(digits.labels == 0)
    settings = {"width": 0.06, "warmup_epochs": 1, "epochs": 1, "min_steps": 0, "fpr": 0.1}

    class StopError(Exception):
        pass

    class Progress:
        steps = 0

        def start(self, *_: object) -> None: ...
        def finish(self) -> None: ...
        def advance(self, steps: int = 1) -> None:
            self.steps += steps
            if self.steps == 6:
                raise StopError

    detector = ADCGAN(**settings, device="cpu")
    with pytest.raises(StopError):
        detector.fit(zeros, run_dir=folder, checkpoint_every=5, progress=Progress())
    shutil.copytree(folder, folder / "stopped")
    detector.fit(zeros, run_dir=folder, resume=True)
    return folder


@pytest.mark.parametrize("name", ["config.json", "calibration.json", "manifest.json", "run.json"])
def test_the_fields_of_a_model_folder_are_those_on_its_page(name: str, run_folder: Path) -> None:
    fields = json.loads((run_folder / name).read_text())
    assert set(table_under(DOCS / "model-folder.md", name)) == set(fields)


def test_the_files_of_a_model_folder_are_those_on_its_page(run_folder: Path) -> None:
    page = DOCS / "model-folder.md"
    first = re.findall(r"^\| `([\w.]+)` \|", text_of(page).split("\n## ")[0], re.MULTILINE)
    there = {path.name for path in run_folder.iterdir() if path.is_file()}
    stopped = {path.name for path in (run_folder / "stopped").iterdir()}
    assert there < set(first)
    assert set(first) - there == {"checkpoint.safetensors", "skipped.csv", "report.html"}
    assert "checkpoint.safetensors" in stopped
    assert "manifest.json" not in stopped


def test_the_columns_of_skipped_csv_are_those_on_its_page(tmp_path: Path) -> None:
    from adcgan.cli.training import write_skipped

    write_skipped(tmp_path, load_named("digits", "train"))
    header = (tmp_path / "skipped.csv").read_text().splitlines()[0]
    assert header.split(",") == list(table_under(DOCS / "model-folder.md", "skipped.csv"))


def test_tensors_and_statistics_of_a_model_folder_are_named_as_its_page_says(
    run_folder: Path,
) -> None:
    from safetensors import safe_open

    page = DOCS / "model-folder.md"
    with safe_open(run_folder / "weights.safetensors", "pt") as file:
        named = {key.split(".")[0] for key in file.keys()}  # noqa: SIM118
        assert {"encoder", "generator", "critic", "latent_critic", "encoded_draws"} <= named
        assert file.metadata() is None
    with safe_open(run_folder / "stopped" / "checkpoint.safetensors", "pt") as file:
        assert {key.split("/")[0] for key in file.keys()} == {"networks", "optimizers"}  # noqa: SIM118
        assert all(k.count("/") == 3 for k in file.keys() if k.startswith("opt"))  # noqa: SIM118
        assert file.metadata() == {"step": "5"}
    fields = table_under(page, "stats.jsonl")
    rows = [json.loads(line) for line in (run_folder / "stats.jsonl").read_text().splitlines()]
    for row in rows:
        assert {"NETWORK/LOSS" if "/" in key else key for key in row} == set(fields)


# -- detectors -----------------------------------------------------------------------------------


def detector_sections() -> dict[str, tuple[Path, str]]:
    """Return page and text of what the documentation says of each detector, by its name.

    A heading with name and class begins it, the next such heading of the page ends it.
    """
    found: dict[str, tuple[Path, str]] = {}
    for page in DETECTOR_PAGES:
        parts = re.split(r"^##? .*\(`([\w-]+)`, `(\w+)`\)$", text_of(page), flags=re.MULTILINE)
        for name, class_, text in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
            assert name not in found
            assert DETECTORS[name].__name__ == class_
            found[name] = page, text
    return found


def test_every_detector_has_a_section_and_a_row_that_leads_to_it() -> None:
    assert detector_sections().keys() == DETECTORS.keys()
    page = text_of(DOCS / "which-detector.md")
    for name, (path, _) in detector_sections().items():
        link = rf"\[`{name}`\]\({path.relative_to(DOCS)}(#[\w-]+)?\)"
        assert re.search(rf"^\| {link} \| `{DETECTORS[name].__name__}` \|", page, re.MULTILINE)


@pytest.mark.parametrize("name", DETECTORS)
def test_the_section_of_a_detector_has_its_parts(name: str) -> None:
    page, text = detector_sections()[name]
    of_section = re.findall(r"^###? (.*)", text, re.MULTILINE)
    assert [part for part in of_section if part in ("Equations", "When to use it")] == [
        "Equations",
        "When to use it",
    ]
    of_page = re.findall(r"^## (.*)", text_of(page), re.MULTILINE)
    assert {"Measured", "How to replicate"} <= set(of_page)


def test_the_settings_of_figures_work() -> None:
    page = text_of(DOCS / "detectors" / "published.md")
    rows = re.findall(r"^\| `(\w+)` \| `dict\((.*?)\)` \|", page, re.MULTILINE)
    assert len(rows) == 6
    for name, settings in rows:
        chosen = dict(pair.split("=") for pair in settings.split(", "))
        parameters = {key: json.loads(value) for key, value in chosen.items()}
        DETECTORS[name](**parameters).check_parameters()


def by_seed(name: str, detector: str) -> dict[int, dict[int, float]]:
    """Return the AUROCs in percent of one detector in a file of results, by seed and class."""
    rows = [json.loads(line) for line in (ROOT / "results" / name).read_text().splitlines()]
    found: dict[int, dict[int, float]] = {}
    for row in sorted(rows, key=lambda row: (row["seed"], row["class"])):
        if row["detector"] == detector:
            found.setdefault(row["seed"], {})[row["class"]] = 100 * row["auroc"]
    assert len({tuple(classes) for classes in found.values()}) == 1
    return found


def by_class(name: str, detector: str) -> dict[int, float]:
    """Return the means over seeds."""
    seeds = list(by_seed(name, detector).values())
    return {class_: mean(figures[class_] for figures in seeds) for class_ in seeds[0]}


def told_mean(name: str, detector: str) -> str:
    """Return the mean over classes and its standard deviation over seeds, as pages show them."""
    means = [mean(figures.values()) for figures in by_seed(name, detector).values()]
    return f"{mean(means):.1f}" + (f" ± {stdev(means):.1f}" if len(means) > 1 else "")


def aurocs(name: str, detector: str) -> list[float]:
    return list(by_class(name, detector).values())


def spaced(figures: Iterable[float]) -> str:
    return " ".join(f"{figure:.1f}" for figure in figures)


SETS = {
    "MNIST": "mnist",
    "Fashion-MNIST": "fashion-mnist",
    "CIFAR-10 (JPEG copy)": "cifar10",
    "CatsVsDogs": "cats-vs-dogs",
}


def test_the_figures_of_the_pixel_baselines_are_those_of_the_rows() -> None:
    text = text_of(DOCS / "detectors" / "pixels.md")
    for label, name in SETS.items():
        of_detectors = []
        for detector in ("pixel-pca", "pixel-knn", "pixel-iforest"):
            found = aurocs(f"pixels-{name}.jsonl", detector)
            of_detectors.append(f"{mean(found):.1f} ({min(found):.1f} to {max(found):.1f})")
        assert f"| {label} | {' | '.join(of_detectors)} |" in text


def test_the_figures_of_the_papers_baselines_are_those_of_the_rows() -> None:
    page = text_of(DOCS / "detectors" / "published.md")
    for name, label in (
        ("aegan", "aegan"),
        ("aegan-decay", "aegan, `weight_decay=0.5`"),
        ("alad", "alad"),
        ("egbad", "egbad"),
        ("rda", "rda"),
    ):
        found = aurocs(f"{name}-mnist-width-0.25.jsonl", name.split("-")[0])
        assert len(found) == 10
        figures = rf"\| {mean(found):.1f} \| [\d.–]+ \| {spaced(found)} \|"
        assert re.search(rf"\n\| {label} \| [\w ]+ {figures}", page)
    lines = (ROOT / "results" / "small" / "egbad-development.jsonl").read_text().splitlines()
    rates = {
        (row["parameters"]["lr"], row["epochs"]): f"{100 * row['auroc']:.1f}"
        for row in map(json.loads, lines)
    }
    told = f"{rates[1e-4, 20]} so and {rates[1e-4, 100]} after all 100 epochs"
    assert f"{told}; at the published 1e-5, {rates[1e-5, 20]} and {rates[1e-5, 100]}" in page
    nearest = by_class("pixels-mnist.jsonl", "pixel-knn")
    assert f"have a mean of {mean(nearest.values()):.1f}." in page
    for name, epochs in (("anogan", "20"), ("adgan", "20 of 100")):
        searched = by_class(f"{name}-mnist-width-0.25.jsonl", name)
        assert list(searched) == [1, 4, 8]
        assert f"\n| {name} | {epochs} | {spaced(searched.values())} |" in page
    assert f"| raw pixels, k-NN | | {spaced(nearest[digit] for digit in searched)} |" in page
    table = published(3)
    paper = (table["mnist", "one-vs-all", str(digit), "adgan"] for digit in searched)
    assert f"| ADGAN in AD-CGAN's paper | | {spaced(paper)} |" in page


def test_the_table_of_effort_says_what_each_setting_stands_for() -> None:
    def told(name: str, effort: str) -> str:
        detector, words = SelfSupervisedADCGAN(effort=effort), []
        for side in (16, 32, 64):
            value = detector.for_size(side)[name]
            word = value if isinstance(value, str) else f"{value:,g}"
            if not words or word != words[-1].split()[0]:
                words.append(f"{word} from {side} px on" if words else word)
        return "; ".join(words)

    page = text_of(DOCS / "detectors" / "adcgan-ss.md")
    names = SelfSupervisedADCGAN().for_size(32)
    rows = {name: [told(name, effort) for effort in EFFORTS] for name in names}
    differing = {name: row for name, row in rows.items() if len(set(row)) > 1}
    assert len(differing) > 5
    for name, row in differing.items():
        assert f"| `{name}` | {' | '.join(row)} |" in page


def test_the_figures_of_adcgan_ss_are_those_of_the_rows() -> None:
    page, front = text_of(DOCS / "detectors" / "adcgan-ss.md"), text_of(ROOT / "README.md")
    for label, name in SETS.items():
        file = f"adcgan-ss-{name}.jsonl"
        found, told = aurocs(file, "adcgan-ss"), told_mean(file, "adcgan-ss")
        pixels = aurocs(f"pixels-{name}.jsonl", "pixel-knn")
        assert len(found) == len(pixels)
        paper = published(1)[name, "one-vs-all", "average", "adcgan"]
        row = f"| {label} | {told} | {mean(pixels):.1f} | {paper:.1f} | {spaced(found)} |"
        assert row in page
        start = re.escape(f"| {label} | {told} | ")
        assert re.search(rf"{start}[\d.]+(?: ± [\d.]+)? \| {paper:.1f} \|", front)


def test_the_figures_by_effort_are_those_of_the_rows() -> None:
    page, front = text_of(DOCS / "detectors" / "adcgan-ss.md"), text_of(ROOT / "README.md")
    for label, name in SETS.items():
        by_effort = {"quick": by_seed(f"adcgan-ss-{name}.jsonl", "adcgan-ss")[0]}
        for effort in EFFORTS[1:]:
            file = f"adcgan-ss-{name}-{effort}.jsonl"
            if (ROOT / "results" / file).exists():
                by_effort[effort] = by_class(file, "adcgan-ss")
        assert len(by_effort) > 1
        for effort in [effort for effort in by_effort if effort != "quick"]:
            classes = list(by_effort[effort])
            told = "all" if classes == [*by_effort["quick"]] else ", ".join(map(str, classes))
            figures = spaced(by_effort[effort].values())
            assert f"| {label} | {effort} | {told} | {figures} |" in page
            cells = [
                f"{mean(known[c] for c in classes):.1f}" if {*classes} <= {*known} else "–"
                for known in (by_effort.get(effort, {}) for effort in EFFORTS)
            ]
            row = f"| {label} | {told} | {' | '.join(cells)} |"
            assert row in page
            assert row in front


def test_the_figures_that_the_front_page_begins_with_are_those_of_the_rows() -> None:
    front = text_of(ROOT / "README.md")
    for label, name in (("CIFAR-10 (JPEG copy)", "cifar10"), ("MNIST", "mnist")):
        figures = " | ".join(
            f"{mean(aurocs(f'{file}-{name}.jsonl', detector)):.1f} (`{detector}`)"
            for file, detector in (
                ("adcgan-ss", "adcgan-ss"),
                ("pretrained-knn", "pretrained-knn"),
                ("pixels", "pixel-knn"),
            )
        )
        assert f"| {label}, one class normal | {figures} |" in front
    tiles: dict[str, list[float]] = {}
    for line in (ROOT / "results" / "magnetic-tile.jsonl").read_text().splitlines():
        row = json.loads(line)
        tiles.setdefault(row["detector"], []).append(100 * row["auroc"])
    chosen = ("adcgan-local", "pretrained-patch", "patch-pca")
    figures = " | ".join(f"{mean(tiles[detector]):.1f} (`{detector}`)" for detector in chosen)
    assert f"| magnetic tiles, small defects | {figures} |" in front


def test_the_figures_of_adcgan_ss_with_nine_classes_normal_are_those_of_the_rows() -> None:
    page, front = text_of(DOCS / "detectors" / "adcgan-ss.md"), text_of(ROOT / "README.md")
    behind = 0
    for label, name in SETS.items():
        if name == "cats-vs-dogs":  # With two classes the schemes are one.
            continue
        found = by_class(f"adcgan-ss-{name}-all-vs-one.jsonl", "adcgan-ss")
        pixels = by_class(f"pixels-{name}-all-vs-one.jsonl", "pixel-knn")
        paper = published(1)[name, "all-vs-one", "average", "adcgan"]
        assert found.keys() == pixels.keys()
        own, nearest = (f"{mean(figures.values()):.1f}" for figures in (found, pixels))
        assert f"| {label} | {own} | {nearest} | {paper:.1f} | {spaced(found.values())} |" in page
        file = f"adcgan-{name}-all-vs-one-width-0.125.jsonl"
        measured = aurocs(file, "adcgan") if (ROOT / "results" / file).exists() else []
        plain = told_mean(file, "adcgan") if len(measured) == 10 else "–"
        assert f"| {label} | {own} | {plain} | {nearest} | {paper:.1f} |\n" in front
        behind += sum(found[class_] < pixels[class_] for class_ in found)
    assert f"raw pixels are ahead in {behind} classes of 30" in page
    quick = by_class("adcgan-ss-mnist-all-vs-one.jsonl", "adcgan-ss")
    more = by_class("adcgan-ss-mnist-all-vs-one-standard.jsonl", "adcgan-ss")
    own, before = (f"{mean(figures[c] for c in more):.1f}" for figures in (more, quick))
    assert f"have {spaced(more.values())}, a mean of {own}, where `quick` has {before}" in page
    assert f'have {own} ("quick": {before})' in front


def test_the_figures_of_comparisons_are_those_of_the_rows() -> None:
    page = text_of(DOCS / "which-detector.md")
    lines = (ROOT / "results" / "small" / "comparisons.jsonl").read_text().splitlines()
    judged = [row for row in map(json.loads, lines) if row["error"] is None]
    assert len(judged) > 15
    for row in judged:
        own = row["own"].get("all", next(iter(row["own"].values())))["auroc"]
        groups = (mean(v["auroc"] for v in row[key].values()) for key in ("defects", "contents"))
        figures = " | ".join(f"{100 * figure:.1f}" for figure in (*groups, own))
        assert re.search(rf"^\| {row['detector']}[^|]* \| {re.escape(figures)} \|$", page, re.M)


def test_the_figures_of_pretrained_knn_are_those_of_the_rows() -> None:
    page, front = text_of(DOCS / "detectors" / "pretrained.md"), text_of(ROOT / "README.md")
    for label, name in SETS.items():
        found = aurocs(f"pretrained-knn-{name}.jsonl", "pretrained-knn")
        assert f"| {label} | {mean(found):.1f} | {spaced(found)} |" in page
        assert f"| {label} | {mean(found):.1f} |\n" in front


def test_the_figures_of_adcgan_are_those_of_the_rows() -> None:
    text, front = text_of(DOCS / "detectors" / "adcgan.md"), text_of(ROOT / "README.md")
    lines = (ROOT / "results" / "foundation.jsonl").read_text().splitlines()
    pixels = {}
    for name in ("mnist", "fashion-mnist", "cifar10", "cats-vs-dogs"):
        for line in (ROOT / "results" / f"pixels-{name}.jsonl").read_text().splitlines():
            row = json.loads(line)
            if row["detector"] == "pixel-knn":
                pixels[name, row["class"]] = row["auroc"]
    for row in map(json.loads, lines):
        figures = (row["auroc"], row["paper_auroc"], pixels[row["dataset"], row["class"]])
        shown = " | ".join(f"{100 * figure:.1f}" for figure in figures)
        assert f", {row['class']}" in text
        assert f"| {shown} |" in text
    tenth = [100 * row["auroc"] for row in map(json.loads, lines) if row["dataset"] == "cifar10"]
    for name in SETS.values():
        width = "0.5" if name == "cifar10" else "0.25"
        file = f"adcgan-{name}-width-{width}.jsonl"
        narrow = (tenth if name == "cifar10" else []) + aurocs(file, "adcgan")
        low, high, n = min(narrow), max(narrow), len(narrow)
        ends = f"{low:.1f} ({narrow.index(low)}) | {high:.1f} ({narrow.index(high)})"
        paper = published(1)[name, "one-vs-all", "average", "adcgan"]
        nearest = sum(pixels[name, class_] for class_ in range(n)) / n
        told = f"{mean(narrow):.1f}" if name == "cifar10" else told_mean(file, "adcgan")
        assert f"| {told} | {ends} | {paper:.1f} | {100 * nearest:.1f} |" in text
        assert f" | {told} | {paper:.1f} | {100 * nearest:.1f} |\n" in front
    cifar10 = mean(tenth + aurocs("adcgan-cifar10-width-0.5.jsonl", "adcgan"))
    mnist = mean(aurocs("adcgan-mnist-width-0.25.jsonl", "adcgan"))
    assert f"`adcgan`, has {cifar10:.1f} on CIFAR-10 and {mnist:.1f} on MNIST" in front


def test_the_figures_of_adcgan_with_nine_classes_normal_are_those_of_the_rows() -> None:
    text, front = text_of(DOCS / "detectors" / "adcgan.md"), text_of(ROOT / "README.md")
    table = published(3)
    for name in ("mnist", "fashion-mnist"):
        own = by_class(f"adcgan-{name}-all-vs-one-width-0.125.jsonl", "adcgan")
        pixels = by_class(f"pixels-{name}-all-vs-one.jsonl", "pixel-knn")
        nearest = [pixels[class_] for class_ in own]
        for label, found in (
            ("AD-CGAN", list(own.values())),
            ("pixel k-NN", nearest),
            ("paper, width 1", [table[name, "all-vs-one", str(c), "adcgan"] for c in own]),
        ):
            assert f"| {label} | {mean(found):.1f} | {spaced(found)} |" in text
    few = f"(Fashion-MNIST: {mean(own.values()):.1f}, raw pixels {mean(nearest):.1f})"
    assert few in " ".join(front.split())


# -- the site ------------------------------------------------------------------------------------


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on a free port of this machine; yield its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the built site."""
    pytest.importorskip("material", reason="the site is built by mkdocs-material")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_has_thirty_pages_at_most_with_every_page_of_docs_among_them() -> None:
    named = re.findall(r"^ +- .*: (\S+\.md)$", text_of(ROOT / "mkdocs.yml"), re.MULTILINE)
    assert {str(page.relative_to(DOCS)) for page in DOCS.glob("**/*.md")} < set(named)
    assert len(named) <= 30


@pytest.mark.docs
def test_the_site_links_to_nothing_that_is_not_in_it(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        if page.name == "404.html":  # its links are from the root, wherever that will be
            continue
        for target in re.findall(r'(?:href|src)="([^"#?]+)', page.read_text(encoding="utf-8")):
            if "://" not in target and not target.startswith(("mailto:", "data:", "javascript:")):
                assert (page.parent / target).exists(), f"{page.relative_to(site)}: {target}"


@pytest.mark.docs
@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_the_site_without_errors_or_other_hosts(
    site: Path, browser: Browser, width: int
) -> None:
    errors: list[str] = []
    asked: list[str] = []
    with served(site) as address:
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.on("console", lambda message: message.type == "error" and errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        for name in ("index.html", "detectors/adcgan.html", "results/index.html", "commands.html"):
            page.goto(f"{address}/{name}", wait_until="networkidle")
            assert page.locator("h1").count() == 1
            overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            assert page.evaluate(overflow) <= 0, name
        page.goto(f"{address}/index.html")
        if width > 1000:
            page.locator("input.md-search__input").fill("false-positive budget")
            page.locator("a.md-search-result__link").first.wait_for()
        page.close()
    assert not errors
    own: Mapping[str, bool] = {url: url.startswith((address, "data:", "blob:")) for url in asked}
    assert all(own.values()), [url for url, ours in own.items() if not ours]
