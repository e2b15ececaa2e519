from __future__ import annotations

import base64
import io
import json
import re
import threading

import numpy as np
import pydantic
import pytest
from PIL import Image

from adcgan import DETECTORS
from adcgan.errors import InputError
from adcgan.serve.model import ServedModel
from adcgan.serve.service import WINDOW

KEYS = {"name", "score", "p_value", "anomalous", "components", "error"}


def form(*files):
    return [("file", (name, data)) for name, data in files]


def raw(data, kind="image/png"):
    return {"content": data, "headers": {"Content-Type": kind}}


def as_array(coded):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(coded))))


# -- scores ----------------------------------------------------------------------------------


def test_many_files_get_a_row_each_in_their_order(site, picture):
    files = [(f"{level}.png", picture(level)) for level in (200, 50, 107, 108)]
    answer = site.post(files=form(*files))
    assert answer.status_code == 200
    body = answer.json()
    assert [row["name"] for row in body["images"]] == [name for name, _ in files]
    assert [row["score"] for row in body["images"]] == [200, 50, 107, 108]
    assert [row["anomalous"] for row in body["images"]] == [True, False, False, True]
    assert [row["p_value"] for row in body["images"]] == [0.01, 0.60, 0.03, 0.02]
    assert body["images"][0]["components"] == {"mean": 200, "spread": 0}
    assert all(set(row) == KEYS and row["error"] is None for row in body["images"])
    assert (body["threshold"], body["fpr"], body["warning"]) == (107, 0.02, None)


@pytest.mark.parametrize("kind", ["image/png", "image/anything", "application/octet-stream"])
def test_a_body_can_be_one_image(site, picture, kind):
    rows = site.post(**raw(picture(70), kind)).json()["images"]
    assert [(row["name"], row["score"]) for row in rows] == [("image", 70)]


def test_a_body_that_is_an_image_can_be_named(site, picture):
    answer = site.post("/v1/score?name=a%2Fb%20%C3%A9.png", **raw(picture(70)))
    assert answer.json()["images"][0]["name"] == "a/b é.png"


def test_an_unreadable_file_is_a_row_with_its_error_among_the_others(site, picture):
    files = [("a.png", picture(20)), ("b.png", b"no image"), ("c.png", b""), ("d.png", picture(30))]
    answer = site.post(files=form(*files))
    assert answer.status_code == 200
    rows = answer.json()["images"]
    assert [row["score"] for row in rows] == [20, None, None, 30]
    assert rows[1] == {
        **dict.fromkeys(KEYS),
        "name": "b.png",
        "error": "not an image in a format that can be read",
    }
    assert rows[2]["error"] == "not an image in a format that can be read"


def test_nothing_readable_is_refused_with_the_reasons(site):
    one = site.post(**raw(b"no image"))
    assert one.status_code == 422
    assert one.json()["error"] == (
        "The image cannot be read: not an image in a format that can be read"
    )
    two = site.post(files=form(("a", b"no image"), ("b", b"GIF89a")))
    assert two.status_code == 422
    assert two.json()["error"].startswith("None of the 2 images can be read; the first: not an")
    assert [row["name"] for row in two.json()["images"]] == ["a", "b"]
    assert all(row["error"] for row in two.json()["images"])


def test_a_budget_decides_by_the_calibration_scores(site, picture):
    files = form(*((f"{level}", picture(level)) for level in (58, 59, 60)))
    body = site.post("/v1/score?fpr=0.5", files=files).json()
    assert (body["threshold"], body["fpr"], body["warning"]) == (59, 0.5, None)
    assert [row["anomalous"] for row in body["images"]] == [False, False, True]


def test_a_budget_that_the_calibration_cannot_keep_comes_with_a_warning(site, picture):
    body = site.post("/v1/score?fpr=0.001", **raw(picture(108))).json()
    assert (body["threshold"], body["fpr"]) == (108, 0.01)
    assert body["warning"] == (
        "A false-positive budget of 0.001 needs 999 held-out normal images. There are 99, so the "
        "budget in force is 0.01."
    )


@pytest.mark.parametrize(
    "query", ["fpr=0", "fpr=1", "fpr=x", "fpr=nan", "heatmap=maybe", "heatmap_top=0"]
)
def test_a_wrong_parameter_is_named(site, picture, query):
    answer = site.post(f"/v1/score?{query}", **raw(picture(70)))
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(f"The '{query.split('=')[0]}' parameter is wrong: ")


