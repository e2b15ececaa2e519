"""A cell of the benchmark: one detector, trained once, on one class or category of one set."""

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

# What a cell says itself, or what is no part of a result.
_NO_SETTINGS = {"random_state": "seeds", "device": "device"}


@dataclass(frozen=True)
class Cell:
    """All that decides one row of results, apart from the code and the machine.

    Parameters
    ----------
    dataset : str
        A name in `adcgan.DATASETS`, or that of the folder that `category` is of.
    scheme : {"one-vs-all", "all-vs-one", "defects"}
        Whether `class_` is the one normal or the one anomalous class; "defects" with `category`.
    class_ : int or None
        The class's number; None with `category`.
    detector : str
        A name in `adcgan.DETECTORS`.
    settings : tuple of (str, value)
        Constructor parameters that differ from the protocol's, sorted by name.
    seed : int
        The detector's ``random_state``; draws the training images too where `max_train` is given.
    protocol : {"paper", "released"}
        The honest protocol, or the release's, which leaks labels.
    split : {"test", "development"}
        What the detector is judged on.
    max_train : int or None
        Most images given to ``fit``.
    epochs : int or None
        The detector's ``epochs`` where it differs from the protocol's.
    category : Category or None
        The photographs, where the set has no classes.
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
        """A name for the cell that is the same on every machine and usable as a file name."""
        text = json.dumps(self.identity(), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        dataset, class_ = _plain(self.dataset), _plain(str(self.identity()["class"]))
        return f"{dataset}-{self.scheme}-{class_}-{self.detector}-{self.seed}-{digest}"

    @property
    def class_name(self) -> str:
        """What people call the class or the category."""
        if self.category is not None:
            return self.category.name
        assert self.class_ is not None
        return DATASETS[self.dataset].class_names[self.class_]

    def identity(self) -> dict[str, Any]:
        """Return what decides the row, JSON-ready, by the names that rows use.

        A category is the ``class`` of its rows, and ``images`` says which files it had.
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
        """Return every constructor parameter that differs from the protocol's."""
        epochs = {} if self.epochs is None else {"epochs": self.epochs}
        return dict(sorted((dict(self.settings) | epochs).items()))


def make_detector(cell: Cell, device: str = "auto") -> Detector:
    """Return the untrained detector of a cell.

    Parameters
    ----------
    cell : Cell
        Which one.
    device : str, default="auto"
        Where it computes.
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
    """Return the cells of a sweep, all classes of a seed before the next seed.

    Parameters
    ----------
    dataset, scheme, protocol, split, max_train
        As in `Cell`.
    classes : sequence of int or None
        Which classes to single out, one cell each; None for every class.
    detectors : mapping of str to mapping
        For each detector by name, the parameters to set. What equals the protocol's own value
        is dropped, so that a cell has one key however it was asked for.
    seeds : sequence of int
        One cell each.
    epochs : int or None
        For every detector that has epochs.

    Raises
    ------
    InputError
        A name, a class or a parameter is not as described.
    """
    _one_of("dataset", dataset, DATASETS)
    _one_of("scheme", scheme, SCHEMES)
    _one_of("protocol", protocol, PROTOCOLS)
    _one_of("split", split, SPLITS)
    n_classes = len(DATASETS[dataset].class_names)
    for class_ in classes or ():
        if not 0 <= class_ < n_classes:
            raise InputError(
                f"The 'classes' parameter must hold numbers from 0 to {n_classes - 1} for "
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
    """Return the cells of a sweep over folders, all categories of a seed before the next seed.

    Parameters
    ----------
    categories : sequence of Category
        As `adcgan.benchmark.categories.find_categories` returns them; one cell each.
    detectors, seeds, max_train, epochs
        As for `plan`. What equals the detector's default is dropped.

    Raises
    ------
    InputError
        A name or a parameter is not as described.
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
    """Refuse to learn from nothing."""
    if max_train is not None and max_train < 1:
        raise InputError(f"The 'max_train' parameter must be at least 1. Got {max_train} instead.")


def _plain(name: str) -> str:
    """Return what of a name can be part of a file's name everywhere."""
    return re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)[:40]


def _changed(
    like: Cell, detectors: Mapping[str, Mapping[str, Setting]], epochs: int | None
) -> dict[str, tuple[tuple[tuple[str, Setting], ...], int | None]]:
    """Return, by detector, the settings and the epochs that differ from the protocol's."""
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
                    f"The 'epochs' parameter and the setting 'epochs' of {name} say the same "
                    "thing; give one of them."
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
    """Refuse parameters that are unknown, not the user's to set here, or out of range."""
    for key in asked:
        if key in _NO_SETTINGS:
            raise InputError(
                f"The {key!r} parameter of {name} must not be among the settings: the "
                f"benchmark's {_NO_SETTINGS[key]!r} decides it."
            )
        if key not in usual:
            raise InputError(f"{name} has no parameter {key!r}. It has {', '.join(sorted(usual))}.")
    DETECTORS[name](**{**usual, **asked}).check_parameters()


def _check_protocol(detector: str, like: Cell) -> None:
    """Refuse the released protocol where the release has none."""
    if like.protocol == "released" and (detector != "adcgan" or like.split != "test"):
        raise InputError(
            "The released protocol is AD-CGAN's and on the test split. "
            f"Got detector {detector!r} and split {like.split!r} instead."
        )


def _check_latent(detector: str, like: Cell, settings: Mapping[str, Setting]) -> None:
    """Refuse a model without latent critic where the protocol needs it."""
    if like.protocol == "released" and settings.get("latent") == "none":
        raise InputError(
            f"The released protocol needs the latent critic of {detector}. Got latent='none'."
        )


def _one_of(parameter: str, value: str, allowed: Any) -> None:
    """Refuse a name that is not in `allowed`."""
    if value not in allowed:
        raise InputError(
            f"The '{parameter}' parameter must be one of {', '.join(allowed)}. "
            f"Got {value!r} instead."
        )
