"""The metadata of an exported .onnx file, and the seal that shows whether it is intact.

What thresholds, p-values and images need is in the file's metadata: text by key, here JSON under
keys that start with ``adcgan.``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adcgan.errors import InputError
from adcgan.scoring import Components

FORMAT = 1
INPUT = "images"
SCORE, MAP, RECONSTRUCTION = "score", "anomaly_map", "reconstruction"

_PROBES = 16
_PREFIX = "adcgan."
_FORMAT_KEY = f"{_PREFIX}format"
_SEAL_KEY = f"{_PREFIX}sha256"
_NO_DIGEST = "0" * 64
# How ONNX (a Protocol Buffers message) writes the entry: field 1 is the key, field 2 the value.
_SEAL_MARK = b"\x0a" + bytes([len(_SEAL_KEY)]) + _SEAL_KEY.encode() + b"\x12\x40"


@dataclass(frozen=True)
class Weighing:
    """A score as a weighted sum of components: Σ weight · component + bias.

    Attributes
    ----------
    weights : dict of str to float
        By the component's name.
    bias : float
        What is added.
    """

    weights: dict[str, float]
    bias: float

    def __call__(self, components: Components) -> NDArray[np.float64]:
        """Return the scores (n,) of components (n,) each."""
        parts = [weight * components[name] for name, weight in self.weights.items()]
        scores: NDArray[np.float64] = np.sum(parts, axis=0) + self.bias
        return scores

    @classmethod
    def of(
        cls, combine: Callable[[Components], NDArray[np.float64]], components: list[str]
    ) -> Weighing:
        """Find the weights that `combine` gives `components`, and verify that it is a sum.

        Parameters
        ----------
        combine : callable
            Makes scores (n,) of components (n,) each.
        components : list of str
            Their names.

        Raises
        ------
        InputError
            It is not a weighted sum.
        """
        n = len(components)
        # The first row is all zeros, row k + 1 has a one in component k, the others are random.
        random = np.random.default_rng(0).uniform(0, 100, (_PROBES, n))
        rows = np.concatenate([np.zeros((1, n)), np.eye(n), random])
        probes = dict(zip(components, rows.T, strict=True))
        scores = combine(probes)
        slopes = scores[1 : n + 1] - scores[0]
        found = cls(dict(zip(components, slopes.tolist(), strict=True)), float(scores[0]))
        if not np.allclose(found(probes), scores, rtol=1e-9, atol=1e-9 * np.abs(scores).max()):
            raise InputError(
                "A detector can be exported if its score is a weighted sum of its components "
                f"({', '.join(components)}). This one's is not."
            )
        return found


@dataclass(frozen=True)
class Description:
    """The metadata of an exported file, one entry for each field.

    Attributes
    ----------
    version : str
        Of the package that wrote the file.
    detector : str
        The detector's class.
    parameters : dict
        Its constructor's parameters.
    image_shape : (int, int, int)
        Channels, height and width that it was trained on.
    resize : str
        How photographs become square.
    resized : bool
        Whether the training images went through the resize pipeline.
    n_train : int
        Images trained on.
    threshold : float
        An image is anomalous when its score is above it.
    fpr : float or None
        False-positive budget in force; None when `contamination` set the threshold.
    calibration_scores : list of float
        Scores of the held-out normal images, ascending.
    calibration_peaks : list of float or None
        Largest values of the anomaly maps of those, ascending; None where there are none.
    components : list of str
        Parts of the score, each an output of the graph.
    score : Weighing
        How they make the score.
    variants : dict of str to Weighing
        Other scores made of them.
    card : dict or None
        The fields of the model's card; None in a file that was exported before it had one.
    """

    version: str
    detector: str
    parameters: dict[str, Any]
    image_shape: tuple[int, int, int]
    resize: str
    resized: bool
    n_train: int
    threshold: float
    fpr: float | None
    calibration_scores: list[float]
    calibration_peaks: list[float] | None
    components: list[str]
    score: Weighing
    variants: dict[str, Weighing]
    card: dict[str, Any] | None

    def to_metadata(self) -> dict[str, str]:
        """Return the metadata of a file that is yet to be sealed."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        texts = {
            f"{_PREFIX}{name}": json.dumps(value, default=vars, allow_nan=False)
            for name, value in {"format": FORMAT, **values}.items()
        }
        return texts | {_SEAL_KEY: _NO_DIGEST}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], called: str) -> Description:
        """Read a file's metadata; `called` names the file in errors.

        Raises
        ------
        InputError
            It is not such a file, or one of another format.
        """
        if _FORMAT_KEY not in metadata:
            raise InputError(
                f"{called} is an ONNX file that 'adcgan export' did not make: it lacks the "
                f"metadata {_FORMAT_KEY!r}."
            )
        version = metadata[_FORMAT_KEY]
        if version != str(FORMAT):
            raise InputError(
                f"{called} has export format {version}; this version reads format {FORMAT}."
            )
        values = {
            # Files of earlier versions of the format do not know what was added to it since.
            field.name: json.loads(metadata.get(_PREFIX + field.name, "null"))
            for field in fields(cls)
        }
        values["image_shape"] = tuple(values["image_shape"])
        values["score"] = Weighing(**values["score"])
        values["variants"] = {name: Weighing(**w) for name, w in values["variants"].items()}
        return cls(**values)


def seal(content: bytes) -> bytes:
    """Return the bytes of a file with their SHA-256 in the metadata entry made for it.

    The digest is that of the same bytes with 64 zeros in its place.
    """
    start = _digest_at(content)
    assert start is not None, "the metadata must hold the entry for the seal once"
    digest = hashlib.sha256(content).hexdigest().encode()
    return content[:start] + digest + content[start + len(digest) :]


def check_seal(content: bytes, called: str) -> bool:
    """Say whether a file is sealed; `called` names it in errors.

    Raises
    ------
    InputError
        It is sealed, and was changed.
    """
    start = _digest_at(content)
    if start is None:
        return False
    stop = start + len(_NO_DIGEST)
    digest = hashlib.sha256(content[:start])
    digest.update(_NO_DIGEST.encode())
    digest.update(memoryview(content)[stop:])
    if digest.hexdigest().encode() != content[start:stop]:
        raise InputError(f"{called} was changed or damaged: its SHA-256 does not match.")
    return True


def _digest_at(content: bytes) -> int | None:
    """Return where the digest stands, None if the file has no entry for one."""
    mark = content.rfind(_SEAL_MARK)
    return None if mark < 0 else mark + len(_SEAL_MARK)