def test_a_score_that_is_not_finite_is_an_error_of_its_image(scorer, serve, picture):
    scorer.combine = lambda parts: np.where(parts["mean"] > 200, np.nan, parts["mean"])
    with serve(scorer) as site:
        rows = site.post(files=form(("a", picture(250)), ("b", picture(20)))).json()["images"]
    assert [row["score"] for row in rows] == [None, 20]
    assert rows[0]["error"] == "the model gives this image no finite score"


def test_a_failing_model_is_a_500_without_details_and_the_next_request_is_served(
    scorer, serve, picture, caplog
):
    with serve(scorer) as site:
        scorer.fails = True
        answer = site.post(**raw(picture(20)))
        assert answer.status_code == 500
        assert answer.json() == {"error": "Internal error; see the server's log"}
        assert "secret" in caplog.text
        scorer.fails = False
        assert site.post(**raw(picture(20))).status_code == 200


def test_scores_are_the_same_alone_and_among_others(scorer, serve, picture):
    levels = list(range(0, 200, 5))
    with serve(scorer) as site:
        alone = [site.post(**raw(picture(v))).json()["images"][0]["score"] for v in levels]
        files = form(*((str(v), picture(v)) for v in levels))
        together = [row["score"] for row in site.post(files=files).json()["images"]]
    assert alone == together == levels
    assert max(scorer.batches) > 1


# -- heatmaps --------------------------------------------------------------------------------


def test_a_heatmap_is_a_picture_of_the_models_size(site, picture):
    row = site.post("/v1/score?heatmap=true", **raw(picture(100, side=40))).json()["images"][0]
    assert set(row) == {*KEYS, "width", "height", "heatmap", "heatmap_top", "regions"}
    assert as_array(row["heatmap"]).shape == (16, 16, 3)
    assert row["heatmap_top"] == 100


def test_heatmaps_can_be_put_on_one_scale(site, picture):
    files = form(("a", picture(50)), ("b", picture(100)))
    own = site.post("/v1/score?heatmap=true", files=files).json()["images"]
    shared = site.post("/v1/score?heatmap=true&heatmap_top=200", files=files).json()["images"]
    assert [row["heatmap_top"] for row in own] == [50, 100]
    assert [row["heatmap_top"] for row in shared] == [200, 200]
    assert as_array(own[0]["heatmap"]).mean() > as_array(shared[0]["heatmap"]).mean()


def test_a_heatmap_comes_in_layers_too(site, picture):
    answer = site.post("/v1/score?heatmap=layers&heatmap_top=200", **raw(picture(100, side=40)))
    row = answer.json()["images"][0]
    shape = {"width", "height"}
    assert set(row) == {*KEYS, *shape, "picture", "map", "heatmap_top", "regions"}
    assert (as_array(row["picture"]) == 100).all()
    assert as_array(row["picture"]).shape == (16, 16, 3)
    assert (as_array(row["map"]) == 128).all()
    assert as_array(row["map"]).shape == (16, 16)


def test_regions_come_with_a_heatmap(site, picture):
    files = form(("dark", picture(50)), ("bright", picture(150)))
    dark, bright = site.post("/v1/score?heatmap=true&fpr=0.1", files=files).json()["images"]
    assert dark["regions"] == []
    (region,) = bright["regions"]
    box = {"left": 0, "top": 0, "width": 16, "height": 16, "area": 256}
    assert region == {**box, "peak": 150, "peak_row": 0, "peak_column": 0}
    assert "regions" not in site.post("/v1/score", files=files).json()["images"][1]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("resize", "box"),
    [
        # The left half of 128×64 pixels is bright.
        ("squash", (0, 0, 64, 64)),
        ("keep", (0, 0, 64, 64)),
        ("pad", (0, 0, 64, 64)),
        # Of the centre square, which begins at column 32.
        ("crop", (32, 0, 32, 64)),
    ],
)
def test_regions_are_in_pixels_of_the_upright_photograph(scorer, serve, resize, box, turned):
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[:, :64] = 250
    exif = Image.Exif()
    if turned:
        # Stored standing; upright is a quarter turn to the right.
        exif[0x0112] = 6
        pixels = np.rot90(pixels)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95, exif=exif)
    scorer.resize = resize
    scorer.get_params = lambda: {"image_size": None}
    with serve(scorer) as site:
        answer = site.post("/v1/score?heatmap=true", **raw(file.getvalue()))
    row = answer.json()["images"][0]
    assert (row["width"], row["height"]) == (128, 64)
    (region,) = row["regions"]
    found = [region[key] for key in ("left", "top", "width", "height")]
    # A pixel of what the model sees is up to eight of the photograph.
    assert np.abs(np.subtract(found, box)).max() <= 4
    assert region["left"] >= (32 if resize == "crop" else 0)


