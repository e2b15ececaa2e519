"""What every detector answers after a small fit, for comparison with numbers kept in a file.

``python tests/detectors/reference.py FILE`` writes them. The kept file, reference.json, was
written before the detectors were rebuilt around one model each (commit 817c055); EGBAD's after its
encoder got its first LeakyReLU, those with a scale after that was measured on images of its own.
All were written anew, on another processor, once the spectral norms of a network were taken
together: before and after on that processor, answers differ by rounding (1e-5 of the largest, 1e-2
where training amplified it, "adcgan, colour"). Those of adcgan, adcgan-ss and ALAD were written
again once their steps took half the operations. With dropout masks drawn in the order before,
adcgan's differ by 2e-6 of the largest; the other order makes 4e-3 of it, and 0.1 where few images
give the scale. ALAD's differ by 7e-6, adcgan-ss's by 7e-4.

A change that should not alter the figures is proved not to by tests/detectors/test_reference.py.
"""

from __future__ import annotations

import inspect
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_sample_image
from threadpoolctl import threadpool_info

from adcgan import DETECTORS, Detector, load_named
from adcgan.training import hardware

FILE = Path(__file__).with_name("reference.json")

QUICK: dict[str, Any] = {
    "width": 0.06,
    "batch_size": 16,
    "warmup_epochs": 1,
    "epochs": 1,
    "min_steps": 0,
    "warmup_steps": 2,
    "search_steps": 3,
    "restarts": 2,
    "feature_size": 32,
    "fpr": 0.5,
    "precision": "float32",
    "device": "cpu",
}
# Settings that change networks, training or score, by a name; the others are the defaults'.
VARIATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "adcgan latent=single": ("adcgan", {"latent": "single"}),
    "adcgan latent=none": ("adcgan", {"latent": "none", "reduction": "mean"}),
    "adcgan normalise=validation": ("adcgan", {"normalise": "validation", "negatives": "all"}),
    "adcgan batch_statistics=running": (
        "adcgan",
        {"batch_statistics": "running", "critic_steps": 2},
    ),
    "adcgan-ss views=0.3": ("adcgan-ss", {"views": 0.3, "critic_steps": 2}),
    "adcgan-ss adversarial=0": ("adcgan-ss", {"adversarial": 0.0, "alpha": 0.0, "beta": 0.0}),
    "rda rounds=2": ("rda", {"rounds": 2}),
}


def cases() -> dict[str, tuple[str, str, dict[str, Any]]]:
    """Return detector, kind of images and settings by the name of the case."""
    found = {f"{name}, digits": (name, "digits", {}) for name in DETECTORS}
    found |= {f"{name}, colour": (name, "colour", {}) for name in DETECTORS}
    return found | {
        f"{case}, digits": (name, "digits", settings)
        for case, (name, settings) in VARIATIONS.items()
    }


def images(kind: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return images to learn from (60, H, W, C) and to score (10, H, W, C)."""
    if kind == "digits":
        digits = load_named("digits", "train")
        assert digits.labels is not None
        pixels = digits.images.transpose(0, 2, 3, 1)
        zeros, ones = pixels[digits.labels == 0], pixels[digits.labels == 1]
        return zeros[:60], np.concatenate([zeros[60:65], ones[:5]])
    flower, china = load_sample_image("flower.jpg"), load_sample_image("china.jpg")
    patches = [flower[y : y + 32, x : x + 32] for y in range(0, 384, 48) for x in range(0, 512, 64)]
    others = [china[200:232, x : x + 32] for x in range(0, 320, 64)]
    return np.stack(patches[:60]), np.stack(patches[60:64] + others + patches[:1])


def answers(case: str) -> dict[str, Any]:
    """Return what the detector of a case learned and what it says of images."""
    name, kind, settings = cases()[case]
    known = inspect.signature(DETECTORS[name]).parameters
    chosen = {key: value for key, value in QUICK.items() if key in known} | settings
    learned, tested = images(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        detector = DETECTORS[name](**chosen).fit(learned)
    return {
        "history": [
            {key: value for key, value in row.items() if key != "seconds"}
            for row in detector.history_
        ],
        "calibration": detector.calibration_scores_.tolist(),
        "threshold": detector.threshold_,
        "scores": detector.decision_function(tested).tolist(),
        "components": {k: v.tolist() for k, v in detector.score_components(tested).items()},
        "variants": {
            k: v.tolist()
            for k, v in detector.score_variants(detector.score_components(tested)).items()
        },
        **{
            called: _summary(detector, called, tested)
            for called in ("anomaly_map", "reconstruct", "generate")
        },
    }


def _summary(detector: Detector, called: str, tested: NDArray[np.uint8]) -> list[float] | str:
    """Return the mean of each picture that a method makes, or that it makes none."""
    try:
        made = detector.generate(4) if called == "generate" else getattr(detector, called)(tested)
    except ValueError:
        return "none"
    means: list[float] = made.reshape(len(made), -1).mean(1, dtype=np.float64).tolist()
    return means


def machine() -> dict[str, str]:
    """Return what decides the last digits of a computation."""
    # One name may stand for several processors, for which BLAS takes different kernels.
    blas = {str(found.get("architecture")) for found in threadpool_info()} - {"None"}
    return {
        "processor": hardware(torch.device("cpu"))["name"],
        "capability": torch.backends.cpu.get_cpu_capability(),
        "blas": " ".join(sorted(blas)),
        "torch": torch.__version__.split("+")[0],
        "threads": str(torch.get_num_threads()),
    }


if __name__ == "__main__":
    kept = {"machine": machine(), "cases": {case: answers(case) for case in cases()}}
    Path(sys.argv[1]).write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
