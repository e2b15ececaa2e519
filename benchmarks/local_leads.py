"""What would make adcgan-local find more: settings, enlarged photographs, mirrored views.

Of a folder of normal photographs three quarters are learned from; the rest are judged against
every second photograph of a folder with one type of defect, and, half of them, against themselves
with a defect of each kind in `adcgan.data.planted`, none of which training makes. No other type of
defect is looked at, and half of this one stays unseen. Made defects are drawn before photographs
are enlarged. A line for each seed is added to FILE:

    python benchmarks/local_leads.py TILES/train/good TILES/test/blowhole --mirror --out FILE
    python benchmarks/local_leads.py TILES/train/good TILES/test/blowhole --enlarge 1,1.5 --out FILE
    python benchmarks/local_leads.py TILES/train/good TILES/test/blowhole --set crop=96 --out FILE

With several sizes each has a detector, whose scores are averaged; with --one-model all sizes share
one that learned from all.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from circumstances import circumstances
from numpy.typing import NDArray
from PIL import Image

from adcgan import DETECTORS, LocalADCGAN, load_images
from adcgan.benchmark.metrics import auroc
from adcgan.cli.settings import settings
from adcgan.data.planted import DEFECTS, planted
from adcgan.progress import silent

LEARNED = 3 / 4
# Axes that are mirrored in each view whose scores are averaged.
VIEWS: dict[str, tuple[tuple[int, ...], ...]] = {
    "as it is": ((),),
    "mirrored too": ((), (1,)),
    "mirrored in all ways": ((), (0,), (1,), (0, 1)),
}

Photograph = NDArray[np.uint8]
Scores = dict[str, NDArray[np.float64]]


def photographs(folder: Path) -> list[Photograph]:
    """Return the photographs (H, W, C) of a folder."""
    found = load_images(folder, resize="keep").images
    return [found[i].transpose(1, 2, 0) for i in range(len(found))]


def enlarged(image: Photograph, factor: float) -> Photograph:
    if factor == 1:
        return image
    height, width = (round(factor * side) for side in image.shape[:2])
    seen = Image.fromarray(image.squeeze()).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(seen).reshape(height, width, image.shape[2])


def scores_of(
    detectors: Mapping[float, LocalADCGAN], images: Sequence[Photograph], mirror: bool
) -> Scores:
    """Return the scores (n,) by what they are means of, and each component at the first size.

    `detectors` are those of the sizes at which photographs are judged.
    """
    views = VIEWS if mirror else {"as it is": VIEWS["as it is"]}
    assessed = {
        (size, axes): detector.assess([np.flip(enlarged(image, size), axes) for image in images])
        for size, detector in detectors.items()
        for axes in set().union(*views.values())
    }
    found = {
        name: np.mean(
            [assessed[size, axes].scores for size in detectors for axes in chosen], axis=0
        )
        for name, chosen in views.items()
    }
    if len(detectors) > 1:
        found |= {f"at {size:g}": assessed[size, ()].scores for size in detectors}
    return found | assessed[next(iter(detectors)), ()].components


def figures(normal: Scores, anomalous: Scores) -> dict[str, float]:
    """Return the AUROC of each kind of score, in percent."""
    labels = np.repeat([0, 1], [len(scores["as it is"]) for scores in (normal, anomalous)])
    return {
        name: round(100 * auroc(labels, np.concatenate([normal[name], anomalous[name]])), 2)
        for name in normal
    }


def judged(
    detectors: Mapping[float, LocalADCGAN],
    normal: Sequence[Photograph],
    anomalous: Sequence[Photograph],
    seed: int,
    mirror: bool,
) -> dict[str, dict[str, float]]:
    """Return the figures against real defects and against each kind of made ones."""
    of_normal = scores_of(detectors, normal, mirror)
    found = {"real": figures(of_normal, scores_of(detectors, anomalous, mirror))}
    half = len(normal) // 2
    of_half = {name: scores[:half] for name, scores in of_normal.items()}
    for kind in DEFECTS:
        rng = np.random.default_rng(seed)
        damaged = [planted(image, kind, rng)[0] for image in normal[:half]]
        found[kind] = figures(of_half, scores_of(detectors, damaged, mirror))
    found["made"] = {
        name: round(float(np.mean([found[kind][name] for kind in DEFECTS])), 2) for name in of_half
    }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("normal", type=Path, metavar="NORMAL")
    parser.add_argument("anomalous", type=Path, metavar="ANOMALOUS")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--set", dest="assignments", action="append", default=[])
    parser.add_argument("--enlarge", default="1", metavar="SIZE,SIZE")
    parser.add_argument("--one-model", action="store_true")
    parser.add_argument("--mirror", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    sizes = [float(size) for size in options.enlarge.split(",")]
    images, anomalous = photographs(options.normal), photographs(options.anomalous)[::2]
    for seed in map(int, options.seeds.split(",")):
        order = np.random.default_rng(seed).permutation(len(images))
        first, rest = np.split(order, [int(LEARNED * len(images))])
        learned, normal = ([images[i] for i in part] for part in (first, rest))
        chosen = settings(DETECTORS["adcgan-local"], options.assignments, {})
        detectors: dict[float, LocalADCGAN] = {}
        start = time.process_time()
        for of_one in [sizes] if options.one_model else [[size] for size in sizes]:
            detector = LocalADCGAN(random_state=seed, fpr=0.1, **chosen)
            seen = [enlarged(image, size) for image in learned for size in of_one]
            detector.fit(seen, progress=silent)
            detectors |= dict.fromkeys(of_one, detector)
        row: dict[str, Any] = {
            "normal": str(Path(*options.normal.parts[-3:])),
            "anomalous": str(Path(*options.anomalous.parts[-3:])),
            "split": "development",
            "settings": options.assignments,
            "enlarge": sizes,
            "one_model": options.one_model,
            "seed": seed,
            "fit_cpu_seconds": round(time.process_time() - start, 1),
            "n": [len(learned), len(normal), len(anomalous)],
            "auroc": judged(detectors, normal, anomalous, seed, options.mirror),
            "command": _command(),
            **circumstances(),
        }
        with options.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(seed, row["auroc"]["real"], row["auroc"]["made"])


def _command() -> str:
    """Return the command line with only the last parts of the paths to photographs, or the last."""
    words = list(sys.argv)
    for i, word in enumerate(words):
        if i and "/" in word:
            kept = 1 if words[i - 1] == "--out" else 3
            words[i] = str(Path(*Path(word).parts[-kept:]))
    return shlex.join(["python", *words])


if __name__ == "__main__":
    main()