def test_a_model_of_before_regions_were_known_has_none():
    scorer = DETECTORS["pixel-pca"](fpr=0.5).fit(
        np.random.default_rng(0).integers(0, 255, (40, 16, 16), dtype=np.uint8)
    )
    assert ServedModel(scorer, 10**6).pixel_threshold(0.4) is not None
    scorer.calibration_peaks_ = None
    assert ServedModel(scorer, 10**6).pixel_threshold(0.1) is None


def test_images_of_one_batch_get_heatmaps_only_where_asked(site, picture):
    files = form(("a", picture(50)), ("b", b"broken"))
    rows = site.post("/v1/score?heatmap=true", files=files).json()["images"]
    assert "heatmap" in rows[0]
    assert set(rows[1]) == KEYS


def test_a_detector_without_heatmaps_says_so(scorer, serve, picture):
    scorer.has_maps = False
    with serve(scorer) as site:
        assert site.get("/v1/model").json()["heatmaps"] is False
        answer = site.post("/v1/score?heatmap=true", **raw(picture(20)))
        assert answer.status_code == 422
        assert "makes no heatmaps" in answer.json()["error"]
        assert site.post(**raw(picture(20))).status_code == 200


# -- formats and names -----------------------------------------------------------------------


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def formats():
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray((rng.integers(0, 256, (20, 30)) * 257).astype(np.uint16))
    yield "grey.png", encoded(rgb.convert("L"), "PNG")
    yield "colour.jpg", encoded(rgb, "JPEG")
    yield "cmyk.jpg", encoded(rgb.convert("CMYK"), "JPEG")
    yield "rotated.jpg", encoded(rgb, "JPEG", exif=exif)
    yield "rgba.png", encoded(rgb.convert("RGBA"), "PNG")
    yield "palette.gif", encoded(rgb.convert("P"), "GIF")
    yield "deep.png", encoded(deep, "PNG")
    yield "bits.png", encoded(rgb.convert("1"), "PNG")
    animated = {"save_all": True, "append_images": [rgb.rotate(90)]}
    yield "animated.webp", encoded(rgb, "WEBP", lossless=True, **animated)
    yield "pages.tiff", encoded(rgb, "TIFF", **animated)
    yield "plain.bmp", encoded(rgb, "BMP")
    yield "wrong-name.txt", encoded(rgb, "PNG")
    yield "truncated.jpg", encoded(rgb.resize((300, 300)), "JPEG")[:2000]
    yield "float.tiff", encoded(Image.fromarray(np.ones((20, 20), np.float32)), "TIFF")


def test_every_format_scores_as_it_does_offline(site, scorer, tmp_path):
    files = dict(formats())
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    expected = scorer.assess(tmp_path)
    rows = site.post(files=form(*((name, files[name]) for name in expected.names))).json()["images"]
    assert [row["error"] or "" for row in rows] == expected.errors
    assert sorted(row["name"] for row in rows if row["error"]) == ["float.tiff", "truncated.jpg"]
    scores = [np.nan if row["score"] is None else row["score"] for row in rows]
    assert np.array_equal(scores, expected.scores, equal_nan=True)
    for key, values in expected.components.items():
        got = [row["components"][key] for row in rows if row["components"]]
        assert np.array_equal(got, values[~np.isnan(values)])


@pytest.mark.parametrize(
    "name",
    [
        "ä ö.png",
        "日本.png",
        "a/b/c.png",
        "../../etc/passwd",
        "<b>x</b>.png",
        "a'b;c=d.png",
        "🐈",
        "%41",
    ],
)
def test_odd_names_come_back_as_they_were_sent(site, picture, name):
    body = (
        b'--B\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n\r\n%s\r\n--B--\r\n'
        % (name.encode(), picture(33))
    )
    rows = site.post(**raw(body, "multipart/form-data; boundary=B")).json()["images"]
    assert [(row["name"], row["score"]) for row in rows] == [(name, 33)]


