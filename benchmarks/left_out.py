"""With nine classes normal: does a detector notice that a class is new?

Its AUROC alone cannot tell, for some classes look odd to any score (results/notes/adcgan-ss-
design.md). So the images of a class are judged twice against held-out images of other classes: by a
detector that learnt without the class, and by one that learnt with it and without another. The
difference of the two AUROCs is the gain. All on development splits. First train, then judge:

    adcgan benchmark --dataset cifar10 --scheme all-vs-one --detectors adcgan-ss,pixel-knn \
        --classes 0,1 --seeds 0 --split development --keep-models --out R
    python benchmarks/left_out.py R --out FILE.jsonl
    python benchmarks/left_out.py --table FILE.jsonl

Several folders may be given. There is a line for each pair of the classes that they have models of,
in both orders.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, permutations
from pathlib import Path
from typing import Any

import numpy as np
from circumstances import circumstances
from numpy.typing import NDArray

from adcgan import load, load_named
from adcgan.benchmark.metrics import auroc
from adcgan.benchmark.protocol import development_partition
from adcgan.benchmark.rows import latest, read_rows
from adcgan.detectors import Detector

# Detectors that differ in the class left out alone are compared.
KIND = ("dataset", "detector", "settings", "seed", "max_train")


@dataclass(frozen=True)
class Judgement:
    """What the detector that learnt without `left_out` says of its development split's images.

    Attributes
    ----------
    left_out : int
        A class.
    classes : ndarray of int64 (m,)
        The judged images' classes.
    scores : dict
        "score" and each component to float64 (m,); higher is more anomalous.
    """

    left_out: int
    classes: NDArray[np.int64]
    scores: dict[str, NDArray[np.float64]]

    def against_others(self, class_: int, other: int) -> dict[str, float]:
        """Return the AUROCs in percent of `class_` against all classes but these two."""
        kept = (self.classes == class_) | ~np.isin(self.classes, (class_, other))
        labels = (self.classes[kept] == class_).astype(np.int64)
        return {name: 100 * auroc(labels, values[kept]) for name, values in self.scores.items()}

    def count(self, class_: int) -> int:
        """Return how many images of `class_` were judged."""
        return int((self.classes == class_).sum())


def judge(row: dict[str, Any], folder: Path) -> Judgement:
    """Score what the development split of a cell holds out, by the model kept in `folder`."""
    detector = load(folder / "cells" / row["key"])
    assert isinstance(detector, Detector)
    images = load_named(row["dataset"], "train", image_size=detector.image_size)
    assert images.labels is not None
    part = development_partition(images.labels, scheme="all-vs-one", class_=row["class"])
    held_out = images.select(part.evaluation)
    scores = {"score": detector.decision_function(held_out)}
    scores |= detector.score_components(held_out)
    return Judgement(row["class"], images.labels[part.evaluation], scores)


def compare(judgements: list[Judgement]) -> Iterator[dict[str, Any]]:
    """Yield, for each ordered pair of classes, the first one's AUROCs left out and normal."""
    for new, old in permutations(judgements, 2):
        class_, other = new.left_out, old.left_out
        yield {
            "class": class_,
            "other": other,
            "left_out": new.against_others(class_, other),
            "normal": old.against_others(class_, other),
            "n": {"left_out": new.count(class_), "normal": old.count(class_)},
        }


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table: means over the other classes, then over all pairs."""
    head = [*KIND, "class", "scores", "left out", "normal", "gain"]
    lines = [head, ["---"] * len(head)]
    for _, group in groupby(rows, kind_of):
        found = list(group)
        kind = [str(found[0][key]) for key in KIND]
        classes = sorted({row["class"] for row in found})
        places = {str(c): [row for row in found if row["class"] == c] for c in classes}
        for place, some in (places | {"mean": found}).items():
            for name in found[0]["normal"]:
                new, old = (np.mean([r[k][name] for r in some]) for k in ("left_out", "normal"))
                figures = [f"{figure:.1f}" for figure in (new, old, new - old)]
                lines.append([*kind, place, name, *figures])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def kind_of(row: dict[str, Any]) -> str:
    """Return what the detectors of comparable rows have in common, as text."""
    return json.dumps([row[key] for key in KIND])


def main() -> None:
    """Judge the models of a sweep and append rows to a file, or print a file as a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweeps", nargs="*", type=Path, metavar="R", help="folders of sweeps")
    parser.add_argument("--out", type=Path, help="a file that rows are appended to")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the rows of FILE")
    asked = parser.parse_args()
    if asked.table:
        print(table([json.loads(line) for line in asked.table.read_text().splitlines()]))
        return
    folders = {row["key"]: folder for folder in asked.sweeps for row in read_rows(folder)}
    cells = [
        row
        for row in latest(row for folder in asked.sweeps for row in read_rows(folder))
        if row["error"] is None and (row["split"], row["scheme"]) == ("development", "all-vs-one")
    ]
    if not cells:
        parser.error("give folders with rows of --split development and --scheme all-vs-one")
    for kind, group in groupby(sorted(cells, key=kind_of), kind_of):
        found = sorted(group, key=lambda row: row["class"])
        if len(found) < 2:
            parser.error(f"give two classes at least of {kind}")
        judgements = [judge(row, folders[row["key"]]) for row in found]
        trained = {"trained_at": sorted({row["commit"] for row in found})}
        told = {key: found[0][key] for key in KIND}
        rows = [told | pair | trained | circumstances() for pair in compare(judgements)]
        print(table(rows), flush=True)
        if asked.out:
            with asked.out.open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    main()
