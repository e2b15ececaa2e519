"""The model behind a service: bytes to pixels, pixels to scores, and its description."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import adcgan
from adcgan.data.image_file import decode_photograph, formats, quiet_pillow, reason
from adcgan.data.masks import photograph_map
from adcgan.data.ragged import gathered
from adcgan.scoring import Scorer, smallest_budget
from adcgan.scoring.regions import Region, regions

# A JPEG file may go over all of its pixels any number of times, in 40 bytes each. Encoders make ten
# such scans; 20 MB of random bytes look like 300. Each strip of a TIFF file has its own, which
# libtiff counts.
_SCAN, _MOST_SCANS = b"\xff\xda", 1000
_TIFF = (b"II", b"MM")
_PACKAGES = {"numpy": "numpy", "pillow": "PIL", "onnxruntime": "onnxruntime", "torch": "torch"}
_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


class Decoded(NamedTuple):
    """What the model sees of a photograph (C, H, W), and the upright photograph's own size."""

    pixels: NDArray[np.uint8]
    width: int
    height: int


class Item(NamedTuple):
    """One image to score: pixels (C, H, W), and whether its heatmap is wanted."""

    pixels: NDArray[np.uint8]
    heatmap: bool


class Answer(NamedTuple):
    """The result for one image; `heat` is its anomaly map (H, W), at least 0, if wanted."""

    score: float
    p_value: float
    components: dict[str, float]
    heat: NDArray[np.float32] | None


class ServedModel:
    """A scorer as the service uses it.

    Parameters
    ----------
    scorer : Scorer
        What `adcgan.load` returned. Its methods are called from one thread at a time.
    max_pixels : int
        Width times height of the largest image that is decoded.

    Attributes
    ----------
    has_heatmaps : bool
        Known after `warm_up`.
    components : list of str
        Names of the parts of the score; known after `warm_up`.
    """

    def __init__(self, scorer: Scorer, max_pixels: int) -> None:
        self.scorer = scorer
        self.has_heatmaps = False
        self.components: list[str] = []
        self._target = scorer.target_
        self._max_pixels = max_pixels
        self._limit = f"the limit of {max_pixels / 1e6:g} megapixels (--max-megapixels)"

    def warm_up(self, batch: int) -> None:
        """Score black images, one and `batch` of them, so that the first request is not slow."""
        black = Item(np.zeros(self.scorer.image_shape_, np.uint8), heatmap=True)
        for n in (1, batch):
            answer = self.score([black] * n)[0]
        self.components, self.has_heatmaps = list(answer.components), answer.heat is not None

    def decode(self, data: bytes) -> Decoded | str:
        """Return the pixels of an image file, or in one line why there are none."""
        try:
            with quiet_pillow():
                # This reads the head alone; a file of a few bytes can claim any size.
                with Image.open(io.BytesIO(data), formats=formats()) as image:
                    width, height = image.size
                if width * height > self._max_pixels:
                    return f"{width}×{height} pixels exceed {self._limit}"
                if data.count(_SCAN) > _MOST_SCANS and not data.startswith(_TIFF):
                    return f"more than {_MOST_SCANS} scans"
                pixels, size = decode_photograph(io.BytesIO(data), self._target)
                return Decoded(pixels, *size)
        except Image.DecompressionBombError:
            return f"its pixels exceed {self._limit}"
        except Exception as error:
            # Decoders raise almost anything on broken files; each becomes a row, not a crash.
            return reason(error)

    def score(self, items: Sequence[Item]) -> list[Answer]:
        """Score images together; none influences another."""
        verdict = self.scorer.verdict()
        answers: list[Answer] = []
        for scored in self.scorer.passes(gathered(item.pixels[None] for item in items)):
            scores = self.scorer.backend.combine(scored.components)
            p_values, maps = verdict.p_values(scores), scored.anomaly_map
            for i, item in enumerate(items[len(answers) : len(answers) + len(scores)]):
                answers.append(
                    Answer(
                        score=float(scores[i]),
                        p_value=float(p_values[i]),
                        components={k: float(v[i]) for k, v in scored.components.items()},
                        heat=maps[i] if maps is not None and item.heatmap else None,
                    )
                )
        return answers

    def pixel_threshold(self, fpr: float | None) -> float | None:
        """Return the anomaly value above which pixels are anomalous; None without regions."""
        if self.scorer.calibration_peaks_ is None:
            return None
        return self.scorer.pixel_verdict(fpr).threshold

    def regions(self, heat: NDArray[np.float32], image: Decoded, above: float) -> list[Region]:
        """Return the regions of a map above a value, in pixels of the photograph."""
        # Interpolation never exceeds the largest value, so a map without one need not be enlarged.
        if not (heat > np.array([above])).any():
            return []
        resize = self._target.resize
        return regions(photograph_map(heat, image.width, image.height, resize), above)

    def describe(self) -> dict[str, Any]:
        """Return the answer of ``GET /v1/model``, except the limits and colours."""
        scorer, card = self.scorer, self.scorer.card()
        scores = np.asarray(scorer.calibration_scores_, dtype=np.float64)
        loaded = {name: sys.modules.get(module) for name, module in _PACKAGES.items()}
        versions = {name: str(module.__version__) for name, module in loaded.items() if module}
        return {
            "detector": scorer.system,
            "image_size": self._target.size,
            "channels": self._target.channels,
            "resize": scorer.resize,
            "n_train": scorer.n_train_,
            "threshold": scorer.threshold_,
            "fpr": scorer.fpr_,
            "smallest_fpr": smallest_budget(len(scores)),
            "components": self.components,
            "heatmaps": self.has_heatmaps,
            "calibration": {
                "n": len(scores),
                "quantiles": {f"{q:g}": float(np.quantile(scores, q)) for q in _QUANTILES},
                "scores": scores.tolist(),
            },
            "versions": {"adcgan": adcgan.__version__, **versions},
            "card": None if card is None else asdict(card),
        }