def test_a_name_that_is_no_utf8_comes_back_with_escapes(site, picture):
    body = (
        b'--B\r\nContent-Disposition: form-data; name=f; filename="\xff.png"\r\n\r\n'
        + picture(33)
        + b"\r\n--B--"
    )
    rows = site.post(**raw(body, "multipart/form-data; boundary=B")).json()["images"]
    assert rows[0]["name"] == "\\xff.png"


# -- bodies that are not right ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "kind", "status", "message"),
    [
        (b"x", "multipart/form-data", 400, "must name a boundary of 1 to 200 bytes"),
        (
            b"x",
            f"multipart/form-data; boundary={'B' * 300}",
            400,
            "must name a boundary of 1 to 200 bytes",
        ),
        (b"junk", "multipart/form-data; boundary=B", 400, "malformed"),
        (b"--B\r\nbad header\r\n", "multipart/form-data; boundary=B", 400, "malformed"),
        (b"--B--\r\n", "multipart/form-data; boundary=B", 400, "holds no file|malformed"),
        (b"", "multipart/form-data; boundary=B", 400, "breaks off"),
        (
            b'--B\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\nabc',
            "multipart/form-data; boundary=B",
            400,
            "breaks off before its last boundary",
        ),
        (
            b'--B\r\nContent-Disposition: form-data; name="note"\r\n\r\nhello\r\n--B--\r\n',
            "multipart/form-data; boundary=B",
            400,
            "Every part must be a file. 'note' has no file name",
        ),
        (
            b"--B\r\n\r\nhello\r\n--B--\r\n",
            "multipart/form-data; boundary=B",
            400,
            'malformed: The Content-Disposition header field "name" must be provided',
        ),
        (
            b"--B\r\nX: " + b"y" * 9000 + b"\r\n\r\n\r\n--B--",
            "multipart/form-data; boundary=B",
            400,
            "[Hh]eader",
        ),
        (b"", "image/png", 400, "holds no file: its body is empty"),
        (b"{}", "application/json", 415, "Got 'application/json' instead"),
        (b"a=b", "application/x-www-form-urlencoded", 415, "must be multipart/form-data"),
        (b"x", "", 415, "Got 'none' instead"),
    ],
)
def test_a_body_that_is_not_right_is_refused_with_its_reason(site, body, kind, status, message):
    answer = site.post(**raw(body, kind))
    assert answer.status_code == status
    assert re.search(message, answer.json()["error"])


def test_compressed_bodies_are_refused(site, picture):
    headers = {"Content-Type": "image/png", "Content-Encoding": "gzip"}
    answer = site.post(content=picture(1), headers=headers)
    assert answer.status_code == 415
    assert "Content-Encoding" in answer.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/score", 405),
        ("DELETE", "/v1/model", 405),
        ("GET", "/nothing", 404),
        ("GET", "/page/../app.py", 404),
        ("GET", "/page/%2e%2e/app.py", 404),
        ("GET", "/page/nothing.js", 404),
    ],
)
def test_wrong_addresses_and_methods_are_json_errors(site, method, path, status):
    answer = site.ask(method, path)
    assert answer.status_code == status
    assert set(answer.json()) == {"error"}


# -- what the service says of itself ---------------------------------------------------------


def test_the_model_is_described(site):
    body = site.get("/v1/model").json()
    assert body["detector"] == "Brightness"
    assert (body["image_size"], body["channels"], body["resize"]) == (16, 3, "squash")
    assert (body["threshold"], body["fpr"], body["smallest_fpr"]) == (107, 0.02, 0.01)
    assert body["components"] == ["mean", "spread"]
    assert body["heatmaps"] is True
    assert body["calibration"]["n"] == 99
    assert body["calibration"]["scores"] == list(range(10, 109))
    assert body["calibration"]["quantiles"]["0.5"] == 59
    assert body["limits"]["max_files"] == 64
    assert {"adcgan", "numpy", "pillow"} <= set(body["versions"])
    assert body["card"] is None


def test_answers_are_as_their_schemas_say(site, picture):
    from adcgan.serve import schema

    class Strict(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="forbid")

    def strict(model):
        return type(model.__name__, (model, Strict), {})

    strict(schema.ModelAnswer).model_validate(site.get("/v1/model").json())
    for heatmap in ("true", "layers"):
        answer = site.post(
            f"/v1/score?heatmap={heatmap}", files=form(("a", picture(9)), ("b", b""))
        ).json()
        strict(schema.ScoreAnswer).model_validate(answer)
        for row in answer["images"]:
            strict(schema.ImageRow).model_validate(row)
    strict(schema.DriftAnswer).model_validate(site.get("/v1/drift").json())
    strict(schema.ErrorAnswer).model_validate(site.post(**raw(b"x")).json())
    strict(schema.StatusAnswer).model_validate(site.get("/healthz").json())


