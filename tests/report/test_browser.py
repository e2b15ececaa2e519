"""The page as a browser shows it: offline, by keyboard, on a phone, in the dark and on paper."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

import adcgan.cli
from adcgan.cli import demo

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

FOCUSABLE = "a[href], button, input, select, textarea, summary, [tabindex='0']"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the report of the demo, of a network that is trained for a moment only."""
    folder = tmp_path_factory.mktemp("demo") / "d"
    tiny = {"width": 0.06, "warmup_epochs": 1, "epochs": 1, "min_steps": 0, "device": "cpu"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "SETTINGS", tiny)
        run = CliRunner().invoke(adcgan.cli.app, ["demo", "--out", str(folder)])
    assert run.exit_code == 0, run.output
    return folder / "report.html"


@pytest.fixture
def asked() -> list[str]:
    """Return the addresses that the page asks for."""
    return []


@pytest.fixture
def errors() -> list[str]:
    """Return what the console says is wrong."""
    return []


@pytest.fixture(params=[1280, 390], ids=["desktop", "phone"])
def page(
    request: pytest.FixtureRequest,
    browser: Browser,
    report: Path,
    asked: list[str],
    errors: list[str],
) -> Iterator[Page]:
    """Return the report, opened from the disk on a screen of some width."""
    with browser.new_context(viewport={"width": request.param, "height": 900}) as context:
        opened = context.new_page()
        opened.on("request", lambda asking: asked.append(asking.url))
        opened.on("console", lambda said: said.type == "error" and errors.append(said.text))
        opened.on("pageerror", lambda error: errors.append(str(error)))
        opened.goto(report.as_uri())
        yield opened


def test_it_opens_from_the_disk_without_an_error_or_a_request(
    page: Page, asked: list[str], errors: list[str]
) -> None:
    page.mouse.wheel(0, 100_000)
    page.wait_for_load_state("networkidle")
    assert [url for url in asked if not url.startswith("data:")] == [page.url]
    assert errors == []
    loaded = page.eval_on_selector_all("img", "all => all.map(i => i.complete && i.naturalWidth)")
    assert len(loaded) > 60
    assert all(loaded)


def test_nothing_is_wider_than_the_screen(page: Page) -> None:
    wide = page.evaluate(
        "() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert wide[0] <= wide[1]


def test_pictures_have_texts_headings_come_in_order_and_ids_are_used_once(page: Page) -> None:
    unnamed = page.eval_on_selector_all(
        "img, svg[role=img]",
        "all => all.filter(e => !(e.alt || e.getAttribute('aria-label'))).length",
    )
    assert unnamed == 0
    levels = page.eval_on_selector_all("h1,h2,h3,h4,h5,h6", "all => all.map(h => +h.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    ids = page.eval_on_selector_all("[id]", "all => all.map(e => e.id)")
    assert len(ids) == len(set(ids))


def test_landmarks_tables_and_regions_have_names(page: Page) -> None:
    for landmark in ("header", "nav", "main", "footer"):
        assert page.locator(f"body {landmark}").count() == 1, landmark
    assert page.get_attribute("html", "lang") == "en"
    assert page.title()
    label = "document.getElementById(e.getAttribute('aria-labelledby'))?.innerText"
    names = page.eval_on_selector_all("section, [role=region]", f"all => all.map(e => {label})")
    assert len(names) > 8
    assert all(names)
    assert page.locator("table:not(:has(caption))").count() == 0
    assert page.locator("th:not([scope])").count() == 0


def test_the_keyboard_reaches_everything_in_order_and_shows_where_it_is(page: Page) -> None:
    page.evaluate(
        f"document.querySelectorAll(`{FOCUSABLE}`).forEach((e, i) => e.dataset.place = i)"
    )
    n = page.locator("[data-place]").count()
    reached, outlines = [], []
    for _ in range(n):
        page.keyboard.press("Tab")
        place, outline = page.evaluate(
            "() => [document.activeElement.dataset.place,"
            " getComputedStyle(document.activeElement).outlineStyle]"
        )
        reached.append(place)
        outlines.append(outline)
    assert reached == [str(i) for i in range(n)]
    assert set(outlines) == {"solid"}


def test_the_first_key_offers_to_skip_to_the_report(page: Page) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.innerText") == "Skip to the report"
    assert page.locator(".skip").bounding_box()["x"] >= 0  # type: ignore[index]
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "report"


def test_links_lead_to_their_sections(page: Page) -> None:
    for link in page.locator("nav a").all():
        target = link.get_attribute("href")
        assert target is not None
        assert page.locator(f"{target} h2").inner_text() == link.inner_text()


def lightness(page: Page) -> float:
    """Return how light the page's background and the first section's are, 0 to 255."""
    colours = page.evaluate(
        "() => [getComputedStyle(document.body).backgroundColor,"
        " getComputedStyle(document.querySelector('section')).backgroundColor]"
    )
    values = []
    for colour in colours:
        numbers = [float(n) for n in colour.partition("(")[2].rstrip(")").split(",")]
        values.append(255.0 if numbers[3:] == [0.0] else sum(numbers[:3]) / 3)
    assert max(values) - min(values) < 20
    return sum(values) / 2


def test_the_dark_is_dark_and_paper_is_white_in_both(page: Page) -> None:
    page.emulate_media(color_scheme="light")
    assert lightness(page) > 240
    page.emulate_media(color_scheme="dark")
    assert lightness(page) < 60
    page.emulate_media(color_scheme="dark", media="print")
    assert lightness(page) > 250
    assert not page.locator("nav").is_visible()
    ink = page.evaluate("getComputedStyle(document.body).color")
    assert max(int(n) for n in ink[4:-1].split(",")) < 80


def test_paper_cuts_no_figure_card_or_row_and_hides_nothing(page: Page) -> None:
    page.emulate_media(media="print")
    for selector in ("figure", ".cards li", "tr", ".tiles > div"):
        breaks = page.eval_on_selector_all(
            selector, "all => all.map(e => getComputedStyle(e).breakInside)"
        )
        assert set(breaks) == {"avoid"}, selector
    cut = page.eval_on_selector_all(".scroll", "all => all.map(e => getComputedStyle(e).overflowX)")
    assert set(cut) == {"visible"}
    for section in page.locator("section").all():
        assert section.is_visible()
