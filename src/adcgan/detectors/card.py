"""The card of a model: its facts, and the README.md that hubs of models show."""

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
    """Where a model comes from, kept in its ``config.json``.

    Attributes
    ----------
    version : str
        Of adcgan.
    source : str or None
        What a person would call the images, without the folders above the last two of a path;
        None, like the others, in a model of an earlier version.
    n_images, n_skipped : int or None
        Images that could be read, and that could not.
    date : str or None
        When training ended, ISO 8601 in UTC.
    hardware : str or None
        The name of what it was trained on.
    """

    version: str
    source: str | None = None
    n_images: int | None = None
    n_skipped: int | None = None
    date: str | None = None
    hardware: str | None = None

    @classmethod
    def now(cls, images: ImageSet, device: torch.device) -> Provenance:
        """Return that of a model that has just learned from `images` on `device`."""
        return cls(
            version=__version__,
            source=_public(images.source),
            n_images=len(images),
            n_skipped=len(images.skipped),
            date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            hardware=hardware(device)["name"],
        )


def _public(source: str) -> str:
    """Return a path's last two parts: a card is for others, whom users and disks do not concern."""
    return "/".join(Path(source).parts[-2:]) if os.path.isabs(source) else source


def card_of(detector: Detector, known: Provenance) -> ModelCard:
    """Return the card of a fitted detector."""
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
    """Return what a model is not for."""
    _, height, width = detector.image_shape_
    found = [
        f"It has seen {detector.n_train_:,} images and takes them all for normal. It finds what is "
        "unlike them, whether or not it matters; a defect that was among them, or that changes an "
        "image less than normal images differ, may pass.",
        "Scores drift with the camera, lens, light, distance, compression and software: an image "
        "of a normal part under another camera can score as an anomaly. The budget and the "
        "p-values hold for images that come from where the held-out ones came from; fit it again "
        "where that has changed.",
    ]
    if detector.resize != "keep" and detector.resized_:
        found.append(
            f"Photographs become {width}×{height} pixels first. What is not to be seen at that "
            "size is not found."
        )
    if detector.resize == "crop":
        found.append("It sees the centre square of a photograph alone.")
    if detector.league:
        found.append(
            f"Its features are those of a network {detector.league}: what that network has not "
            "learned to tell apart it does not see, and the network's images and licence are not "
            "this model's."
        )
    found.append(
        "It is no safety device: where a missed anomaly does harm, measure first how many it "
        "misses, on labelled images from the place of use."
    )
    return found


# -- as a page -------------------------------------------------------------------------------------


def to_markdown(detector: Detector, card: ModelCard) -> str:
    """Return a card in Markdown, with the front matter that hubs of models read."""
    sections = {
        "What it learned from": _learned_from(card),
        "Settings": _settings(detector, card),
        "How the threshold was set": _threshold(card, detector.fpr),
        "How it was judged": (
            "When this card was written the model had not been judged on labelled images. "
            "`adcgan evaluate MODEL DATA --out DIR` judges it; if DIR is this folder, the figures "
            "are in its `metrics.json`."
        ),
        "What it is not for": "\n".join(f"- {limit}" for limit in card.limits),
        "How to use it": (
            "```sh\npip install adcgan\nadcgan score MODEL DATA --out scores.csv\n```\n\n"
            "MODEL is this folder."
        ),
        "How it was made": _table(
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
    size = "their own size" if card.resize == "keep" else f"{width}×{height} pixels"
    read = "not recorded"
    if card.n_images is not None:
        read = f"{card.n_images:,} read, {card.n_skipped:,} unreadable and left out"
    return _table(
        {
            "source": _code(card.source) if card.source else "not recorded",
            "images": read,
            "trained on": f"{card.n_train:,}",
            "threshold from": f"{card.n_calibration:,} held-out ones",
            "size": f"{size}, {'grey' if channels == 1 else 'colour'} (`resize` is {card.resize})",
        }
    )


def _settings(detector: Detector, card: ModelCard) -> str:
    documented = detector.described()
    lines = ["| setting | value | default | what it is |", "|---|---|---|---|"]
    for name, value in card.parameters.items():
        default, text = documented[name]
        shown = (f"`{name}`", _code(repr(value)), _code(repr(default)), _cell(text))
        lines.append("| " + " | ".join(shown) + " |")
    return "\n".join(lines)


def _threshold(card: ModelCard, asked: float) -> str:
    above = f"An image is anomalous when its score is above {card.threshold:.6g}."
    if card.fpr is None:
        return (
            f"{above} By PyOD's rule: a share of {card.parameters['contamination']:g} of the "
            "images given to `fit` scores higher."
        )
    least = smallest_budget(card.n_calibration)
    return (
        f"{above} A share of at most {card.fpr:.3g} of new normal images is expected to be, by the "
        f"scores of {card.n_calibration:,} held-out normal images. The budget asked for was "
        f"{asked:g}; so many images support none below {least:.3g}."
    )


def _table(rows: dict[str, str]) -> str:
    lines = [f"| {key} | {value} |" for key, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])


def _code(text: str) -> str:
    """Return text in backticks, for a cell of a table."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence, space = "`" * (longest + 1), " " * bool(longest)
    return f"{fence}{space}{_cell(text)}{space}{fence}"


def _cell(text: str) -> str:
    """Return text as it stands in a table: in one line, without what would end the cell."""
    return " ".join(text.split()).replace("|", "\\|")
