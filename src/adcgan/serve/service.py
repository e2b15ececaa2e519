"""The service apart from HTTP: files in, rows out, within its limits."""

from __future__ import annotations

import asyncio
import base64
import logging
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any, Literal

import numpy as np

from adcgan.data.thumbnails import png
from adcgan.scoring import Drift, Scorer, Verdict
from adcgan.serve.batching import Batcher
from adcgan.serve.bodies import Upload
from adcgan.serve.limits import MEGABYTE, Hold, Limits, RefusalError, Room
from adcgan.serve.metrics import Metrics
from adcgan.serve.model import Answer, Item, ServedModel
from adcgan.serve.overlay import grey_map, overlay, top_of

Heatmap = Literal["false", "true", "layers"]
Row = dict[str, Any]
# How many of the last images are compared with those learned from.
WINDOW = 500
# Of one image, in an answer: noise can have thousands.
MOST_REGIONS = 100

_log = logging.getLogger("adcgan.serve")


class Service:
    """Decodes images in a few threads and scores them together in one.

    Parameters
    ----------
    scorer : Scorer
        What `adcgan.load` returned.
    limits : Limits

    Attributes
    ----------
    model : ServedModel
    metrics : Metrics
    requests, held, queue : Room
        For scoring requests, undecoded bytes, and images not yet scored.
    """

    def __init__(self, scorer: Scorer, limits: Limits) -> None:
        self.limits = limits
        self.model = ServedModel(scorer, limits.pixels)
        self.metrics = Metrics()
        self.requests = Room(limits.max_requests, "Too many requests at a time (--max-requests)")
        self.held = Room(
            round(limits.max_held_mb * MEGABYTE), "Too many bytes at a time (--max-held-mb)"
        )
        self.queue = Room(limits.max_queue, "Too many images are waiting (--max-queue)")
        self.metrics.queue_images.set_function(lambda: self.queue.taken)
        # Used by the event loop alone: no thread may change it while another reads it.
        self._last_scores: deque[float] = deque(maxlen=WINDOW)
        self._warm = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the threads for the duration of the block; the model warms up meanwhile.

        Every accepted request must have its answer when the block ends.
        """
        limits = self.limits
        self._loop = asyncio.get_running_loop()
        self._decoders = ThreadPoolExecutor(limits.decode_threads, "adcgan-decode")
        scoring = ThreadPoolExecutor(1, "adcgan-score")
        self._batcher: Batcher[Item, Answer] = Batcher(
            self._score_batch,
            scoring,
            max_batch=limits.max_batch,
            max_wait=limits.max_wait_ms / 1000,
        )
        warming = asyncio.create_task(self._warm_up(scoring))
        yield
        await warming
        await self._batcher.stop()
        scoring.shutdown()
        self._decoders.shutdown(cancel_futures=True)

    async def _warm_up(self, scoring: ThreadPoolExecutor) -> None:
        try:
            await self._loop.run_in_executor(scoring, self.model.warm_up, self.limits.max_batch)
        except Exception:
            # The service never becomes ready, but it still answers other requests.
            _log.exception("The model could not score a black image")
        else:
            self._warm.set()

    @property
    def ready(self) -> bool:
        """Whether the model is warm and can score."""
        return self._warm.is_set() and self._batcher.alive

    async def when_warm(self) -> None:
        """Wait for the warm-up, or raise `RefusalError` (503)."""
        try:
            await asyncio.wait_for(self._warm.wait(), self.limits.score_seconds)
        except asyncio.TimeoutError:
            raise RefusalError(503, "The model is not ready", retry_after=5) from None

    def _score_batch(self, items: Sequence[Item]) -> list[Answer]:
        """Score a batch and count it; runs in the scoring thread."""
        start = time.perf_counter()
        answers = self.model.score(items)
        self.metrics.batch_seconds.observe(time.perf_counter() - start)
        self.metrics.batch_images.observe(len(items))
        scores = [answer.score for answer in answers]
        self._loop.call_soon_threadsafe(self._last_scores.extend, scores)
        return answers

    def drift(self) -> Drift:
        """Return how the scores of the last images differ from the held-out normal ones."""
        return self.model.scorer.verdict().drift(np.array(self._last_scores, dtype=np.float64))

    async def score(
        self,
        uploads: list[Upload],
        hold: Hold,
        *,
        fpr: float | None,
        heatmap: Heatmap,
        top: float | None,
    ) -> dict[str, Any]:
        """Return the answer to a scoring request.

        Parameters
        ----------
        uploads : list of Upload
            At least one; emptied here, so that each file is freed once it is decoded.
        hold : Hold
            The files' bytes; released once they are decoded.
        fpr : float or None
            False-positive budget in (0, 1); None for the model's own threshold.
        heatmap : {"false", "true", "layers"}
            No heatmap, a finished one, or the image and its map separately.
        top : float or None
            Anomaly value, above 0, that gets the top colour; None for each image's own.

        Raises
        ------
        RefusalError
            422 if no image can be read, or if the detector makes no heatmaps but one is wanted;
            503 if there is no room or no time.
        """
        if heatmap != "false":
            await self.when_warm()
            if not self.model.has_heatmaps:
                raise RefusalError(422, "This detector makes no heatmaps: leave out 'heatmap'")
        verdict = self.model.scorer.verdict(fpr)
        with self.queue.hold(len(uploads)):
            names = [upload.name for upload in uploads]
            work = self._rows(uploads, hold, verdict, heatmap, top)
            try:
                rows = await asyncio.wait_for(work, self.limits.score_seconds)
            except asyncio.TimeoutError:
                raise RefusalError(
                    503,
                    f"Not scored within {self.limits.score_seconds:g} s (--score-seconds)",
                    retry_after=5,
                ) from None
        rows = [{"name": name, **row} for name, row in zip(names, rows, strict=True)]
        for row in rows:
            outcome = "anomalous" if row["anomalous"] else "normal"
            self.metrics.images.labels("unreadable" if row["error"] else outcome).inc()
        if all(row["error"] for row in rows):
            error = rows[0]["error"]
            message = f"None of the {len(rows)} images can be read; the first: {error}"
            if len(rows) == 1:
                message = f"The image cannot be read: {error}"
            raise RefusalError(422, message, rows=rows)
        return {
            "images": rows,
            "threshold": verdict.threshold,
            "fpr": verdict.fpr,
            "warning": verdict.warning,
        }

    async def _rows(
        self,
        uploads: list[Upload],
        hold: Hold,
        verdict: Verdict,
        heatmap: Heatmap,
        top: float | None,
    ) -> list[Row]:
        """Decode and score each file; the batcher brings the images of all requests together."""
        wanted = heatmap != "false"
        above = self.model.pixel_threshold(verdict.fpr) if wanted else None
        decoding = [self._in_decoder(self.model.decode, upload.data) for upload in uploads]
        uploads.clear()
        decoded = await asyncio.gather(*decoding)
        hold.release()
        waiting = {
            i: self._batcher.submit(Item(image.pixels, wanted))
            for i, image in enumerate(decoded)
            if not isinstance(image, str)
        }
        answers = dict(zip(waiting, await asyncio.gather(*waiting.values()), strict=True))
        rows: list[Row] = []
        for i, image in enumerate(decoded):
            if isinstance(image, str):
                rows.append(_error_row(image))
                continue
            row, heat = _row(answers[i], verdict), answers[i].heat
            if heat is not None:
                row |= {"width": image.width, "height": image.height}
                row |= await self._in_decoder(_pictures, image.pixels, heat, heatmap, top)
                if above is not None:
                    found = await self._in_decoder(self.model.regions, heat, image, above)
                    row["regions"] = [asdict(region) for region in found[:MOST_REGIONS]]
            rows.append(row)
        return rows

    def _in_decoder(self, function: Any, *arguments: Any) -> asyncio.Future[Any]:
        """Run in one of the few threads that handle pictures."""
        return self._loop.run_in_executor(self._decoders, function, *arguments)


def _row(answer: Answer, verdict: Verdict) -> Row:
    """Return the row of a scored image, without its name."""
    if not math.isfinite(answer.score):
        return _error_row("the model gives this image no finite score")
    return {
        "score": answer.score,
        "p_value": answer.p_value,
        "anomalous": bool(verdict.anomalous(np.array([answer.score]))[0]),
        "components": {
            key: value if math.isfinite(value) else None for key, value in answer.components.items()
        },
        "error": None,
    }


def _error_row(error: str) -> Row:
    """Return the row of an image without a score."""
    nothing = dict.fromkeys(("score", "p_value", "anomalous", "components"))
    return {**nothing, "error": error}


def _pictures(pixels: Any, heat: Any, heatmap: Heatmap, top: float | None) -> Row:
    """Return the pictures of one image's heatmap, in base64."""
    shown = top_of(heat) if top is None else top
    if heatmap == "layers":
        made = {"picture": pixels.transpose(1, 2, 0), "map": grey_map(heat, shown)}
    else:
        made = {"heatmap": overlay(pixels, heat, shown)}
    coded = {key: base64.b64encode(png(picture)).decode() for key, picture in made.items()}
    return {**coded, "heatmap_top": shown}
