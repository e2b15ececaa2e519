"""Model cards: the facts, and the README.md that model hubs display."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from adcgan import __version__
from adcgan.data import ImageSet
from adcgan.detectors.storage import CARD_HEAD
from adcgan.scoring import smallest_budget
from adcgan.scoring.card import ModelCard
from adcgan.training.runlog import hardware

if TYPE_CHECKING:
    from adcgan.detectors.base import Detector


@dataclass(frozen=True)
class Provenance:
    """Where a model comes from, as stored in its ``config.json``.

    Attributes
    ----------
    version : str
        Version of adcgan.
    source : str or None
        Name of the images, with only the last two parts of a path. This and the following are None
        in models of earlier versions.
    n_images, n_skipped : int or None
        Number of images that could and could not be read.
    date : str or None
        End of training, ISO 8601 in UTC.
    hardware : str or None
        Name of the hardware used for training.
    """

    version: str
    source: str | None = None
    n_images: int | None = None
    n_skipped: int | None = None
    date: str | None = None
    hardware: str | None = None

    @classmethod
    def now(cls, images: ImageSet, device: torch.device) -> Provenance:
        """Return the provenance of a model that was just fitted to `images` on `device`."""
        return cls(
            version=__version__,
            source=_public(images.source),
            n_images=len(images),
            n_skipped=len(images.skipped),
            date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            hardware=hardware(device)["name"],
        )


def _public(source: str) -> str:
    """Return the last two parts of a path, as cards are shared and user names are private."""
    return "/".join(Path(source).parts[-2:]) if os.path.isabs(source) else source


def card_of(detector: Detector, known: Provenance) -> ModelCard:
    """Create the card of a fitted detector."""
    return ModelCard(
        detector=detector.system,
        about=detector.about,
        parameters=_parameters(detector),
        source=known.source,
        n_images=known.n_images,
        n_skipped=known.n_skipped,
        n_train=detector.n_train_,
        n_calibration=detector.n_calibration_,
        image_shape=list(detector.image_shape_),
        resize=detector.resize,
        threshold=float(detector.threshold_),
        fpr=None if detector.fpr_ is None else float(detector.fpr_),
        limits=_limits(detector),
        version=known.version,
        date=known.date,
        hardware=known.hardware,
    )


def _parameters(detector: Detector) -> dict[str, Any]:
    return {key: value for key, value in detector.get_params().items() if key != "device"}


def _limits(detector: Detector) -> list[str]:
    """Return the limits of a model."""
    _, height, width = detector.image_shape_
    found = [
        f"It was trained on {detector.n_train_:,} images and considers all of them normal. It "
        "finds anything unlike them, whether or not it matters. It may miss defects that were "
        "among them and defects smaller than the variation between normal images.",
        "Scores drift with the camera, lens, lighting, distance, compression and software: an "
        "image of a normal part from a different camera can score as an anomaly. The budget and "
        "the p-values hold only for images from the same source as the held-out ones. Fit the "
        "model again if the source changes.",
    ]
    if detector.resize != "keep" and detector.resized_:
        found.append(
            f"Images are first resized to {width}×{height} pixels. Defects that are not visible at "
            "that size are missed."
        )
    if detector.resize == "crop":
        found.append("It sees only the central square of an image.")
    if detector.league:
        found.append(
            f"Its features come from a network {detector.league}. It misses differences that this "
            "network has not learned to see. The network's training images and licence are "
            "separate from this model's."
        )
    found.append(
        "It is not a safety device. Where a missed anomaly can do harm, first measure how many it "
        "misses on labelled images from the place of use."
    )
    return found


# -- as a page -------------------------------------------------------------------------------------


def to_markdown(detector: Detector, card: ModelCard) -> str:
    """Format a card as Markdown, with the front matter that model hubs read."""
    sections = {
        "Training data": _learned_from(card),
        "Settings": _settings(detector, card),
        "Threshold": _threshold(card, detector.fpr),
        "Evaluation": (
            "This card was written before any evaluation on labelled images. To evaluate the "
            "model, run `adcgan evaluate MODEL DATA --out DIR`. If DIR is this folder, the results "
            "are in its `metrics.json`."
        ),
        "Limitations": "\n".join(f"- {limit}" for limit in card.limits),
        "Usage": (
            "```sh\npip install adcgan\nadcgan score MODEL DATA --out scores.csv\n```\n\n"
            "MODEL is this folder."
        ),
        "Provenance": _table(
            {
                "version": f"adcgan {card.version}",
                "date": card.date or "not recorded",
                "hardware": _code(card.hardware) if card.hardware else "not recorded",
            }
        ),
    }
    tags = "".join(
        f"- {tag}\n" for tag in ("anomaly-detection", "image", json.dumps(detector.name))
    )
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    return f"{CARD_HEAD}tags:\n{tags}---\n\n# {card.detector}\n\n{card.about}\n\n{body}\n"


def _learned_from(card: ModelCard) -> str:
    channels, height, width = card.image_shape
    size = "original size" if card.resize == "keep" else f"{width}×{height} pixels"
    read = "not recorded"
    if card.n_images is not None:
        read = f"{card.n_images:,} read, {card.n_skipped:,} unreadable and skipped"
    return _table(
        {
            "source": _code(card.source) if card.source else "not recorded",
            "images": read,
            "trained on": f"{card.n_train:,}",
            "threshold from": f"{card.n_calibration:,} held-out images",
            "size": f"{size}, {'grey' if channels == 1 else 'colour'} (`resize` is {card.resize})",
        }
    )


def _settings(detector: Detector, card: ModelCard) -> str:
    documented = detector.described()
    lines = ["| setting | value | default | description |", "|---|---|---|---|"]
    for name, value in card.parameters.items():
        default, text = documented[name]
        shown = (f"`{name}`", _code(repr(value)), _code(repr(default)), _cell(text))
        lines.append("| " + " | ".join(shown) + " |")
    return "\n".join(lines)


def _threshold(card: ModelCard, asked: float) -> str:
    above = f"An image is anomalous when its score is above {card.threshold:.6g}."
    if card.fpr is None:
        return (
            f"{above} The threshold follows PyOD's rule: a fraction of "
            f"{card.parameters['contamination']:g} of the images passed to `fit` scores higher."
        )
    least = smallest_budget(card.n_calibration)
    return (
        f"{above} At most a fraction of {card.fpr:.3g} of new normal images is expected to score "
        f"higher, judging by {card.n_calibration:,} held-out normal images. The requested budget "
        f"was {asked:g}; with that many images, the smallest possible budget is {least:.3g}."
    )


def _table(rows: dict[str, str]) -> str:
    lines = [f"| {key} | {value} |" for key, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])


def _code(text: str) -> str:
    """Wrap text in backticks, for a table cell."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence, space = "`" * (longest + 1), " " * bool(longest)
    return f"{fence}{space}{_cell(text)}{space}{fence}"


def _cell(text: str) -> str:
    """Escape text for a table cell: on one line, with pipes escaped."""
    return " ".join(text.split()).replace("|", "\\|")
