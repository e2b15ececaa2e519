"""What runs on the cluster: a worker that scores one shard after another."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from adcgan.bulk.decoder import Decoder
from adcgan.bulk.listing import Listing
from adcgan.bulk.manifest import Manifest, Summary, highest
from adcgan.bulk.model import Model
from adcgan.bulk.output import Output
from adcgan.bulk.reading import images_at
from adcgan.data import ImageSet
from adcgan.data.ragged import gathered
from adcgan.errors import InputError, MissingExtraError, StorageError

if TYPE_CHECKING:
    from adcgan.scoring import Scorer

# How often a shard is started again after its worker was lost.
RETRIES = 5
# Decoded images held before they are scored: a multiple of the most that a model takes at once.
_TOGETHER = 512


class LostWorkersError(RuntimeError):
    """The workers of one shard were lost again and again; finished shards are kept."""


# Errors that another attempt cannot fix, by name.
REPORTED = {
    kind.__name__: kind for kind in (InputError, MissingExtraError, StorageError, LostWorkersError)
}


@dataclass(frozen=True)
class Task:
    """Everything a worker needs to know, the same for each; `device` is where it computes."""

    listing: Listing
    output: Output
    manifest: Manifest
    model: Model
    device: str


class Attempts:
    """Counts how often each shard was started, in an actor that outlives the workers.

    Ray restarts a lost worker's shard without end, since a machine may be lost any number of
    times. But a shard that crashes its worker each time must not go round for ever.
    """

    def __init__(self) -> None:
        self._begun: Counter[int] = Counter()

    def begin(self, shard: int) -> int:
        """Return how often a shard was started, this time included."""
        self._begun[shard] += 1
        return self._begun[shard]

    def repeated(self) -> int:
        """Return how often any shard was started again."""
        return self._begun.total() - len(self._begun)


class ShardScorer:
    """Ray Data makes one in each worker process and calls it with shards' numbers.

    Parameters
    ----------
    task : ray.ObjectRef
        Of a `Task`, which every machine fetches once.
    attempts : ray.actor.ActorHandle
        Of `Attempts`.
    """

    def __init__(self, task: Any, attempts: Any) -> None:
        self._reference, self._attempts = task, attempts
        self._ready: tuple[Task, Scorer, Decoder] | None = None

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Score the one shard in `batch`, write its file, and return a report as JSON.

        Errors that the user must read are in the report: Ray would wrap what is raised.
        """
        (shard,) = batch["shard"].tolist()
        report: dict[str, Any] = {"shard": shard}
        try:
            report["summary"] = asdict(self._score(shard))
        except tuple(REPORTED.values()) as error:
            report |= {"error": type(error).__name__, "message": str(error)}
        return {"report": np.array([json.dumps(report)])}

    def _score(self, shard: int) -> Summary:
        """Score one shard, unless it has crashed too many workers."""
        import ray

        if ray.get(self._attempts.begin.remote(shard)) > RETRIES + 1:
            raise LostWorkersError(
                f"The workers of shard {shard} were lost {RETRIES + 1} times; is memory short?"
            )
        # Not in the constructor: Ray would answer an error there with a new process, and again.
        self._ready = self._ready or self._prepare()
        return score_shard(*self._ready, shard)

    def _prepare(self) -> tuple[Task, Scorer, Decoder]:
        """Check that this machine sees the disks, and load the model."""
        import ray

        task: Task = ray.get(self._reference)
        check_visible(task)
        scorer = task.model.load(task.device)
        return task, scorer, Decoder(scorer.target_)


def check_visible(task: Task) -> None:
    """Raise `InputError` unless this machine sees the images and the output that are on disks."""
    wanted = "it must be on a disk that every machine of the cluster sees at the same path"
    here = f"is not on the machine {os.uname().nodename}"
    if task.listing.is_local and not os.path.lexists(task.listing.root):
        raise InputError(f"DATA {task.listing.root!r} {here}: {wanted}, or on an object store.")
    if task.output.read_manifest() is None:
        raise InputError(f"--out {task.output.path!r} {here}: {wanted}, or on an object store.")


def score_shard(task: Task, scorer: Scorer, decoder: Decoder, shard: int) -> Summary:
    """Score the images of one shard, write its file and return the summary.

    Images are read, decoded and scored a few hundred at a time.
    """
    span, components = task.manifest.span(shard), task.manifest.components
    names: list[str] = []
    errors: list[str | None] = []
    figures = {name: np.full(len(span), np.nan) for name in ("score", "p_value", *components)}
    waiting: dict[int, NDArray[np.uint8]] = {}
    for found in images_at(task.listing, span):
        decoded = found.error or decoder.decode(
            found.path or found.content or b"", is_path=found.path is not None
        )
        if not isinstance(decoded, str):
            waiting[len(names)] = decoded
        names.append(found.name)
        errors.append(decoded if isinstance(decoded, str) else None)
        if len(waiting) == _TOGETHER:
            _score(waiting, scorer, figures)
    _score(waiting, scorer, figures)
    verdict = replace(scorer.verdict(), threshold=task.manifest.threshold)
    anomalous = verdict.anomalous(figures["score"])
    unreadable = np.array([error is not None for error in errors])
    columns = {
        name: pa.array(values, mask=unreadable)
        for name, values in {**figures, "anomalous": anomalous.astype(np.int8)}.items()
    }
    summary = Summary(
        n_anomalous=int((anomalous == 1).sum()),
        n_unreadable=int(unreadable.sum()),
        highest=highest(
            {
                "path": names[i],
                "score": float(figures["score"][i]),
                "p_value": float(figures["p_value"][i]),
                "anomalous": int(anomalous[i]),
            }
            for i in np.flatnonzero(~unreadable)
        ),
    )
    columns |= {"path": pa.array(names, pa.string()), "error": pa.array(errors, pa.string())}
    task.output.write_shard(shard, columns, components, summary)
    return summary


def _score(
    waiting: dict[int, NDArray[np.uint8]], scorer: Scorer, figures: dict[str, NDArray[np.float64]]
) -> None:
    """Score the images that wait, by row, and write their figures into these rows."""
    if not waiting:
        return
    images = ImageSet(
        images=gathered(pixels[None] for pixels in waiting.values()),
        names=[""] * len(waiting),
        positions=np.arange(len(waiting)),
        resized=True,
    )
    rows = list(waiting)
    waiting.clear()
    found = scorer.assess(images)
    new = {"score": found.scores, "p_value": found.p_values, **found.components}
    for name, values in new.items():
        figures[name][rows] = values