def test_openapi_describes_every_address(site):
    paths = site.get("/openapi.json").json()["paths"]
    assert set(paths) == {"/v1/score", "/v1/model", "/v1/drift", "/healthz", "/readyz", "/metrics"}
    score = paths["/v1/score"]["post"]
    assert "multipart/form-data" in score["requestBody"]["content"]
    assert {"400", "401", "408", "413", "415", "422", "503"} < set(score["responses"])


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_ask_for_nothing_from_elsewhere(site, path):
    answer = site.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-cache"
    linked = re.findall(r'(?:src|href)="([^"]+)"', answer.text)
    assert linked
    for link in linked:
        assert "://" not in link
        assert site.get(f"/{link}").status_code == 200


def test_the_pages_scripts_and_styles_name_no_other_host():
    from adcgan.serve.app import PAGE

    for file in PAGE.iterdir():
        addresses = re.findall(r"https?://[^\"'\s)]+", file.read_text())
        assert set(addresses) <= {"http://www.w3.org/2000/svg"}, file


def test_every_answer_has_the_security_headers(site):
    for path in ("/", "/v1/model", "/nothing", "/page/app.js"):
        headers = site.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert "server" not in headers
    assert site.get("/v1/model").headers["cache-control"] == "no-store"
    assert site.get("/page/app.js").headers["cache-control"] == "no-cache"


# -- health and metrics ----------------------------------------------------------------------


def test_health_can_be_asked_without_a_body_too(site):
    assert site.get("/healthz").json() == {"status": "ok"}
    assert site.ask("HEAD", "/readyz").status_code == 200


def test_not_ready_before_the_model_is_warm_nor_at_the_end(scorer, serve, picture, wait_until):
    scorer.go.clear()
    with serve(scorer) as site:
        cold = site.get("/readyz")
        assert (cold.status_code, cold.json()) == (503, {"error": "The model is not ready"})
        assert cold.headers["retry-after"] == "1"
        assert site.get("/healthz").status_code == 200
        scorer.go.set()
        wait_until(lambda: site.get("/readyz").status_code == 200)
        scorer.go.clear()
        scorer.asked.clear()
        answers = []
        under_way = threading.Thread(target=lambda: answers.append(site.post(**raw(picture(50)))))
        under_way.start()
        assert scorer.asked.wait(10)
        site.app.draining = True
        ending = site.get("/readyz")
        assert (ending.status_code, ending.json()["error"]) == (503, "The service is shutting down")
        refused = site.post(**raw(picture(50)))
        assert refused.status_code == 503
        assert refused.headers["connection"] == "close"
        scorer.go.set()
        under_way.join(10)
    assert answers[0].json()["images"][0]["score"] == 50


def metric(text, name):
    return float(re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)[1])


def test_metrics_count_requests_images_and_batches(scorer, serve, picture, wait_until):
    with serve(scorer) as site:
        wait_until(lambda: site.get("/readyz").status_code == 200)
        site.post(files=form(("a", picture(9)), ("b", picture(250)), ("c", b"")))
        site.post(**raw(b"broken"))
        site.get("/no/such/path")
        site.get("/no/other/path")
        answer = site.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    text = answer.text
    assert metric(text, 'adcgan_requests_total{path="/v1/score",status="200"}') == 1
    assert metric(text, 'adcgan_requests_total{path="/v1/score",status="422"}') == 1
    assert metric(text, 'adcgan_requests_total{path="other",status="404"}') == 2
    assert metric(text, 'adcgan_images_total{outcome="normal"}') == 1
    assert metric(text, 'adcgan_images_total{outcome="anomalous"}') == 1
    assert metric(text, 'adcgan_images_total{outcome="unreadable"}') == 2
    assert metric(text, "adcgan_queue_images") == 0
    assert metric(text, "adcgan_requests_in_progress") == 1
    assert metric(text, 'adcgan_request_seconds_count{path="/v1/score"}') == 2
    assert metric(text, "adcgan_batch_images_sum") == 2
    assert metric(text, "process_resident_memory_bytes") > 0


