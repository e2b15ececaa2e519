"""Candidates, one after the other, each within its share of the time."""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adcgan.data import ImageSet, ImageSource, load_images
from adcgan.detectors import DETECTORS, Detector
from adcgan.errors import DivergedError, InputError
from adcgan.files import write_json
from adcgan.progress import Progress
from adcgan.selection.candidates import Budget, TooLongError, candidates, shortened
from adcgan.selection.comparison import Comparison, ranked_by
from adcgan.selection.judging import LONGEST_SIDE, figures, held_out, judged_images
from adcgan.training import resolve_device
from adcgan.training.runlog import hardware, versions

# Returns the normal images for a detector's ``image_size`` and ``resize``.
Load = Callable[[int | None, str], ImageSet]
# Of a candidate's share of the time, so much is for its training: in the rest it is calibrated,
# and judged.
TRAINING_SHARE = 0.6
RESULT, MODELS, BEST = "comparison.json", "candidates", "model"


def compare(
    X: ImageSource,
    anomalies: ImageSource | None = None,
    *,
    minutes: float = 10.0,
    detectors: Sequence[str] | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    fpr: float = 0.01,
    seed: int = 0,
    device: str = "auto",
    look_for: str | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Compare detectors on normal images, and find the one that suits them.

    A fifth of the images, 100 at most, is held out. Each candidate learns from the others and is
    judged by how well it tells the held-out ones from copies with a defect in them, from copies
    that show something else, and from your own anomalies if you have any.

    Parameters
    ----------
    X : images
        Normal images, as for `adcgan.Detector.fit`. At least 12.
    anomalies : images, optional
        Anomalous images of the same kind.
    minutes : float, default 10
        For all candidates together. The quick ones come first; training is shortened where it
        would take too long.
    detectors : sequence of str, optional
        Names in `adcgan.DETECTORS`; those of `candidates` by default.
    out : path, optional
        Folder for the models and ``comparison.json``.
    resume : bool
        Keep what is in `out` of an earlier call with the same images, and add what is missing.
    fpr : float, default 0.01
        False-positive budget of the thresholds.
    seed : int, default 0
        Of the division, the defects and the detectors.
    device : str
        "auto", "cpu", "cuda", "cuda:1", "mps".
    look_for : {"defects", "contents"} or None
        What candidates are ranked by: defects in a place, or images that show something else. By
        default your own anomalies, if there are at least 10; else defects for photographs, and
        contents for images of less than 128 pixels, which show a thing as a whole.
    progress : Progress, optional
        As for `adcgan.Detector.fit`.

    Returns
    -------
    Comparison
        Its ``table``, ``advice`` and ``detector``, the best one, fitted.

    Raises
    ------
    InputError
        The images or a parameter are not as described, or no candidate could be judged.
    MissingExtraError
        A detector that was named needs a package that is not installed.
    """

    def load(data: ImageSource, image_size: int | None, resize: str) -> ImageSet:
        return load_images(data, image_size=image_size, resize=resize, cache=True)

    return run(
        partial(load, X),
        None if anomalies is None else load(anomalies, LONGEST_SIDE, "keep"),
        minutes=minutes,
        detectors=detectors,
        folder=None if out is None else Path(out).expanduser(),
        resume=resume,
        settings={"fpr": fpr, "random_state": seed, "device": device},
        look_for=look_for,
        progress=progress,
    )


def run(
    load: Load,
    own: ImageSet | None,
    *,
    minutes: float,
    detectors: Sequence[str] | None,
    folder: Path | None,
    resume: bool,
    settings: dict[str, Any],
    look_for: str | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> Comparison:
    """Compare detectors on images that `load` returns for a size; as `compare` otherwise.

    Parameters
    ----------
    load : callable
        Of a detector's ``image_size`` and ``resize``; always the same images in the same order.
    own : ImageSet or None
        The user's anomalies, with a longer side of `LONGEST_SIDE` at most.
    settings : dict
        What all detectors share: ``fpr``, ``random_state`` and ``device``.
    say : callable
        Takes a line for each thing that happens.
    """
    if not minutes > 0:
        raise InputError(f"The 'minutes' parameter must be above 0. Got {minutes!r} instead.")
    # The quick ones first: what trains nothing.
    names = sorted(candidates(detectors), key=lambda name: "epochs" in DETECTORS[name].rules())
    for name in names:
        DETECTORS[name](**settings).check_parameters()
    images = load(LONGEST_SIDE, "keep")
    learned, judged = held_out(images, settings["random_state"])
    by = ranked_by(look_for, images.shape, 0 if own is None else len(own))
    result = Comparison(_plan(images, own, len(learned), len(judged), settings), by)
    if resume and folder is not None and (folder / RESULT).exists():
        result.take_over(folder / RESULT)
    waiting = [name for name in names if not result.has(name)]
    material = judged_images(images, judged, own, settings["random_state"])
    made = {**material.defects, **material.contents}
    result.examples = {"held out": material.normal[0]} | {kind: x[0] for kind, x in made.items()}
    budget = Budget(60 * minutes, len(waiting))

    def tell(line: str) -> None:
        if say is not None:
            say(line)

    def write(result: Comparison) -> None:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / RESULT, result.to_json())

    for name in waiting:
        tell(f"candidate  {name}, {names.index(name) + 1} of {len(names)}")
        row: dict[str, Any] = {"detector": name, "league": DETECTORS[name].league}
        fitted = None
        try:
            detector, images = _prepared(name, settings, load, learned)
            share = budget.next_share()
            if name not in result.begun:
                result.begun[name] = _effort(detector, images, share)
                write(result)
            row |= result.begun[name]
            images = images.select(_spread(len(images), row["n_images"]))
            start = time.monotonic()
            detector.set_params(**row["settings"])
            with warnings.catch_warnings():
                # The budget in force is one of the figures.
                warnings.filterwarnings("ignore", "A false-positive budget")
                fitted = detector.fit(
                    images,
                    run_dir=None if folder is None else folder / MODELS / name,
                    resume=resume and folder is not None,
                    progress=progress,
                )
            row["fit_seconds"] = time.monotonic() - start
            row |= figures(fitted, material) | {"error": None}
        except (DivergedError, InputError, TooLongError) as error:
            row["error"] = str(error)
        result.add(row, fitted)
        write(result)
        tell(f"           {result.line(row)}")
    if result.best is None:
        raise InputError(f"No candidate could be judged. {result.rows[0]['error']}")
    if folder is not None:
        _keep(folder, result.best["detector"])
    return result


def _prepared(
    name: str, settings: dict[str, Any], load: Load, learned: NDArray[np.intp]
) -> tuple[Detector, ImageSet]:
    """Return a detector and the images that it will learn from."""
    detector = DETECTORS[name](**settings)
    if detector.resize == "keep":
        detector.set_params(image_size=LONGEST_SIDE)
    return detector, load(detector.image_size, detector.resize).select(learned)


def _effort(detector: Detector, images: ImageSet, seconds: float) -> dict[str, Any]:
    """Return ``settings``, ``steps`` and ``n_images`` that fit a candidate into its time."""
    effort = shortened(detector, images, TRAINING_SHARE * seconds)
    if detector.resize == "keep":
        effort.settings["image_size"] = LONGEST_SIDE
    return asdict(effort)


def _spread(n: int, wanted: int) -> NDArray[np.intp]:
    """Return `wanted` of n indices, evenly spread."""
    return np.linspace(0, n - 1, wanted).astype(np.intp)


def _plan(
    images: ImageSet, own: ImageSet | None, learned: int, judged: int, settings: dict[str, Any]
) -> dict[str, Any]:
    """Return what rows must share to be compared, and what made them."""
    return {
        "images": {
            "source": images.source,
            "n": len(images),
            "shape": list(images.shape),
            "anomalies": 0 if own is None else len(own),
        },
        "n_learned": learned,
        "n_judged": judged,
        "seed": settings["random_state"],
        "fpr": settings["fpr"],
        "versions": versions(),
        "hardware": hardware(resolve_device(settings["device"])),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _keep(folder: Path, name: str) -> None:
    """Make the model of the best candidate the folder's model."""
    kept = folder / BEST
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(folder / MODELS / name, kept)
