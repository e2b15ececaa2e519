"""How often the peak of an anomaly map lies in a square that was planted in a normal image.

The images are those that ``fit`` holds out of the training split; no test image takes part. Chance
is the share of the image that the square covers. Every smoothing is tried on the same model; 0
leaves the maps as they are. Of a model that `adcgan fit` made of the same images, or of a new one:

    python benchmarks/heatmaps.py --dataset mnist --normal 4 --model models/four
    python benchmarks/heatmaps.py --dataset mnist --normal 4 --detector pixel-pca --set fpr=0.1
"""

from __future__ import annotations

import argparse
import json
from datetime import date
from unittest import mock

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

import adcgan
from adcgan import Detector, ImageSet
from adcgan.cli.inputs import training_images
from adcgan.cli.settings import detector_class, settings
from adcgan.data.prepare import split_held_out
from adcgan.detectors import heatmaps, load
from adcgan.report import plots

CONTENTS = ("inverted", "grey", "noise")
SHARES = (8, 4, 3)
# Standard deviations, as a share of the side.
SMOOTHINGS = (0.0, 0.02, heatmaps.SMOOTHING, 0.0625, 0.09)
MOST_IMAGES = 200
SHOWN = 8


def planted(
    images: NDArray[np.uint8], content: str, side: int, seed: int = 0
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return images (n, C, H, W) with a square each, and where it is (n, H, W)."""
    rng = np.random.default_rng(seed)
    changed, where = images.copy(), np.zeros((len(images), *images.shape[2:]), bool)
    for image, mask in zip(changed, where, strict=True):
        top, left = rng.integers(0, image.shape[1] - side + 1, 2)
        square = image[:, top : top + side, left : left + side]
        made = {
            "inverted": 255 - square,
            "grey": np.full_like(square, 128),
            "noise": rng.integers(0, 256, square.shape, np.uint8),
        }
        square[:] = made[content]
        mask[top : top + side, left : left + side] = True
    return changed, where


def hit_rate(detector: Detector, images: NDArray[np.uint8], where: NDArray[np.bool_]) -> float:
    """Return the share of the maps whose highest value lies in the square."""
    maps = detector.anomaly_map(images.transpose(0, 2, 3, 1))
    peaks = maps.reshape(len(maps), -1).argmax(1)
    return float(where.reshape(len(where), -1)[np.arange(len(where)), peaks].mean())


def picture(path: str, images: NDArray[np.uint8], maps: NDArray[np.float32]) -> None:
    """Write a few images above their maps."""
    figure = Figure(figsize=(SHOWN, 2.2), layout="constrained")
    shown = images[:SHOWN].transpose(0, 2, 3, 1)
    heat = maps[:SHOWN] / maps[:SHOWN].max()
    for axes, row in zip(figure.subplots(2, 1), (shown, heat), strict=True):
        plots.image_grid(axes, row, n_columns=SHOWN)
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--normal", default="0")
    parser.add_argument("--detector", default="adcgan")
    parser.add_argument("--set", dest="assignments", action="append", default=[])
    parser.add_argument("--model")
    parser.add_argument("--smoothing", nargs="+", type=float, default=SMOOTHINGS, metavar="SHARE")
    parser.add_argument("--picture", help="a PNG of a few images and their maps")
    options = parser.parse_args()
    images: ImageSet = training_images(
        options.dataset,
        normal=options.normal,
        anomalous=None,
        image_size=None,
        resize="squash",
        strict=True,
    )
    if options.model:
        detector = load(options.model)
    else:
        kind = detector_class(options.detector)
        detector = kind(**settings(kind, options.assignments, {})).fit(images)
    split = split_held_out(len(images), detector.validation_fraction, detector.random_state)
    held_out = images.images[split.held_out[:MOST_IMAGES]]
    rows = []
    for share in SHARES:
        side = held_out.shape[2] // share
        for content in CONTENTS:
            changed, where = planted(held_out, content, side)
            rates = {}
            for smoothing in options.smoothing:
                # So little of it leaves a map as it is, where 0 would divide.
                with mock.patch.object(heatmaps, "SMOOTHING", smoothing or 1e-3):
                    rates[f"{smoothing:.4f}"] = hit_rate(detector, changed, where)
            row = {"square": content, "side": side, "chance": float(where.mean())}
            rows.append(row | {"peak_in_square": rates})
            if options.picture and (share, content) == (4, "grey"):
                picture(
                    options.picture, changed, detector.anomaly_map(changed.transpose(0, 2, 3, 1))
                )
    result = {
        "data": images.source,
        "image": list(images.shape),
        "n_train": detector.n_train_,
        "n_planted": len(held_out),
        "detector": type(detector).__name__,
        "model": options.model,
        "settings": options.assignments,
        "rows": rows,
        "adcgan": adcgan.__version__,
        "date": date.today().isoformat(),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
