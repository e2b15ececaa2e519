"""A cell of the benchmark: one detector, trained once on one class or category of a data set."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from adcgan.benchmark.categories import Category
from adcgan.benchmark.protocol import DEFECTS, PROTOCOLS, SCHEMES, SPLITS, protocol_settings
from adcgan.data import DATASETS
from adcgan.detectors import DETECTORS, Detector
from adcgan.errors import InputError

Setting: TypeAlias = "bool | int | float | str | None"

# Parameters that the cell determines or that do not affect results.
_NO_SETTINGS = {"random_state": "seeds", "device": "device"}


@dataclass(frozen=True)
class Cell:
    """Everything that determines one row of results, apart from the code and the machine.

    Parameters
    ----------
    dataset : str
        A name in `adcgan.DATASETS`, or the name of the folder that contains `category`.
    scheme : {"one-vs-all", "all-vs-one", "defects"}
        Whether `class_` is the only normal or the only anomalous class; "defects" with `category`.
    class_ : int or None
        Class number; None with `category`.
    detector : str
        A name in `adcgan.DETECTORS`.
    settings : tuple of (str, value)
        Constructor parameters that differ from those of the protocol, sorted by name.
    seed : int
        The detector's ``random_state``. With `max_train`, it also seeds the choice of images.
    protocol : {"paper", "released"}
        The honest protocol, or that of the release, which leaks labels.
    split : {"test", "development"}
        Images on which the detector is evaluated.
    max_train : int or None
        Maximum number of images passed to ``fit``.
    epochs : int or None
        The detector's ``epochs``, if it differs from that of the protocol.
    category : Category or None
        The images, if the data set has no classes.
    """

    dataset: str
    scheme: str
    class_: int | None
    detector: str
    settings: tuple[tuple[str, Setting], ...] = ()
    seed: int = 0
    protocol: str = "paper"
    split: str = "test"
    max_train: int | None = None
    epochs: int | None = None
    category: Category | None = None

    @property
    def key(self) -> str:
        """Name of the cell, the same on every machine and valid as a file name."""
        text = json.dumps(self.identity(), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        dataset, class_ = _plain(self.dataset), _plain(str(self.identity()["class"]))
        return f"{dataset}-{self.scheme}-{class_}-{self.detector}-{self.seed}-{digest}"

    @property
    def class_name(self) -> str:
        """Display name of the class or the category."""
        if self.category is not None:
            return self.category.name
        assert self.class_ is not None
        return DATASETS[self.dataset].class_names[self.class_]

    def identity(self) -> dict[str, Any]:
        """Return the fields that determine the row, as JSON-compatible values by column name.

        The category is the ``class`` of its rows, and ``images`` identifies its files.
        """
        category = self.category
        return {
            "dataset": self.dataset,
            "scheme": self.scheme,
            "class": self.class_ if category is None else category.name,
            **({} if category is None else {"images": category.images}),
            "detector": self.detector,
            "settings": self.all_settings(),
            "seed": self.seed,
            "protocol": self.protocol,
            "split": self.split,
            "max_train": self.max_train,
        }

    def all_settings(self) -> dict[str, Setting]:
        """Return all constructor parameters that differ from those of the protocol."""
        epochs = {} if self.epochs is None else {"epochs": self.epochs}
        return dict(sorted((dict(self.settings) | epochs).items()))


def make_detector(cell: Cell, device: str = "auto") -> Detector:
    """Create the untrained detector of a cell.

    Parameters
    ----------
    cell : Cell
        The cell.
    device : str, default="auto"
        Device of the detector.
    """
    kind = DETECTORS[cell.detector]
    chosen = protocol_settings(kind, cell.scheme, cell.protocol)
    chosen |= {**cell.all_settings(), "random_state": cell.seed}
    return kind(**chosen, device=device)


def plan(
    *,
    dataset: str,
    scheme: str,
    classes: Sequence[int] | None,
    detectors: Mapping[str, Mapping[str, Setting]],
    seeds: Sequence[int],
    protocol: str = "paper",
    split: str = "test",
    max_train: int | None = None,
    epochs: int | None = None,
) -> list[Cell]:
    """Return the cells of a sweep, ordered by seed and then by class.

    Parameters
    ----------
    dataset, scheme, protocol, split, max_train
        See `Cell`.
    classes : sequence of int or None
        Classes to single out, one cell each; None means all classes.
    detectors : mapping of str to mapping
        Parameters to set, by name of the detector. Values that equal those of the protocol are
        dropped, so that a cell has the same key however it is specified.
    seeds : sequence of int
        Seeds, one cell each.
    epochs : int or None
        Epochs for all detectors that have them.

    Raises
    ------
    InputError
        A name, a class or a parameter is invalid.
    """
    _one_of("dataset", dataset, DATASETS)
    _one_of("scheme", scheme, SCHEMES)
    _one_of("protocol", protocol, PROTOCOLS)
    _one_of("split", split, SPLITS)
    n_classes = len(DATASETS[dataset].class_names)
    for class_ in classes or ():
        if not 0 <= class_ < n_classes:
            raise InputError(
                f"The 'classes' parameter must contain numbers from 0 to {n_classes - 1} for "
                f"{dataset}. Got {class_} instead."
            )
    _check_max_train(max_train)
    first = Cell(dataset, scheme, 0, "", (), 0, protocol, split, max_train)
    changed = _changed(first, detectors, epochs)
    return [
        Cell(dataset, scheme, class_, name, settings, seed, protocol, split, max_train, its_epochs)
        for seed in seeds
        for class_ in (range(n_classes) if classes is None else classes)
        for name, (settings, its_epochs) in changed.items()
    ]


def plan_categories(
    categories: Sequence[Category],
    *,
    detectors: Mapping[str, Mapping[str, Setting]],
    seeds: Sequence[int],
    max_train: int | None = None,
    epochs: int | None = None,
) -> list[Cell]:
    """Return the cells of a sweep over folders, ordered by seed and then by category.

    Parameters
    ----------
    categories : sequence of Category
        Result of `adcgan.benchmark.categories.find_categories`; one cell each.
    detectors, seeds, max_train, epochs
        As for `plan`. Values that equal the detector's defaults are dropped.

    Raises
    ------
    InputError
        A name or a parameter is invalid.
    """
    _check_max_train(max_train)
    changed = _changed(Cell("", DEFECTS, None, ""), detectors, epochs)
    return [
        Cell(
            category.dataset,
            DEFECTS,
            None,
            name,
            settings,
            seed,
            max_train=max_train,
            epochs=its_epochs,
            category=category,
        )
        for seed in seeds
        for category in categories
        for name, (settings, its_epochs) in changed.items()
    ]


def _check_max_train(max_train: int | None) -> None:
    """Raise `InputError` unless there is at least one training image."""
    if max_train is not None and max_train < 1:
        raise InputError(f"The 'max_train' parameter must be at least 1. Got {max_train} instead.")


def _plain(name: str) -> str:
    """Return a name without characters that are not portable in file names."""
    return re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)[:40]


def _changed(
    like: Cell, detectors: Mapping[str, Mapping[str, Setting]], epochs: int | None
) -> dict[str, tuple[tuple[tuple[str, Setting], ...], int | None]]:
    """Return, by detector, the settings and epochs that differ from those of the protocol."""
    changed = {}
    had_epochs = False
    for name, given in detectors.items():
        _one_of("detectors", name, DETECTORS)
        _check_protocol(name, like)
        cell = Cell(like.dataset, like.scheme, like.class_, name, protocol=like.protocol)
        usual = make_detector(cell).get_params()
        asked = dict(given)
        if epochs is not None and "epochs" in usual:
            if "epochs" in asked:
                raise InputError(
                    f"The 'epochs' parameter and the setting 'epochs' of {name} mean the same. "
                    "Give only one of them."
                )
            asked["epochs"] = epochs
            had_epochs = True
        _check_settings(name, asked, usual)
        different = {k: v for k, v in sorted(asked.items()) if v != usual[k]}
        its_epochs = different.pop("epochs", None)
        assert its_epochs is None or isinstance(its_epochs, int)
        changed[name] = (tuple(different.items()), its_epochs)
        _check_latent(name, like, different)
    if epochs is not None and not had_epochs:
        raise InputError(
            f"The 'epochs' parameter needs a detector with epochs. Got {', '.join(detectors)}."
        )
    return changed


def _check_settings(name: str, asked: Mapping[str, Setting], usual: Mapping[str, Any]) -> None:
    """Raise `InputError` for settings that are unknown, reserved or out of range."""
    for key in asked:
        if key in _NO_SETTINGS:
            raise InputError(
                f"The {key!r} parameter of {name} must not be among the settings: it is set by the "
                f"benchmark's {_NO_SETTINGS[key]!r}."
            )
        if key not in usual:
            raise InputError(f"{name} has no parameter {key!r}. It has {', '.join(sorted(usual))}.")
    DETECTORS[name](**{**usual, **asked}).check_parameters()


def _check_protocol(detector: str, like: Cell) -> None:
    """Raise `InputError` if the release does not cover this detector or split."""
    if like.protocol == "released" and (detector != "adcgan" or like.split != "test"):
        raise InputError(
            "The released protocol supports only AD-CGAN and the test split. "
            f"Got detector {detector!r} and split {like.split!r} instead."
        )


def _check_latent(detector: str, like: Cell, settings: Mapping[str, Setting]) -> None:
    """Raise `InputError` if the protocol needs a latent critic and there is none."""
    if like.protocol == "released" and settings.get("latent") == "none":
        raise InputError(
            f"The released protocol needs the latent critic of {detector}. Got latent='none'."
        )


def _one_of(parameter: str, value: str, allowed: Any) -> None:
    """Raise `InputError` if `value` is not in `allowed`."""
    if value not in allowed:
        raise InputError(
            f"The '{parameter}' parameter must be one of {', '.join(allowed)}. "
            f"Got {value!r} instead."
        )
