"""Whether a detector finds a defect that was drawn into a normal image, and points at it.

A third of DATA's normal training images, and 120 at most, are kept from the detector; a defect of
each kind in `adcgan.data.planted` is drawn into each of them. Counted are the image AUROC against
the same images without a defect, how often the map's highest value lies in the defect or next to
it (within a 25th of the longer side), and how often, without a defect, it lies in the outer tenth
of the image. No test image takes part.

    python benchmarks/planted_defects.py mnist --normal 4 --out FILE
    python benchmarks/planted_defects.py TILES --detectors patch-pca --out FILE

Each detector that makes maps is a line that is added to FILE. --set is for those that have the
setting.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from circumstances import circumstances
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter

from adcgan import DETECTORS, Detector
from adcgan.benchmark.metrics import auroc
from adcgan.cli.inputs import training_images
from adcgan.cli.settings import settings
from adcgan.data.planted import DEFECTS, planted
from adcgan.progress import silent

# Judged of one kind of defect, at most.
MOST_IMAGES = 120
# Of the longer side: so near the defect a peak may be. Of each side: the outer frame.
NEAR, FRAME = 1 / 25, 1 / 10

Image = NDArray[np.uint8]


def images_of(data: str, normal: str | None) -> list[Image]:
    """Return the normal training images (H, W, C) of a named set or a folder, at their own size."""
    found = training_images(
        data, normal=normal, anomalous=None, image_size=None, resize="keep", strict=True
    ).images
    return [found[i].transpose(1, 2, 0) for i in range(len(found))]


class Maps:
    """The anomaly maps of a fitted detector, as they are or on one scale at every place.

    Parameters
    ----------
    detector : Detector
        Makes maps.
    by_place : {"none", "mean", "both"}
        What is taken from each place: nothing, the mean of maps of normal images there, or their
        deviation too (divided by it, or by the median place's where that is more).
    normal : sequence of ndarray
        Those normal images.
    """

    def __init__(self, detector: Detector, by_place: str, normal: Sequence[Image]) -> None:
        self.detector = detector
        self.mean, self.deviation = np.float32(0), np.float32(1)
        if by_place != "none":
            maps = np.stack(list(self._made(normal)))
            self.mean = maps.mean(0)
            if by_place == "both":
                deviation = maps.std(0)
                self.deviation = np.maximum(deviation, np.median(deviation))

    def _made(self, images: Sequence[Image]) -> Any:
        return self.detector.assess(images, maps=True).maps

    def peaks(self, images: Sequence[Image]) -> NDArray[np.float64]:
        """Return where maps are highest, (n, 2) as shares of height and width."""
        places = []
        for heat in self._made(images):
            scaled = (heat - self.mean) / self.deviation
            place = np.unravel_index(scaled.argmax(), heat.shape)
            places.append((np.array(place) + 0.5) / heat.shape)
        return np.array(places)


def hits(places: NDArray[np.float64], masks: Sequence[NDArray[np.bool_]]) -> tuple[float, float]:
    """Return the share of the places that lie in or near a defect, and what chance would give."""
    found, chance = [], []
    for place, mask in zip(places, masks, strict=True):
        near = maximum_filter(mask, 2 * int(NEAR * max(mask.shape)) + 1)
        row, column = (int(share * n) for share, n in zip(place, mask.shape, strict=True))
        found.append(near[row, column])
        chance.append(near.mean())
    return float(np.mean(found)), float(np.mean(chance))


def judged(maps: Maps, images: Sequence[Image], seed: int) -> dict[str, Any]:
    """Return the figures of a detector and its maps on normal images."""
    places = maps.peaks(images)
    inside = ((places > FRAME) & (places < 1 - FRAME)).all(1)
    scores = maps.detector.decision_function(images)
    row: dict[str, Any] = {"peaks_in_frame": float(1 - inside.mean())}
    row |= {"frame": 1 - (1 - 2 * FRAME) ** 2, "defects": {}}
    for kind in DEFECTS:
        rng = np.random.default_rng(seed)
        damaged, masks = zip(*(planted(image, kind, rng) for image in images), strict=True)
        hit, chance = hits(maps.peaks(damaged), masks)
        both = np.concatenate([scores, maps.detector.decision_function(damaged)])
        labels = np.repeat([0, 1], len(images))
        figures = {"auroc": auroc(labels, both), "peak_in_defect": hit, "chance": chance}
        row["defects"][kind] = figures
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", metavar="DATA")
    parser.add_argument("--normal")
    parser.add_argument("--detectors", default=",".join(DETECTORS))
    parser.add_argument("--set", dest="assignments", action="append", default=[])
    parser.add_argument("--by-place", nargs="+", choices=("none", "mean", "both"), default=["none"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    images = images_of(options.data, options.normal)
    order = np.random.default_rng(options.seed).permutation(len(images))
    n_judged = min(MOST_IMAGES, len(images) // 3)
    others, learned = ([images[i] for i in part] for part in np.split(order, [n_judged]))
    for name in options.detectors.split(","):
        kind = DETECTORS[name]
        known = [one for one in options.assignments if one.split("=")[0] in kind().get_params()]
        detector = kind(random_state=options.seed, fpr=0.1, **settings(kind, known, {}))
        start = time.perf_counter()
        detector.fit(learned, progress=silent)
        seconds = time.perf_counter() - start
        if detector.calibration_peaks_ is None:
            print(f"{name} makes no maps.", file=sys.stderr)
            continue
        for by_place in options.by_place:
            row = {
                "data": options.data,
                "normal": options.normal,
                "detector": name,
                "settings": known,
                "seed": options.seed,
                "by_place": by_place,
                "n_learned": len(learned),
                "n_judged": len(others),
                **judged(Maps(detector, by_place, learned), others, options.seed),
                "fit_seconds": round(seconds, 1),
                "command": shlex.join(["python", *sys.argv]),
                **circumstances(),
            }
            with options.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(name, by_place, sentence_of(row))


def sentence_of(row: dict[str, Any]) -> str:
    """Return the means over the kinds of defects in words."""
    found = row["defects"].values()
    auc, hit, chance = (
        np.mean([one[key] for one in found]) for key in ("auroc", "peak_in_defect", "chance")
    )
    return (
        f"AUROC {auc:.3f}, peak in defect {hit:.1%} (chance {chance:.1%}), "
        f"in frame {row['peaks_in_frame']:.1%} ({row['frame']:.0%})"
    )


if __name__ == "__main__":
    main()
