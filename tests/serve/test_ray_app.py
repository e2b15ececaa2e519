"""The service on a local Ray cluster of two cores."""

from __future__ import annotations

import io
import re
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from PIL import Image

import adcgan
from adcgan.errors import InputError
from adcgan.serve import Limits

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]  # Ray's own
ray = pytest.importorskip("ray")
serve = pytest.importorskip("ray.serve")


@pytest.fixture
def cluster():
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    yield
    serve.shutdown()
    ray.shutdown()


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image[0]).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_two_replicas_score_as_offline(models, free_port):
    from adcgan.serve.ray_app import build

    digits = adcgan.load_named("digits", "test").select(slice(60))
    expected = adcgan.load(models / "rda.onnx").assess(digits)
    serve.start(http_options={"host": "127.0.0.1", "port": free_port})
    app = build(models / "rda.onnx", num_replicas=2, limits=Limits(max_files=7), api_key="sesame")
    serve.run(app, name="adcgan", route_prefix="/")
    url = f"http://127.0.0.1:{free_port}"
    client = httpx.Client(trust_env=False, timeout=60, headers={"X-API-Key": "sesame"})

    def score(i):
        return client.post(
            f"{url}/v1/score", content=png(digits.images[i]), headers={"Content-Type": "image/png"}
        )

    counted: dict[str, float] = {}
    sent = 0
    with client, ThreadPoolExecutor(8) as pool:
        # Ray chooses the replica; soon enough each of the two has had some.
        while len(counted) < 2 or min(counted.values()) == 0:
            answers = list(pool.map(score, range(60)))
            sent += 60
            assert sent < 1_000
            assert [answer.status_code for answer in answers] == [200] * 60
            scores = [answer.json()["images"][0]["score"] for answer in answers]
            assert np.allclose(scores, expected.scores, rtol=1e-5)
            texts = pool.map(lambda _: client.get(f"{url}/metrics").text, range(30))
            counted = dict(images_of_replica(text) for text in texts)
        assert sum(counted.values()) == sent
        assert client.get(f"{url}/readyz").json() == {"status": "ready"}
        assert client.get(f"{url}/").text.startswith("<!doctype html>")
        assert client.get(f"{url}/v1/model", headers={"X-API-Key": "no"}).status_code == 401
        many = [("f", (str(i), png(digits.images[i]))) for i in range(8)]
        assert client.post(f"{url}/v1/score", files=many).status_code == 413
        assert client.post(f"{url}/v1/score", files=many[:7]).status_code == 200


def images_of_replica(text):
    """Return when the replica that answered made its counters, and the images it has scored."""
    created = re.search(r'^adcgan_images_created\{outcome="normal"\} (\S+)$', text, re.MULTILINE)
    counts = re.findall(r'^adcgan_images_total\{outcome="\w+"\} (\S+)$', text, re.MULTILINE)
    return created[1], sum(map(float, counts))


def test_what_cannot_be_deployed_is_refused_at_once(tmp_path):
    from adcgan.serve.ray_app import build

    with pytest.raises(InputError, match="There is no model folder"):
        build(tmp_path / "nothing")
    with pytest.raises(InputError, match="'num_replicas' parameter must be at least 1"):
        build(tmp_path, num_replicas=0)
