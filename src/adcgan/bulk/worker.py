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
from adcgan.bulk.reading import Found, images_at
from adcgan.data import ImageSet
from adcgan.data.ragged import gathered
from adcgan.errors import InputError, MissingExtraError, StorageError

if TYPE_CHECKING:
    from adcgan.scoring import Scorer

# How often a shard is started again whose worker was lost.
RETRIES = 5
# Images held decoded before they are scored: a multiple of the most that a model takes at once.
_TOGETHER = 512
# What a new attempt will not mend, by name.
_TOLD = {kind.__name__: kind for kind in (InputError, MissingExtraError, StorageError)}


class LostWorkersError(RuntimeError):
    """The workers of one shard were lost again and again; what is finished is kept."""


@dataclass(frozen=True)
class Task:
    """All that a worker needs to know, the same for each.

    Attributes
    ----------
    listing : Listing
    output : Output
    manifest : Manifest
    model : Model
    device : str
        Where to compute.
    """

    listing: Listing
    output: Output
    manifest: Manifest
    model: Model
    device: str


@dataclass(frozen=True)
class Report:
    """What a worker says of a shard.

    Attributes
    ----------
    shard : int
    summary : Summary or None
        None where something is wrong that a new attempt will not mend.
    kind, message : str
        The name of that error's class, and what it says.
    """

    shard: int
    summary: Summary | None
    kind: str = ""
    message: str = ""

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Return the report that a worker sent."""
        fields = json.loads(text)
        summary = None if fields["summary"] is None else Summary(**fields["summary"])
        return cls(**{**fields, "summary": summary})

    def result(self) -> Summary:
        """Return the summary, or raise the error."""
        if self.summary is None:
            raise _TOLD.get(self.kind, LostWorkersError)(self.message)
        return self.summary


class Attempts:
    """Counts how often each shard was begun, in an actor that outlives the workers.

    Ray starts a lost worker's shard again without end: a machine may be lost any number of times.
    A shard that takes its worker down each time must not go round for ever.
    """

    def __init__(self) -> None:
        self._begun: Counter[int] = Counter()

    def begin(self, shard: int) -> int:
        """Return how often a shard was begun, this time included."""
        self._begun[shard] += 1
        return self._begun[shard]

    def repeated(self) -> int:
        """Return how often shards were begun that had been begun before."""
        return self._begun.total() - len(self._begun)


class ShardScorer:
    """Ray Data makes one of these in each worker process and calls it with shards' numbers.

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
        """Score the one shard in `batch`, write its file, and return a `Report` as JSON.

        What the user has to be told is returned too: raised, it would reach them in Ray's
        wrapping.
        """
        (shard,) = batch["shard"].tolist()
        try:
            report = Report(shard, self._score(shard))
        except (*_TOLD.values(), LostWorkersError) as error:
            report = Report(shard, None, type(error).__name__, str(error))
        return {"report": np.array([json.dumps(asdict(report))])}

    def _score(self, shard: int) -> Summary:
        """Score one shard, unless it has taken too many workers down."""
        import ray

        if ray.get(self._attempts.begin.remote(shard)) > RETRIES + 1:
            raise LostWorkersError(
                f"The workers of shard {shard} were lost {RETRIES + 1} times; is memory short?"
            )
        # Not in the constructor: an error there would be met by a new process, and again.
        self._ready = self._ready or self._prepare()
        return score_shard(*self._ready, shard)

    def _prepare(self) -> tuple[Task, Scorer, Decoder]:
        """Load the model, and see that this machine sees what is on disks."""
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
    if not task.output.holds_manifest():
        raise InputError(f"--out {task.output.path!r} {here}: {wanted}, or on an object store.")


def score_shard(task: Task, scorer: Scorer, decoder: Decoder, shard: int) -> Summary:
    """Score the images of one shard, write its file and return what became of them.

    Images are read, decoded and scored a few hundred at a time.
    """
    start, stop = task.manifest.span(shard)
    rows = _Rows(stop - start, task.manifest)
    for place, found in enumerate(images_at(task.listing, start, stop)):
        rows.add(place, found.name, found.error or _decoded(decoder, found))
        if rows.n_waiting == _TOGETHER:
            rows.score(scorer)
    rows.score(scorer)
    summary = rows.summary()
    task.output.write_shard(shard, rows.columns(), task.manifest.components, summary)
    return summary


def _decoded(decoder: Decoder, found: Found) -> NDArray[np.uint8] | str:
    """Return the pixels of an image, or why it has none."""
    if found.content is not None:
        return decoder.decode(found.content, is_path=False)
    assert found.path is not None
    return decoder.decode(found.path, is_path=True)


class _Rows:
    """The rows of one shard, filled as its images are read and scored."""

    def __init__(self, n: int, manifest: Manifest) -> None:
        self._names, self._errors = [""] * n, [""] * n
        self._threshold = manifest.threshold
        self._anomalous = np.full(n, -1)
        self._figures = {
            name: np.full(n, np.nan) for name in ("score", "p_value", *manifest.components)
        }
        self._waiting: list[tuple[int, NDArray[np.uint8]]] = []

    @property
    def n_waiting(self) -> int:
        """Images decoded and not scored yet."""
        return len(self._waiting)

    def add(self, place: int, name: str, decoded: NDArray[np.uint8] | str) -> None:
        """Take an image, or why it could not be decoded, in the row `place`."""
        self._names[place] = name
        if isinstance(decoded, str):
            self._errors[place] = decoded
        else:
            self._waiting.append((place, decoded))

    def score(self, scorer: Scorer) -> None:
        """Score the images that wait."""
        if not self._waiting:
            return
        places = [place for place, _ in self._waiting]
        images = ImageSet(
            images=gathered(pixels[None] for _, pixels in self._waiting),
            names=[self._names[place] for place in places],
            positions=np.arange(len(places)),
            resized=True,
        )
        self._waiting = []
        found = scorer.assess(images)
        verdict = replace(found.verdict, threshold=self._threshold)
        self._anomalous[places] = verdict.anomalous(found.scores)
        figures = {"score": found.scores, "p_value": found.p_values, **found.components}
        for name, values in figures.items():
            self._figures[name][places] = values

    def columns(self) -> dict[str, Any]:
        """Return the columns as arrays of PyArrow, null where there is nothing to say."""
        unreadable = np.array([bool(error) for error in self._errors])
        anomalous = self._anomalous.astype(np.int8)
        figures = {
            name: pa.array(values, mask=unreadable)
            for name, values in {"anomalous": anomalous, **self._figures}.items()
        }
        errors = pa.array([error or None for error in self._errors], pa.string())
        return {"path": pa.array(self._names, pa.string()), **figures, "error": errors}

    def summary(self) -> Summary:
        """Return the counts and the images with the highest scores."""
        scores = self._figures["score"]
        readable = (i for i, error in enumerate(self._errors) if not error)
        return Summary(
            n_anomalous=int((self._anomalous == 1).sum()),
            n_unreadable=sum(map(bool, self._errors)),
            highest=highest(
                {
                    "path": self._names[i],
                    "score": float(scores[i]),
                    "p_value": float(self._figures["p_value"][i]),
                    "anomalous": int(self._anomalous[i]),
                }
                for i in readable
            ),
        )
