"""The page in Chromium, as a person uses it."""

from __future__ import annotations

import csv
import io
import re
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from adcgan.serve import Limits

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::ResourceWarning")]

NASTY = '<img src=x onerror="alert(1)">, "quoted".png'


@pytest.fixture
def folder(tmp_path, picture):
    """Return a folder of pictures: two dark, one bright, one broken, one hidden."""
    files = {
        "a/dark.png": picture(20),
        "a/deeper/darker.png": picture(10),
        "bright.png": picture(220),
        "broken.png": b"no image",
        ".hidden.png": picture(99),
    }
    for name, data in files.items():
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "photos"


@contextmanager
def opened(browser, site, expected_errors=(), **options):
    """Open the page; at the end there must be no error and no request to elsewhere."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    page = context.new_page()
    problems, asked = [], []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda m: problems.append(m.text) if m.type in {"error", "warning"} else 0)
    page.on("request", lambda request: asked.append(request.url))
    page.goto(site.url)
    try:
        yield page
    finally:
        context.close()
    assert [p for p in problems if not any(re.search(e, p) for e in expected_errors)] == []
    assert all(url.startswith((site.url, "blob:" + site.url)) for url in asked), asked


def add(page, *files):
    chosen = [{"name": name, "buffer": data, "mimeType": "image/png"} for name, data in files]
    page.set_input_files("#files", chosen)
    settled(page)


def settled(page):
    page.wait_for_selector("#rows li")
    page.wait_for_selector("#progress", state="hidden")
    page.wait_for_selector(".badge.waiting", state="detached")


def rows(page):
    """Return name and badge of each line."""
    return [
        (row.query_selector(".name").inner_text(), row.query_selector(".badge").inner_text())
        for row in page.query_selector_all("#rows li")
    ]


def test_chosen_images_get_verdicts_heatmaps_and_places(browser, site, picture):
    with opened(browser, site) as page:
        add(
            page,
            (NASTY, picture(30)),
            ("bright.png", picture(250)),
            ("broken.png", b"no image"),
        )
        assert rows(page) == [
            (NASTY, "normal"),
            ("bright.png", "anomalous"),
            ("broken.png\nnot an image in a format that can be read", "error"),
        ]
        assert page.inner_text("#summary") == "3 images: 1 anomalous, 1 normal, 1 with an error."
        assert page.inner_text("#rows li:nth-child(2) .figure >> nth=0") == "score\n250"
        assert page.inner_text("#rows li:nth-child(2) .figure >> nth=1") == "p-value\n0.01"
        assert page.locator("#rows .place svg").count() == 2
        assert page.locator("#rows canvas").count() == 4
        # The bright image is hotter than the dark one, on one scale.
        page.wait_for_timeout(200)
        heats = page.evaluate(
            """() => Array.from(document.querySelectorAll("#rows canvas[role=img]"), (canvas) => {
                const data = canvas.getContext("2d").getImageData(0, 0, 16, 16).data;
                return data[0] + data[1] + data[2];
            })"""
        )
        assert 0 < heats[0] < heats[1]
        assert "1 above it" in page.get_attribute("#chart svg", "aria-label")


def test_a_line_appears_while_the_images_are_unlike_those_learned_from(
    browser, scorer, serve, picture
):
    usual = [(f"{level}.png", picture(level)) for level in range(11, 109, 4)]
    with serve(scorer) as site, opened(browser, site) as page:
        add(page, *usual)
        page.wait_for_timeout(200)
        assert not page.is_visible("#drift")
        add(page, *((f"bright-{i}.png", picture(250)) for i in range(40)))
        page.wait_for_selector("#drift", state="visible")
        start = "The last 65 images scored here are unlike those it learned from:"
        assert page.inner_text("#drift").startswith(start)
        add(page, *usual * 8)
        page.wait_for_selector("#drift", state="hidden")


def test_the_budget_decides_anew_without_asking_the_service(browser, site, picture):
    asked = []
    with opened(browser, site) as page:
        page.wait_for_selector("#versions:not(:empty)")
        assert page.inner_text("#budget-value") == "2%"
        assert "no budget below 1%" in page.inner_text("#budget-support")
        add(page, ("a.png", picture(100)), ("b.png", picture(20)))
        assert [verdict for _, verdict in rows(page)] == ["normal", "normal"]
        page.on("request", lambda request: asked.append(request.url))
        page.focus("#budget")
        page.keyboard.press("End")
        assert page.inner_text("#budget-value") == "50%"
        assert page.inner_text("#budget-meaning").startswith("Scores above 59 are anomalous.")
        page.wait_for_selector(".badge.anomalous")
        assert [verdict for _, verdict in rows(page)] == ["anomalous", "normal"]
        page.keyboard.press("Home")
        assert page.inner_text("#budget-value") == "1%"
        page.wait_for_selector(".badge.anomalous", state="detached")
        page.click("#budget-reset")
        assert page.inner_text("#budget-value") == "2%"
        assert page.inner_text("#budget-meaning").startswith("Scores above 107 are anomalous.")
    assert asked == []


def test_the_page_decides_as_the_service_does_at_every_budget(browser, site, picture):
    with opened(browser, site) as page:
        page.wait_for_selector("#versions:not(:empty)")
        add(page, *((f"{v}.png", picture(v)) for v in range(50, 120, 6)))
        page.focus("#budget")
        page.keyboard.press("Home")
        seen = set()
        while (text := page.inner_text("#budget-value")) not in seen:
            seen.add(text)
            share = float(text.rstrip("%")) / 100
            page.wait_for_timeout(60)
            shown = [verdict == "anomalous" for _, verdict in rows(page)]
            files = [("f", (f"{v}", picture(v))) for v in range(50, 120, 6)]
            answer = site.post(f"/v1/score?fpr={share}", files=files).json()
            assert shown == [row["anomalous"] for row in answer["images"]], text
            for _ in range(14):
                page.keyboard.press("ArrowRight")
        assert len(seen) > 3


def test_the_table_can_be_downloaded(browser, site, picture):
    with opened(browser, site, accept_downloads=True) as page:
        add(
            page,
            (NASTY, picture(30)),
            ("bright.png", picture(250)),
            ("broken.png", b"no image"),
        )
        with page.expect_download() as download:
            page.click("#download")
        assert download.value.suggested_filename == "scores.csv"
        text = download.value.path().read_text(encoding="utf-8")
    assert list(csv.reader(io.StringIO(text))) == [
        ["path", "score", "p_value", "anomalous", "mean", "spread", "error"],
        [NASTY, "30", "0.8", "0", "30", "0", ""],
        ["bright.png", "250", "0.01", "1", "250", "0", ""],
        ["broken.png", "", "", "", "", "", "not an image in a format that can be read"],
    ]


def test_a_folder_keeps_its_paths_and_leaves_hidden_files_out(browser, site, folder):
    with opened(browser, site) as page:
        page.set_input_files("#folder", folder)
        settled(page)
        assert sorted(name.split("\n")[0] for name, _ in rows(page)) == [
            "photos/a/dark.png",
            "photos/a/deeper/darker.png",
            "photos/bright.png",
            "photos/broken.png",
        ]


def test_images_can_be_dropped(browser, site, picture):
    with opened(browser, site) as page:
        transfer = page.evaluate_handle(
            """(bytes) => {
                const transfer = new DataTransfer();
                transfer.items.add(new File([new Uint8Array(bytes)], "dropped.png"));
                return transfer;
            }""",
            list(picture(200)),
        )
        page.dispatch_event("#drop", "dragover", {"dataTransfer": transfer})
        page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})
        settled(page)
        assert rows(page) == [("dropped.png", "anomalous")]


def test_many_images_go_in_requests_that_the_service_takes(browser, scorer, serve, picture):
    sent = []
    limits = Limits(max_files=5, max_file_mb=0.01, max_request_mb=0.02)
    with serve(scorer, limits) as site, opened(browser, site) as page:
        page.on("request", lambda r: sent.append(r) if r.url.endswith("layers") else None)
        page.wait_for_selector("#versions:not(:empty)")
        large = picture(5) + bytes(10_000)
        add(
            page,
            *((f"{i}.png", picture(i)) for i in range(1, 73)),
            ("large.png", large),
        )
        assert page.inner_text("#summary") == "73 images: 0 anomalous, 72 normal, 1 with an error."
        assert len(sent) == 15
        assert page.locator("#rows li").count() == 60
        page.click("#more")
        page.wait_for_selector("#more", state="hidden")
        assert rows(page)[-1] == ("large.png\nlarger than 0.01 MB", "error")
        page.select_option("#order", "score")
        page.wait_for_selector("#rows li:first-child :text-is('72.png')")
        page.select_option("#filter", "error")
        page.wait_for_selector("#rows li:nth-child(2)", state="detached")
        assert len(rows(page)) == 1


def test_details_open_and_close_by_keyboard(browser, site, picture):
    with opened(browser, site) as page:
        add(page, ("a.png", picture(30)), ("b.png", picture(250)))
        page.focus("#rows li:first-child button")
        page.keyboard.press("Enter")
        assert page.is_visible("#details")
        assert page.inner_text("#details-name") == "a.png"
        assert "79 of the 99 held-out normal images score as high" in page.inner_text(
            "#details-verdict"
        )
        page.keyboard.press("ArrowRight")
        assert page.inner_text("#details-name") == "b.png"
        assert page.inner_text("#details-figures tr:first-child td") == "250"
        page.keyboard.press("Escape")
        assert not page.is_visible("#details")
        assert page.evaluate("document.activeElement.classList.contains('row')")


# Chromium would have a page that reads its pixels so often say so; this one never reads them.
TEST_READS = [r"willReadFrequently"]
STAGE = """([x, y]) => {
    const canvas = document.querySelector("#details-stage canvas");
    const { data } = canvas.getContext("2d").getImageData(x, y, 1, 1);
    return [canvas.width, canvas.height, ...data.slice(0, 3)];
}"""


def open_half_bright(page, kind):
    """Add a picture of 64×32 pixels whose right half is bright, and open it."""
    pixels = np.full((32, 64, 3), 40, np.uint8)
    pixels[:, 32:] = 250
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    add(page, (f"half.{kind.lower()}", file.getvalue()))
    page.click("#rows li:first-child button")
    # No script is evaluated, which the page's own policy forbids.
    page.wait_for_selector("#details-stage canvas:not([width='1'])")


def test_details_show_the_photograph_large_with_regions_and_a_heatmap_that_goes(browser, site):
    with opened(browser, site, TEST_READS) as page:
        open_half_bright(page, "PNG")
        assert page.inner_text("#details-regions") == "1 region above the threshold for pixels"
        size = "(canvas) => [canvas.clientWidth, canvas.clientHeight]"
        shown = page.eval_on_selector("#details-stage canvas", size)
        # At its own aspect, as wide as the dialog or as high as the window allows.
        assert shown[0] > 0.8 * 1280
        assert abs(shown[0] - 2 * shown[1]) <= 2
        middle, right = shown[1] // 2, int(0.75 * shown[0])
        width, height, *hot = page.evaluate(STAGE, [right, middle])
        # Every pixel of the screen is drawn, none enlarged.
        assert abs(width - shown[0]) <= 1
        assert abs(height - shown[1]) <= 1
        assert hot != [250, 250, 250]
        page.focus("#details-heat")
        page.keyboard.press("Space")
        page.wait_for_timeout(100)
        assert page.evaluate(STAGE, [right, middle])[2:] == [250, 250, 250]
        assert page.evaluate(STAGE, [100, middle])[2:] == [40, 40, 40]
        # The box is near the edge of the bright half, as the map has it, and stays.
        half = width // 2
        line = [page.evaluate(STAGE, [x, middle])[2:] for x in range(half - 60, half + 10)]
        assert [255, 107, 255] in line
        page.keyboard.press("Escape")
        page.click("#rows li:first-child button")
        assert not page.is_checked("#details-heat")


def test_what_the_model_saw_stands_in_for_what_a_browser_cannot_decode(browser, site):
    with opened(browser, site, TEST_READS) as page:
        open_half_bright(page, "TIFF")
        page.uncheck("#details-heat")
        page.wait_for_timeout(100)
        width, height, *left = page.evaluate(STAGE, [100, 100])
        assert abs(width - 2 * height) <= 2
        assert left == [40, 40, 40]
        assert page.evaluate(STAGE, [width - 100, 100])[2:] == [250, 250, 250]


@pytest.mark.parametrize(
    ("resize", "place"),
    [
        ("squash", [0, 0, 300, 200]),
        ("keep", [0, 0, 300, 200]),
        ("crop", [50, 0, 200, 200]),
        ("pad", [0, -50, 300, 300]),
    ],
)
def test_a_map_lies_where_the_model_looked(browser, site, resize, place):
    with opened(browser, site) as page:
        found = page.evaluate(
            f"""async () => {{
                const {{ placeOfMap }} = await import("./page/stage.js");
                return placeOfMap("{resize}", 300, 200);
            }}"""
        )
    assert found == place


def test_the_key_is_asked_for_until_it_is_right(browser, scorer, serve, picture):
    errors = [r"status of 401"]
    with serve(scorer, api_key="sesame") as site, opened(browser, site, errors) as page:
        page.wait_for_selector("#key[open]")
        assert not page.is_visible("#key-wrong")
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector("#key-wrong")
        page.fill("#key-value", "sesame")
        page.keyboard.press("Enter")
        page.wait_for_selector("#versions:not(:empty)")
        add(page, ("a.png", picture(30)))
        assert rows(page) == [("a.png", "normal")]
        page.reload()
        page.wait_for_selector("#versions:not(:empty)")
        assert not page.is_visible("#key")


def test_what_the_connection_lost_can_be_tried_again(browser, site, picture):
    with opened(browser, site, [r"ERR_FAILED"]) as page:
        page.wait_for_selector("#versions:not(:empty)")
        page.route("**/v1/score*", lambda route: route.abort())
        add(page, ("a.png", picture(30)))
        assert rows(page)[0][1] == "error"
        assert "cannot be reached" in rows(page)[0][0]
        page.unroute("**/v1/score*")
        page.click("#retry")
        page.wait_for_selector(".badge.normal")
        assert rows(page) == [("a.png", "normal")]
        page.click("#clear")
        page.wait_for_selector("#results", state="hidden")


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_its_width(browser, site, picture, width, scheme):
    view = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme}
    with opened(browser, site, **view) as page:
        add(page, ("long" * 40 + ".png", picture(30)), ("b.png", b"x"))
        assert page.evaluate("document.documentElement.scrollWidth") == width
        page.click("#rows li:first-child button")
        assert page.evaluate("document.querySelector('#details').scrollWidth") <= width
        page.keyboard.press("Escape")
        page.goto(site.url + "/docs")
        page.wait_for_selector("#operations section")
        assert page.evaluate("document.documentElement.scrollWidth") == width


def test_the_description_of_the_api_is_on_a_page(browser, site):
    with opened(browser, site) as page:
        page.click("footer a")
        page.wait_for_selector("text=POST /v1/score")
        assert page.locator("section").count() >= 10
