"""A service apart from HTTP: files in, rows out, within its limits."""

from __future__ import annotations

import asyncio
import base64
import logging
import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
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
from adcgan.serve.window import Window

Heatmap = Literal["false", "true", "layers"]
Row = dict[str, Any]
# So many of the last images tell whether images have drifted from those learned from.
WINDOW = 500
# Of an image, in an answer: noise can have thousands.
MOST_REGIONS = 100

_log = logging.getLogger("adcgan.serve")


class Service:
    """Decodes images in a few threads and scores them together in one.

    Parameters
    ----------
    scorer : Scorer
        What `adcgan.load` returned.
    limits : Limits
        How much is taken at a time.

    Attributes
    ----------
    model : ServedModel
    metrics : Metrics
    requests, held, queue : Room
        Scoring requests, undecoded bytes, and images not yet scored.
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
        self._window = Window(WINDOW)
        self._warm = asyncio.Event()
        self._warming: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the threads and, without waiting for it, the warm-up."""
        limits = self.limits
        self._decoders = ThreadPoolExecutor(limits.decode_threads, "adcgan-decode")
        self._scoring = ThreadPoolExecutor(1, "adcgan-score")
        self._batcher: Batcher[Item, Answer] = Batcher(
            self._score_batch,
            self._scoring,
            max_batch=limits.max_batch,
            max_wait=limits.max_wait_ms / 1000,
        )
        self._batcher.start()
        self._warming = asyncio.create_task(self._warm_up())

    async def stop(self) -> None:
        """End the threads; what was accepted must have been answered."""
        if self._warming is not None:
            await asyncio.wait([self._warming])
        await self._batcher.stop()
        self._scoring.shutdown()
        self._decoders.shutdown(cancel_futures=True)

    async def _warm_up(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._scoring, self.model.warm_up, self.limits.max_batch)
        except Exception:
            # Without a warm model the service never says that it is ready, but can be asked why.
            _log.exception("The model could not score a black image")
        else:
            self._warm.set()

    @property
    def ready(self) -> bool:
        """Whether the model is warm and can be asked."""
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
        results = self.model.score(items)
        self.metrics.batch_seconds.observe(time.perf_counter() - start)
        self.metrics.batch_images.observe(len(items))
        self._window.add([answer.score for answer in results])
        return results

    def drift(self) -> Drift:
        """Return how the last images scored differ from the held-out normal ones."""
        return self.model.scorer.verdict().drift(self._window.scores())

    async def score(
        self,
        uploads: list[Upload],
        hold: Hold,
        *,
        fpr: float | None,
        heatmap: Heatmap,
        top: float | None,
    ) -> dict[str, Any]:
        """Score files.

        Parameters
        ----------
        uploads : list of Upload
            At least one; emptied here, so that each file is freed once it is decoded.
        hold : Hold
            The files' bytes; released once they are decoded.
        fpr : float or None
            False-positive budget in (0, 1); None for the model's own threshold.
        heatmap : {"false", "true", "layers"}
            No heatmap, a finished picture, or the image and its map apart.
        top : float or None
            Anomaly value, above 0, for the heatmaps' top colour; None for each image's own.

        Returns
        -------
        dict
            ``images`` (one row each), ``threshold``, ``fpr`` and ``warning``.

        Raises
        ------
        RefusalError
            422 if no image can be read or heatmaps are asked of a detector without, 503 if there
            is no room or no time.
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
        self._count(rows)
        if all(row["error"] for row in rows):
            raise RefusalError(422, _unreadable(rows), rows=rows)
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
        """Decode and score each file; the images of all requests meet in the batcher."""
        above = self.model.pixel_threshold(verdict.fpr) if heatmap != "false" else None
        decoding = [self._in_decoder(self.model.decode, upload.data) for upload in uploads]
        uploads.clear()
        decoded = await asyncio.gather(*decoding)
        hold.release()
        waiting = {
            i: self._batcher.submit(Item(image.pixels, heatmap != "false"))
            for i, image in enumerate(decoded)
            if not isinstance(image, str)
        }
        results = dict(zip(waiting, await asyncio.gather(*waiting.values()), strict=True))
        rows: list[Row] = []
        for i, image in enumerate(decoded):
            if isinstance(image, str):
                rows.append(_error_row(image))
                continue
            row = _row(results[i], verdict)
            heat = results[i].heat
            if heatmap != "false" and heat is not None:
                row |= {"width": image.width, "height": image.height}
                row |= await self._in_decoder(_pictures, image.pixels, heat, heatmap, top)
                if above is not None:
                    found = await self._in_decoder(self.model.regions, heat, image, above)
                    row["regions"] = [asdict(region) for region in found[:MOST_REGIONS]]
            rows.append(row)
        return rows

    def _in_decoder(self, function: Any, *arguments: Any) -> asyncio.Future[Any]:
        """Run in one of the few threads that handle pictures."""
        return asyncio.get_running_loop().run_in_executor(self._decoders, function, *arguments)

    def _count(self, rows: list[Row]) -> None:
        """Count images by outcome."""
        for row in rows:
            outcome = "anomalous" if row["anomalous"] else "normal"
            self.metrics.images.labels("unreadable" if row["error"] else outcome).inc()


def _row(answer: Answer, verdict: Verdict) -> Row:
    """Return what is said of a scored image."""
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
    """Return what is said of an image that has no score."""
    nothing = dict.fromkeys(("score", "p_value", "anomalous", "components"))
    return {**nothing, "error": error}


def _unreadable(rows: list[Row]) -> str:
    """Say that none of the images could be read."""
    if len(rows) == 1:
        return f"The image cannot be read: {rows[0]['error']}"
    return f"None of the {len(rows)} images can be read; the first: {rows[0]['error']}"


def _pictures(pixels: Any, heat: Any, heatmap: Heatmap, top: float | None) -> Row:
    """Return the pictures of one image's heatmap in base64."""
    shown = top_of(heat) if top is None else top
    if heatmap == "layers":
        made = {"picture": pixels.transpose(1, 2, 0), "map": grey_map(heat, shown)}
    else:
        made = {"heatmap": overlay(pixels, heat, shown)}
    coded = {key: base64.b64encode(png(picture)).decode() for key, picture in made.items()}
    return {**coded, "heatmap_top": shown}
