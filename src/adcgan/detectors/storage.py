"""The model folder: JSON and safetensors files, verified by hash, never pickled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from adcgan.errors import InputError
from adcgan.files import replacing, write_json, write_text
from adcgan.training.runlog import STATS_FILE, read_rows, versions

CONFIG, WEIGHTS, CALIBRATION = "config.json", "weights.safetensors", "calibration.json"
MANIFEST = "manifest.json"
CARD = "README.md"
# Every card starts with this; any other README.md is the user's own.
CARD_HEAD = "---\nlibrary_name: adcgan\n"
FORMAT = 3


@dataclass(frozen=True)
class Stored:
    """The content of a model folder."""

    config: dict[str, Any]
    calibration: dict[str, Any]
    state: dict[str, Tensor]
    history: list[dict[str, Any]]


def write(
    folder: Path,
    config: Mapping[str, Any],
    calibration: Mapping[str, Any],
    state: Mapping[str, Tensor],
    card: str,
) -> None:
    """Write a model folder.

    The manifest is deleted first and written last; without it, the folder is not a finished model.

    Parameters
    ----------
    folder : Path
        Folder to write to, created if necessary.
    config, calibration : mapping
        JSON-compatible values.
    state : mapping of str to Tensor
        Weights and other learned tensors.
    card : str
        Text for README.md, which is not overwritten if it is the user's own. Its hash is not
        recorded, so that people can edit it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    write_json(folder / CONFIG, {"format": FORMAT, "versions": versions(), **config})
    write_json(folder / CALIBRATION, calibration)
    with replacing(folder / WEIGHTS) as temporary:
        save_file({k: v.detach().cpu().contiguous() for k, v in state.items()}, temporary)
    if not (folder / CARD).exists() or _is_card(folder / CARD):
        write_text(folder / CARD, card)
    names = [CONFIG, WEIGHTS, CALIBRATION]
    if (folder / STATS_FILE).exists():
        names.append(STATS_FILE)
    write_json(folder / MANIFEST, {"sha256": {name: _hash(folder / name) for name in names}})


def is_finished(folder: Path) -> bool:
    """Return whether `folder` holds a completely written model."""
    return (folder / MANIFEST).is_file()


def read(folder: Path) -> Stored:
    """Read a model folder and verify that its files are unchanged.

    Raises
    ------
    InputError
        The folder is not a model folder, a file is missing or changed (the message names it), or
        the format is that of another version.
    """
    if not is_finished(folder):
        raise InputError(
            f"{folder} is not a finished model folder: it has no {MANIFEST}."
            if folder.is_dir()
            else f"There is no model folder {folder}."
        )
    hashes = _json(folder / MANIFEST).get("sha256", {})
    for name in {CONFIG, WEIGHTS, CALIBRATION} | set(hashes):
        path = folder / name
        if not path.is_file():
            raise InputError(f"{name} is missing from the model folder {folder}.")
        if _hash(path) != hashes.get(name):
            raise InputError(
                f"{path} was changed or damaged: its SHA-256 differs from the manifest."
            )
    config = _json(folder / CONFIG)
    if config["format"] != FORMAT:
        raise InputError(
            f"{folder} has model format {config['format']}, written by adcgan "
            f"{config['versions']['adcgan']}; this version reads format {FORMAT}. Fit the model "
            "again or use the version that wrote it."
        )
    return Stored(
        config=config,
        calibration=_json(folder / CALIBRATION),
        state=load_file(folder / WEIGHTS),
        history=read_rows(folder / STATS_FILE) if STATS_FILE in hashes else [],
    )


def _is_card(path: Path) -> bool:
    """Return whether a file is a card, possibly edited."""
    head = CARD_HEAD.encode()
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.read(len(head)) == head


def _hash(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _json(path: Path) -> dict[str, Any]:
    """Read the JSON object in `path`."""
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None
    return value
