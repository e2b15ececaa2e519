from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest

from adcgan.benchmark import evaluate
from adcgan.data.imageset import ImageSet, Skipped
from adcgan.errors import InputError
from adcgan.report import Page, Section, evaluation_page, model_page, plots, render, verdict
from adcgan.scoring import Assessment, Scored, Verdict

VOID = {"meta", "img", "br", "link"}
N = 30


class Reader(HTMLParser):
    """Collects what the tests ask about, and checks that elements are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.headings, self.text = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def of(self, tag):
        return [attributes for found, attributes in self.tags if found == tag]


def refuse_all(*_, **__):
    raise InputError("has no generator")


def image_set():
    rng = np.random.default_rng(0)
    return ImageSet(
        images=rng.integers(0, 256, (N, 1, 16, 16), np.uint8),
        names=[f"folder/<img {i}>.png" for i in range(N)],
        positions=np.arange(N),
        skipped=[Skipped(N, "bad & ugly.png", "truncated")],
        labels=np.repeat([0, 1], N // 2),
        source="photos <test>",
    )


def passes(images, index):
    """Yield reconstructions and maps, as a model makes them of batches."""
    for part in np.array_split(index, 2):
        made = np.zeros((len(part), *images.shape[1:]), np.float32)
        yield Scored({}, np.ones((len(part), 16, 16), np.float32), made)


def fitted(**changes):
    """Something with the parts of a fitted detector that a page reads."""
    scores = np.append(np.arange(N) + np.tile([0, 12.0], N // 2), np.nan)
    names = [*image_set().names, "bad & ugly.png"]
    assessment = Assessment(
        names=names,
        scores=scores,
        p_values=np.full(N + 1, 0.5),
        anomalous=np.append((scores[:-1] > 20).astype(int), -1),
        components={"residual": scores, "latent": -scores},
        variants={"LG": scores},
        errors=[""] * N + ["truncated"],
        verdict=Verdict(20.0, 0.1, np.arange(12.0, 21.0)),
    )
    history = [
        {"step": 49, "phase": "warm-up", "autoencoder/reconstruction": 0.5},
        {"step": 99, "phase": "joint", "autoencoder/reconstruction": 0.2, "critic/loss": 1.0},
        {"step": 149, "phase": "joint", "autoencoder/reconstruction": 0.1, "critic/loss": 0.5},
        {"step": 149, "warning": "collapse", "message": "One image <only>.", "diversity": 0.01},
    ]
    parts = {
        "assess": lambda _: assessment,
        "passes": passes,
        "generate": lambda n, **_: np.full((n, 16, 16, 1), 0.5, np.float32),
        "score_contributions": lambda parts: {name: 0.5 * part for name, part in parts.items()},
        "get_params": lambda: {"width": 0.25, "resize": "squash"},
        "history_": history,
        "calibration_scores_": np.arange(12.0, 21.0),
        "calibration_peaks_": None,
        "n_calibration_": 9,
        "n_train_": 81,
        "image_shape_": (1, 16, 16),
        "threshold_": 20.0,
        "fpr": 0.01,
        "fpr_": 0.1,
        "contamination": None,
        "system": "Stand-in",
        "is_export": False,
        "device": "cpu",
    }
    return SimpleNamespace(**(parts | changes))


RUN = {
    "settings": {"data": {"images": 40}},
    "source": "photos <train>",
    "versions": {"adcgan": "0.1.0"},
    "hardware": {"device": "cpu", "name": "x86_64"},
}


def evaluated(detector):
    images = image_set()
    return evaluation_page(detector, images, evaluate(detector, images), RUN)


@pytest.fixture(scope="module")
def page():
    return render(evaluated(fitted()))


def test_the_page_needs_no_other_file_and_makes_no_request(page):
    reader = Reader(page)
    assert not reader.of("script")
    assert not reader.of("link")
    assert all(image["src"].startswith("data:image/png;base64,") for image in reader.of("img"))
    # A picture that is loaded late may be missing on paper.
    assert all("loading" not in image for image in reader.of("img"))
    assert all(anchor["href"].startswith("#") for anchor in reader.of("a"))
    assert "url(http" not in page
    assert "@import" not in page


def test_every_picture_has_a_text_and_headings_come_in_order(page):
    reader = Reader(page)
    assert all(image["alt"] for image in reader.of("img"))
    assert all(svg["aria-label"] for svg in reader.of("svg"))
    assert len(reader.of("table")) == len(reader.of("caption")) > 0
    assert all(cell["scope"] in {"col", "row"} for cell in reader.of("th"))
    assert reader.headings[0] == 1
    assert reader.headings.count(1) == 1
    steps = np.diff(reader.headings)
    assert steps.max() == 1


def test_links_lead_to_sections_and_no_id_is_used_twice(page):
    reader = Reader(page)
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {anchor["href"][1:] for anchor in reader.of("a")} <= set(ids)
    named = [a["aria-labelledby"] for _, a in reader.tags if "aria-labelledby" in a]
    assert set(named) <= set(ids)
    assert len(named) >= len(reader.of("section"))
    sections = [section["id"] for section in reader.of("section")]
    assert sections == [
        "facts",
        "figures",
        "curves",
        "pictures",
        "components",
        "samples",
        "training",
        "calibration",
        "configuration",
    ]


def test_what_users_named_is_escaped(page):
    assert "<img 0>" not in page
    assert "&lt;img 0&gt;" in page
    assert "photos &lt;train&gt;" in page
    assert "One image &lt;only&gt;." in page
    assert "bad &amp; ugly.png" in page


def test_the_page_adapts_to_dark_mode_and_narrow_screens(page):
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page
    assert "max-width: 520px" in page


def test_images_come_with_reconstruction_and_heatmap_where_there_are_some(page):
    alts = [image["alt"].split(":")[0] for image in Reader(page).of("img")]
    assert {alts.count(kind) for kind in ("image", "rebuilt", "heatmap")} == {24}
    plain = render(evaluated(fitted(passes=lambda *_: [Scored({})])))
    kinds = {image["alt"].split(":")[0] for image in Reader(plain).of("img")}
    assert kinds == {"image", "24 generated images in 4 rows"}
    assert "Heatmap" not in plain


def test_images_are_ranked_by_score():
    page = evaluated(fitted())
    pictures = next(section for section in page.sections if section.key == "pictures")
    top, near, bottom = pictures.data["rows"]
    scores = [[card.score for card in row.cards] for row in (top, near, bottom)]
    assert all(row == sorted(row, reverse=True) for row in scores)
    assert max(scores[0]) == 41.0
    assert min(scores[2]) == 0.0
    assert all(abs(score - 20) <= 4 for score in scores[1])


def test_the_page_says_how_many_images_a_budget_needs(page):
    text = " ".join(" ".join(Reader(page).text).split())
    assert "The requested budget of 1% needs 99 images" in text
    assert "keeps 10%" in text
    assert "9 images can support a false-alarm budget of 10% or more (1 in 10)" in text
    kept = " ".join(Reader(render(evaluated(fitted(fpr=0.2, fpr_=0.2)))).text)
    assert "needs 4 images and is kept" in " ".join(kept.split())


def test_budgets_that_the_held_out_images_cannot_support_are_said_to_lack_some(page):
    rows = re.findall(r"<tr><th scope=\"row\">(.*?)</th>.*?>([\d,]+)</td><td>(.*?)</td>", page)
    assert rows == [
        ("10%", "9", "can be kept"),
        ("5%", "19", "too few"),
        ("1%", "99", "too few"),
        ("0.1%", "999", "too few"),
    ]


def test_the_threshold_is_shown_with_its_budget_and_what_it_does(page):
    text = " ".join(" ".join(Reader(page).text).split())
    assert "threshold (budget 10%)" in text
    assert "The false-alarm budget of the threshold is 10%; 20% of these normal images" in text


def test_many_unreadable_files_are_counted_and_the_first_are_listed():
    images = image_set()
    lost = [Skipped(N + i, f"bad{i}.png", "truncated") for i in range(30)]
    assessment = fitted().assess(None)
    padding = np.full(30, np.nan)
    columns = {
        "names": [*images.names, *(item.name for item in lost)],
        "errors": [""] * N + ["truncated"] * 30,
        "scores": np.append(assessment.scores[:-1], padding),
        "p_values": np.append(assessment.p_values[:-1], padding),
        "anomalous": np.append(assessment.anomalous[:-1], np.full(30, -1)),
        "components": {},
        "variants": {},
        "verdict": assessment.verdict,
    }
    images = replace(images, skipped=lost)
    detector = fitted(assess=lambda _: Assessment(**columns))
    page = render(evaluation_page(detector, images, evaluate(detector, images), RUN))
    text = " ".join(" ".join(Reader(page).text).split())
    assert "30 files could not be read and are in none of the figures; the first are below" in text
    assert len(re.findall(r"bad\d+\.png", text)) == 20


def test_a_detector_without_a_generator_has_no_such_section():
    keys = [section.key for section in evaluated(fitted(generate=refuse_all)).sections]
    assert "samples" not in keys


def test_the_parts_that_decide_are_named_with_their_shares(page):
    # Half the residual less half of the same: their shares are infinite, so none is told.
    opposed = " ".join(" ".join(Reader(page).text).split())
    assert "No part decides" in opposed
    mixed = fitted(
        score_contributions=lambda c: {"residual": c["residual"], "latent": c["latent"] / 4}
    )
    text = " ".join(" ".join(Reader(render(evaluated(mixed))).text).split())
    assert "The part named residual decides most: it accounts for 133.3%" in text
    assert "-33.3%" in text


def test_a_score_of_one_part_needs_no_table_of_shares():
    alone = fitted()
    assessment = alone.assess(None)
    one = {"components": {"residual": assessment.scores}}
    alone.assess = lambda _: Assessment(**(vars(assessment) | one))
    text = " ".join(Reader(render(evaluated(alone))).text)
    assert "This score has one part, residual, which decides alone." in " ".join(text.split())


def luminance(colour):
    levels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in levels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_text_stands_out_from_what_is_behind_it_in_both_modes(page, mode):
    blocks = re.findall(r":root \{(.*?)\}", page, flags=re.DOTALL)
    assert len(blocks) == 2
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", blocks[mode]))
    behind = {"ink", "muted", "accent", "normal", "anomalous"}
    pairs = [(text, back) for text in behind for back in ("page", "card")]
    for text, back in [*pairs, ("notice-ink", "notice")]:
        assert contrast(colours[text], colours[back]) >= 4.5, (text, back)


def test_plots_in_light_mode_have_the_colours_of_the_page(page):
    light = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", page.split("@media")[0]))
    assert {name: light[name] for name in plots.COLOURS.values()} == {
        name: colour for colour, name in plots.COLOURS.items()
    }


def test_paper_is_white_and_nothing_is_folded_away(page):
    assert "@media screen and (prefers-color-scheme: dark)" in page
    print_rules = page.split("@media print")[1].split("</style>")[0]
    assert "break-inside: avoid" in print_rules
    assert not Reader(page).of("details")


def test_a_threshold_from_contamination_speaks_of_no_budget():
    text = " ".join(Reader(render(evaluated(fitted(fpr_=None, contamination=0.05)))).text)
    assert "is the training score that 5% of the" in " ".join(text.split())
    assert "budget" not in text


def test_a_detector_without_history_or_components_has_no_such_section():
    bare = fitted(history_=[])
    assessment = bare.assess(None)
    bare.assess = lambda _: Assessment(**(vars(assessment) | {"components": {}, "variants": {}}))
    keys = [section.key for section in evaluated(bare).sections]
    assert "training" not in keys
    assert "components" not in keys


def test_a_long_history_is_thinned():
    history = [{"step": i, "phase": "joint", "loss": float(i)} for i in range(20_000)]
    assert len(render(model_page(fitted(history_=history), "adcgan", "m", RUN))) < 200_000


def test_a_model_has_a_page_without_an_evaluation():
    page = model_page(fitted(), "adcgan", "m1", RUN)
    assert [section.key for section in page.sections] == [
        "facts",
        "samples",
        "training",
        "calibration",
        "configuration",
    ]
    text = " ".join(Reader(render(page)).text)
    assert "81 normal images of photos <train>" in text


def metrics(auroc, low, high):
    return {
        "auroc": auroc,
        "auroc_ci95": [low, high],
        "n_normal": 10,
        "n_anomalous": 5,
        "at_threshold": {"true_positive_rate": 0.8, "false_positive_rate": 0.1},
    }


def test_the_verdict_is_plain_about_a_useless_detector():
    good = verdict(metrics(0.9, 0.85, 0.95))
    assert good.startswith("AUROC 0.900 (95% interval 0.850 to 0.950); the threshold catches 80%")
    assert verdict(metrics(0.52, 0.4, 0.6)).startswith("No better than chance")
    assert verdict(metrics(0.3, 0.2, 0.4)).startswith("Worse than chance")


def test_a_page_of_one_section_is_rendered():
    text = render(Page("t <1>", "v", [], [Section("facts", "F", {"rows": {"a": "b\x1b"}})], "f"))
    assert "t &lt;1&gt;" in text
    assert r"b\x1b" in text
