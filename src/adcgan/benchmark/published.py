"""The figures of the paper's Tables 1, 3 and 4, under this package's names."""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files

# Names in the paper.
DATASET_NAMES = {
    "MNIST": "mnist",
    "FashionMNIST": "fashion-mnist",
    "CIFAR-10": "cifar10",
    "CatsVsDogs": "cats-vs-dogs",
}
METHOD_NAMES = {"ALAD": "alad", "ADGAN": "adgan", "AE-GAN": "aegan", "AD-CGAN": "adcgan"}
_CLASS_NUMBERS = {"cats": "0", "dogs": "1"}

AVERAGE = "average"
# Data set, scheme, subject (class number, "average" or variant of the score), detector.
Subject = tuple[str, str, str, str]


@cache
def published(table: int) -> dict[Subject, float]:
    """Return the AUROCs that the paper reports, in percent.

    Parameters
    ----------
    table : {1, 3, 4}
        Averages over classes (1), all classes by number (3), or AD-CGAN's averages by variant of
        the score (4).

    Returns
    -------
    dict
        Values by data set, scheme, subject (class, "average" or variant) and detector.
    """
    source = files("adcgan.benchmark").joinpath("paper", f"table{table}.csv")
    rows = csv.DictReader(source.read_text(encoding="utf-8").splitlines())
    found: dict[Subject, float] = {}
    for row in rows:
        subject = row.get("class") or row.get("score_variant") or AVERAGE
        if table == 3 and subject == AVERAGE:
            continue  # in Table 1
        key = (
            DATASET_NAMES[row["dataset"]],
            row["scheme"],
            _CLASS_NUMBERS.get(subject, subject),
            METHOD_NAMES[row.get("method") or "AD-CGAN"],
        )
        found[key] = float(row["auroc_percent"])
    return found
