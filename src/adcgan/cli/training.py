"""One training run from the command line: print the plan, train, print the result."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adcgan.cli.inputs import make_folder
from adcgan.cli.terminal import say
from adcgan.errors import InputError
from adcgan.files import replacing

if TYPE_CHECKING:
    from adcgan.data import ImageSet
    from adcgan.detectors import Detector

# A wait that a person plans around; on a CPU a narrower network is then worth a thought.
_LONG_SECONDS = 600


def train(
    detector: Detector,
    images: ImageSet,
    folder: Path,
    *,
    name: str,
    resume: bool,
    checkpoint_every: int = 500,
    trackers: Sequence[str] = (),
    cuda_graphs: bool | None = None,
) -> dict[str, Any]:
    """Train in `folder`, print the plan, and return the figures of the result.

    A finished run is left as it is.
    """
    from adcgan.detectors import load

    finished = (folder / "manifest.json").exists()
    if finished:
        _refuse_other_settings(detector, folder)
        detector = load(folder, device=detector.device)
        say(f"{folder} is finished already; nothing to do.")
        seconds = 0.0
    else:
        show_plan(detector, images, name, cuda_graphs)
        make_folder(folder)
        write_skipped(folder, images)
        start = time.perf_counter()
        detector.fit(
            images,
            run_dir=folder,
            resume=resume,
            checkpoint_every=checkpoint_every,
            trackers=trackers,
            cuda_graphs=cuda_graphs,
        )
        seconds = time.perf_counter() - start
        say(f"model      {folder} (threshold {detector.threshold_:.4g})")
    return {
        "model": str(folder),
        "detector": name,
        "n_train": detector.n_train_,
        "n_calibration": detector.n_calibration_,
        "n_skipped": len(images.skipped),
        "threshold": detector.threshold_,
        "fpr": detector.fpr_,
        "seconds": seconds,
        "already_finished": finished,
    }


def show_plan(
    detector: Detector, images: ImageSet, name: str, cuda_graphs: bool | None = None
) -> None:
    """Print what will be trained on what, and how long that takes."""
    from adcgan.data.prepare import split_held_out
    from adcgan.report.wording import counted, duration
    from adcgan.training import resolve_device

    cost = detector.fit_cost(images, cuda_graphs=cuda_graphs)
    held_out = len(
        split_held_out(len(images), detector.validation_fraction, detector.random_state).held_out
    )
    device = resolve_device(detector.device)
    channels, height, width = images.shape
    say(
        f"data       {images.source}: {height}×{width} pixels, {'grey' if channels == 1 else 'RGB'}"
    )
    say(
        f"images     {len(images) - held_out:,} to train on, {held_out:,} held out, "
        f"{len(images.skipped):,} skipped" + (" (see skipped.csv)" if images.skipped else "")
    )
    say(f"detector   {name} on {device}")
    if cost is None:
        return
    say(f"training   {counted(cost.steps, 'step')}, about {duration(cost.seconds)}")
    if device.type == "cpu" and cost.seconds > _LONG_SECONDS:
        say("           this is slow on a CPU; a narrower network is faster but weaker:")
        for option, seconds in sorted(cost.seconds_by_width.items(), reverse=True):
            say(f"           --set width={option:g} takes about {duration(seconds)}")


def write_skipped(folder: Path, images: ImageSet) -> None:
    """Write ``skipped.csv``: the name and the error of each image that could not be read."""
    with (
        replacing(folder / "skipped.csv") as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["name", "error"])
        writer.writerows((item.name, item.error) for item in images.skipped)


def _refuse_other_settings(detector: Detector, folder: Path) -> None:
    """Refuse a finished run whose parameters differ from those asked for."""
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    made = run["settings"]["parameters"]
    asked = json.loads(json.dumps(detector.get_params()))
    changed = [f"{k} was {made[k]!r}, is {asked[k]!r}" for k in made if made[k] != asked.get(k)]
    if changed or run["settings"]["detector"] != type(detector).__name__:
        changed = changed or [f"detector was {run['settings']['detector']}"]
        raise InputError(
            f"The run in {str(folder)!r} is finished, with other settings: {', '.join(changed)}. "
            "Choose another --out."
        )