def drift_of(site):
    names = ("images", "share_above", "ks_statistic", "ks_p_value")
    text = site.get("/metrics").text
    return [metric(text, f"adcgan_drift_{name}") for name in names]


def test_the_service_warns_once_its_last_images_are_unlike_those_learned_from(
    scorer, serve, picture
):
    nothing = {"n": 0, "share_above": None, "statistic": None, "p_value": None, "warning": None}
    usual = form(*((str(level), picture(level)) for level in range(11, 109, 4)))
    bright = form(*((str(i), picture(250)) for i in range(40)))
    with serve(scorer) as site:
        assert site.get("/v1/drift").json() == nothing
        assert np.isnan(drift_of(site)[1:]).all()
        site.post(**raw(b"broken"))
        assert site.get("/v1/drift").json() == nothing
        site.post(files=usual)
        calm = site.get("/v1/drift").json()
        assert (calm["n"], calm["share_above"], calm["warning"]) == (25, 0, None)
        assert calm["p_value"] > 0.9
        site.post(files=bright)
        found = site.get("/v1/drift").json()
        assert (found["n"], found["share_above"]) == (65, 40 / 65)
        start = "The last 65 images scored here are unlike those it learned from: "
        assert found["warning"].startswith(start)
        assert drift_of(site) == [65, 40 / 65, found["statistic"], found["p_value"]]
        for _ in range(WINDOW // 25):
            site.post(files=usual)
        assert site.get("/v1/drift").json()["n"] == WINDOW
        assert site.get("/v1/drift").json()["warning"] is None


def test_two_services_in_one_process_count_apart(scorer, serve, picture):
    with serve(scorer) as one, serve(scorer) as other:
        one.post(**raw(picture(9)))
        assert metric(one.get("/metrics").text, 'adcgan_images_total{outcome="normal"}') == 1
        assert metric(other.get("/metrics").text, 'adcgan_images_total{outcome="normal"}') == 0


# -- the key ---------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/model", "/v1/drift", "/metrics"])
def test_protected_addresses_ask_for_the_key(scorer, serve, path):
    with serve(scorer, api_key="sesame") as site:
        refused = site.get(path)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"
        assert "needs its key" in refused.json()["error"]
        for headers in (
            {"Authorization": "Bearer sesame"},
            {"authorization": "bearer sesame"},
            {"X-API-Key": "sesame"},
        ):
            assert site.get(path, headers=headers).status_code == 200
        for headers in (
            {"Authorization": "Basic sesame"},
            {"Authorization": "Bearer"},
            {"Authorization": "sesame"},
            {"X-API-Key": "Sesame"},
            {"X-API-Key": ""},
            {"X-API-Key": "sesame street"},
            {"X-API-Key": "s\xe9same".encode("latin-1")},
        ):
            assert site.get(path, headers=headers).status_code == 401


def test_without_the_key_nothing_is_scored_or_even_read(scorer, serve, picture, wait_until):
    with serve(scorer, api_key="sesame") as site:
        wait_until(lambda: site.get("/readyz").status_code == 200)
        scorer.batches.clear()
        # The body never comes: the answer does not wait for it.
        head = b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
        assert site.raw(head).startswith(b"HTTP/1.1 401 ")
        assert site.post(**raw(picture(50))).status_code == 401
        headers = {"Content-Type": "image/png", "X-API-Key": "sesame"}
        assert site.post(content=picture(50), headers=headers).status_code == 200
    assert scorer.batches == [1]


def test_health_and_pages_need_no_key(scorer, serve):
    with serve(scorer, api_key="sesame") as site:
        for path in ("/healthz", "/", "/docs", "/page/app.js", "/openapi.json"):
            assert site.get(path).status_code == 200
        assert site.get("/readyz").status_code in {200, 503}


@pytest.mark.parametrize("key", ["", " ", "two words", "schlüssel", "line\n"])
def test_a_key_that_no_header_can_carry_is_refused_at_the_start(scorer, key):
    from adcgan.serve import create_app

    with pytest.raises(InputError, match="The API key must be"):
        create_app(scorer, api_key=key)


def test_json_errors_are_valid_even_for_odd_input(site):
    answer = site.post(**raw(b"x", 'text/"\\<script>'))
    assert json.loads(answer.text)["error"]
    assert answer.headers["content-type"] == "application/json"
