"""What a run is, and what became of its images: the facts stored beside the rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

_SHOWN = 5


@dataclass(frozen=True)
class Manifest:
    """What a folder of results belongs to; a run resumes only if every field is the same.

    Attributes
    ----------
    n_images : int
    listing : str
        Hash of the names, sizes and order of the files.
    model : str
        Hash of the model's files.
    threshold : float
        An image is anomalous when its score is above it.
    shard_size : int
        Images in each shard but the last.
    components : list of str
        The parts of the score, a column each.
    """

    n_images: int
    listing: str
    model: str
    threshold: float
    shard_size: int
    components: list[str]

    @property
    def n_shards(self) -> int:
        """Number of shards."""
        return -(-self.n_images // self.shard_size)

    def span(self, shard: int) -> range:
        """Return the positions of a shard's images."""
        start = shard * self.shard_size
        return range(start, min(start + self.shard_size, self.n_images))


@dataclass(frozen=True)
class Summary:
    """What became of the images of a shard, stored in its file, or of all shards.

    Attributes
    ----------
    n_anomalous, n_unreadable : int
    highest : list of dict
        The few images with the highest scores: path, score, p_value, anomalous.
    """

    n_anomalous: int
    n_unreadable: int
    highest: list[dict[str, Any]]

    @classmethod
    def of(cls, shards: Iterable[Summary]) -> Summary:
        """Return the summary of several shards together."""
        parts = list(shards)
        return cls(
            n_anomalous=sum(part.n_anomalous for part in parts),
            n_unreadable=sum(part.n_unreadable for part in parts),
            highest=highest(image for part in parts for image in part.highest),
        )


def highest(images: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the few images with the highest ``score``, highest first."""
    return sorted(images, key=lambda image: -image["score"])[:_SHOWN]
