"""AD-CGAN beside detectors of PyOD: seconds and AUROC on the same images, in the same run.

One class of MNIST is normal. Every detector learns from the same images for the same number of
epochs, at its own defaults otherwise, and scores the same images of the official test split.

    ADCGAN_DATA=DIR python benchmarks/peers.py --out benchmarks/results/peers-DATE.json
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from circumstances import circumstances, sentence
from numpy.typing import NDArray
from pyod.models.alad import ALAD
from pyod.models.anogan import AnoGAN
from sklearn.metrics import roc_auc_score

from adcgan import ADCGAN, ImageSet, load_named

Row = dict[str, Any]


def ours(width: float) -> Callable[[int, int], Any]:
    """Return a maker of AD-CGAN at `width`: a quarter of the epochs are the warm-up's."""

    def make(epochs: int, seed: int) -> ADCGAN:
        warmup = epochs // 4
        epochs -= warmup
        return ADCGAN(
            width=width, warmup_epochs=warmup, epochs=epochs, min_steps=0, random_state=seed
        )

    return make


PEERS: dict[str, Callable[[int, int], Any]] = {
    "adcgan, width 0.25": ours(0.25),
    "adcgan, width 1": ours(1.0),
    "PyOD ALAD": lambda epochs, _: ALAD(epochs=epochs, device="cpu"),
    "PyOD AnoGAN": lambda epochs, _: AnoGAN(epochs=epochs, device="cpu"),
}


def images_of(name: str, n: int, normal: int) -> tuple[ImageSet, ImageSet, NDArray[np.bool_]]:
    """Return `n` normal training images, `n` test images, and which of those are anomalous."""
    train, test = load_named(name, "train"), load_named(name, "test")
    assert train.labels is not None
    assert test.labels is not None
    rng = np.random.default_rng(0)
    of_class = np.flatnonzero(train.labels == normal)
    learned = train.select(np.sort(rng.permutation(of_class)[:n]))
    scored = test.select(np.sort(rng.permutation(len(test))[:n]))
    assert scored.labels is not None
    return learned, scored, scored.labels != normal


def measure(options: argparse.Namespace) -> list[Row]:
    """Fit and score every peer, for every seed in turn."""
    learned, scored, anomalous = images_of(options.data, options.images, options.normal)
    rows = []
    for seed in range(options.seeds):
        for name in options.peers:
            np.random.seed(seed)  # noqa: NPY002 - PyOD draws from the global state
            torch.manual_seed(seed)
            detector = PEERS[name](options.epochs, seed)
            own = isinstance(detector, ADCGAN)
            begun = time.perf_counter()
            detector.fit(learned if own else _rows(learned))
            fitted = time.perf_counter()
            scores = detector.decision_function(scored if own else _rows(scored))
            done = time.perf_counter()
            row = {"peer": name, "seed": seed, "fit_seconds": fitted - begun}
            row |= {"score_seconds": done - fitted, "auroc": roc_auc_score(anomalous, scores)}
            print(json.dumps(row), flush=True)
            rows.append(row)
    return rows


def _rows(images: ImageSet) -> NDArray[np.float32]:
    """Return images as rows of numbers in [0, 1], as PyOD takes them."""
    return (images.images.reshape(len(images), -1) / 255).astype(np.float32)


def table(result: Row) -> str:
    """Return the result as Markdown."""
    text = sentence(result) + "\n\n| | fit, s | scoring, s | AUROC, % (by seed) |\n"
    text += "|---|---|---|---|\n"
    for name in dict.fromkeys(row["peer"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["peer"] == name]
        fit, score = (
            np.median([row[f"{part}_seconds"] for row in rows]) for part in ("fit", "score")
        )
        aurocs = ", ".join(f"{100 * row['auroc']:.1f}" for row in rows)
        text += f"| {name} | {fit:.1f} | {score:.1f} | {aurocs} |\n"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--normal", type=int, default=4)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--peers", type=lambda text: text.split(";"), default=list(PEERS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="the JSON file to write")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = measure(options)
    settings = {k: str(v) for k, v in vars(options).items() if k not in ("out", "peers")}
    command = "python benchmarks/peers.py"
    told = circumstances()
    told["versions"] |= {"pyod": version("pyod")}
    result = {**told, "command": command, "settings": settings, "rows": rows}
    if options.out:
        from adcgan.files import write_json

        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.out, result)
    print(table(result))


if __name__ == "__main__":
    main()
