"""Scoring on a Ray cluster, in shards."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adcgan.bulk.dispatch import score_shards
from adcgan.bulk.listing import Listing, list_images
from adcgan.bulk.manifest import Manifest, Summary
from adcgan.bulk.model import Model
from adcgan.bulk.output import Output
from adcgan.bulk.worker import Attempts, Task
from adcgan.cluster import connected, import_ray
from adcgan.errors import InputError
from adcgan.progress import Progress, terminal_progress
from adcgan.scoring import Drift

# A multiple of the images that a model takes at once, so that batches are the same as in one piece.
SHARD_SIZE = 2048
# Each worker decodes on its own core, and decoding takes longer than scoring on a GPU.
_GPU_SHARE = 0.25
# Scores that drift is judged by. No held-out sample is so large that more would tell more.
_WATCHED = 100_000
_DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class Outcome:
    """The result of a run.

    Attributes
    ----------
    out : str
        Where the results are, without credentials.
    n_images, n_shards : int
        Totals, including earlier runs.
    n_images_before : int
        Images in shards that were finished before this run.
    n_repeated : int
        How often a shard was started again because its worker was lost.
    seconds : float
        Time of this run, from the connection to the cluster to its last shard.
    threshold : float
        Images are anomalous when their score is above it.
    fpr : float or None
        The false-positive budget in force; None when `contamination` set the threshold.
    summary : Summary
    drift : Drift
        How the scores differ from those of held-out normal images, judged by about 100,000
        scores in evenly spread shards if there are more.
    """

    out: str
    n_images: int
    n_shards: int
    n_images_before: int
    n_repeated: int
    seconds: float
    threshold: float
    fpr: float | None
    summary: Summary
    drift: Drift

    @property
    def images_per_second(self) -> float | None:
        """Speed of this run, including the cluster's start; None if nothing was left to do."""
        new = self.n_images - self.n_images_before
        return new / self.seconds if new else None


def score_in_bulk(
    model: str | Path,
    data: str,
    out: str,
    *,
    ray: str = "auto",
    fpr: float | None = None,
    shard_size: int = SHARD_SIZE,
    workers: int | None = None,
    gpus: float | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Outcome:
    """Score images on a Ray cluster, into one Parquet file for each shard.

    Each shard is written when it is finished. If the run is killed, the same call resumes it and
    skips finished shards. Scores are those of `Scorer.assess` on the same images. A worker that is
    lost is replaced and its shard repeated; an image that cannot be read gets a row with its error.

    Parameters
    ----------
    model : path
        A model folder or .onnx file on this machine. Its files are sent to the workers.
    data : str
        What to score; see `adcgan.bulk.listing.list_images`. A path must be on a disk that every
        machine sees at the same path.
    out : str
        The folder for the results: a path, on such a disk too, or a URI.
    ray : str, default="auto"
        The cluster; see `adcgan.cluster.connected`.
    fpr : float, optional
        Decide by this false-positive budget instead of the model's own threshold.
    shard_size : int, default=2048
        Images in a shard, at least 1.
    workers : int, optional
        Most worker processes at a time; None for one on each core of the cluster.
    gpus : float, optional
        The share of a GPU for each worker; 0 for none. None: a quarter if the cluster has GPUs
        and `device` and the model can use them.
    device : {"auto", "cpu", "cuda"}
    progress : Progress, optional
        Where progress is reported, in images; by default a bar if standard error is a terminal.

    Returns
    -------
    Outcome

    Raises
    ------
    InputError
        An argument is wrong, `out` holds the results of another run, or a machine of the cluster
        does not see a disk.
    MissingExtraError
        Ray is not installed.
    StorageError
        `out` cannot be written; finished shards are kept.
    LostWorkersError
        A shard lost its worker again and again; finished shards are kept.
    """
    import_ray()
    _check(shard_size, workers, gpus, device)
    progress = progress or terminal_progress()
    shipped = Model.at(model)
    scorer = shipped.load("cpu")
    verdict = scorer.verdict(fpr)
    if verdict.warning:
        warnings.warn(verdict.warning, stacklevel=2)
    with _shown(progress, "Listing images"):
        listing, output = list_images(data), Output.at(out)
    _refuse_inside(output, listing)
    manifest = Manifest(
        n_images=listing.n_images,
        listing=listing.digest(),
        model=shipped.digest(),
        threshold=verdict.threshold,
        shard_size=shard_size,
        components=scorer.component_names(),
    )
    output.check(manifest)
    done = output.finished(manifest)
    before = sum(len(manifest.span(shard)) for shard in done)
    started, repeated = time.monotonic(), 0
    if len(done) < manifest.n_shards:
        with ExitStack() as stack:
            with _shown(progress, "Connecting to Ray"):
                cluster = stack.enter_context(connected(ray))
            output.begin(manifest)
            task = Task(listing, output, manifest, shipped, device)
            repeated = _run(cluster, task, done, workers, gpus, progress)
        output.tidy()
    return Outcome(
        out=output.shown,
        n_images=manifest.n_images,
        n_shards=manifest.n_shards,
        n_images_before=before,
        n_repeated=repeated,
        seconds=time.monotonic() - started,
        threshold=verdict.threshold,
        fpr=verdict.fpr,
        summary=Summary.of(summary for _, summary in sorted(done.items())),
        drift=verdict.drift(output.some_scores(manifest, _WATCHED)),
    )


def _check(shard_size: int, workers: int | None, gpus: float | None, device: str) -> None:
    """Refuse arguments that are out of range."""
    if shard_size < 1:
        raise InputError(
            f"The 'shard_size' parameter must be at least 1. Got {shard_size} instead."
        )
    if workers is not None and workers < 1:
        raise InputError(f"The 'workers' parameter must be at least 1. Got {workers} instead.")
    if gpus is not None and not gpus >= 0:
        raise InputError(f"The 'gpus' parameter must be at least 0. Got {gpus} instead.")
    if device not in _DEVICES:
        raise InputError(
            f"The 'device' parameter must be one of {', '.join(_DEVICES)} on a cluster, which "
            f"assigns its GPUs itself. Got {device!r} instead."
        )
    if device == "cpu" and gpus:
        raise InputError(f"The 'gpus' parameter is {gpus:g}, but the 'device' is 'cpu'.")


def _refuse_inside(output: Output, listing: Listing) -> None:
    """Refuse to write results among the images: the next run would list them."""
    if output.filesystem.type_name != listing.filesystem.type_name:
        return
    inside, outside = output.path, listing.root
    if listing.is_local:
        inside, outside = os.path.realpath(inside), os.path.realpath(outside)
    if f"{inside}/".startswith(f"{outside.rstrip('/')}/"):
        raise InputError(f"--out must not be in DATA. {output.shown!r} is in {listing.source!r}.")


def _gpu_share(cluster: Any, gpus: float | None, task: Task) -> float:
    """Return the share of a GPU for each worker."""
    has_gpu = cluster.cluster_resources().get("GPU", 0) > 0
    if not has_gpu and (gpus or task.device == "cuda"):
        wanted = f"'gpus' parameter is {gpus:g}" if gpus else "'device' parameter is 'cuda'"
        raise InputError(f"The {wanted}, but the cluster has no GPU.")
    if gpus is None:
        # An .onnx file computes on a GPU only if told to.
        use_gpu = task.device == "cuda" or (task.device == "auto" and task.model.is_folder)
        return _GPU_SHARE if has_gpu and use_gpu else 0.0
    return gpus


def _run(
    cluster: Any,
    task: Task,
    done: dict[int, Summary],
    workers: int | None,
    gpus: float | None,
    progress: Progress,
) -> int:
    """Score the shards that are not in `done`, add them, and return how many were repeated."""
    share = _gpu_share(cluster, gpus, task)
    task = replace(task, device=task.device if share else "cpu")
    attempts = cluster.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Attempts).remote()
    waiting = [shard for shard in range(task.manifest.n_shards) if shard not in done]
    unreadable = sum(summary.n_unreadable for summary in done.values())
    progress.start("Scoring", sum(len(task.manifest.span(shard)) for shard in waiting))
    try:
        for shard, summary in score_shards(cluster.put(task), attempts, waiting, workers, share):
            done[shard] = summary
            unreadable += summary.n_unreadable
            progress.advance(len(task.manifest.span(shard)), unreadable=unreadable)
    finally:
        progress.finish()
    assert len(done) == task.manifest.n_shards
    repeated: int = cluster.get(attempts.repeated.remote())
    return repeated


@contextmanager
def _shown(progress: Progress, description: str) -> Iterator[None]:
    """Report one step of unknown length."""
    progress.start(description, 1)
    try:
        yield
        progress.advance()
    finally:
        progress.finish()
