"""The page of a comparison of detectors: which one to take, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from adcgan.data.thumbnails import photograph_uri
from adcgan.report.page import Page, Section, Tile
from adcgan.report.wording import counted, duration, percent, printable, rounded
from adcgan.scoring import images_needed

if TYPE_CHECKING:
    from adcgan.selection import Comparison

# The longer side of an example, in pixels.
_EXAMPLE_SIDE = 320
_ABOUT = {
    "crack": "a dark line that wanders",
    "pits": "a few dark dots",
    "stain": "a soft spot, lighter or darker",
    "scratch": "a thin light line",
    "swirl": "a place that is turned",
    "turned": "by a quarter or a half",
    "squeezed": "too flat or too narrow",
    "bent": "out of shape all over",
}


def comparison_page(found: Comparison) -> Page:
    """Return the page of a comparison.

    Parameters
    ----------
    found : Comparison
        With at least one candidate that was judged.

    Returns
    -------
    Page
        To be given to `adcgan.report.render`.
    """
    best = found.best
    assert best is not None
    plan = found.plan
    images = plan["images"]
    _, height, width = images["shape"]
    tiles = [
        Tile("Detector", best["detector"]),
        Tile("Mean AUROC", f"{found.standing(best):.3f}"),
        Tile("Smallest size found", _pixels(best["smallest"])),
        Tile("False alarms", percent(best["false_alarms"]), _budget(best)),
    ]
    facts = {
        "Images": f"{counted(images['n'], 'normal image')} of {images['source']}, "
        f"{height}×{width} pixels",
        "Learned from": counted(plan["n_learned"], "image"),
        "Judged on": f"the other {counted(plan['n_judged'], 'normal image')}, anomalies made of "
        "each, and " + _own(images["anomalies"]),
        "Hardware": plan["hardware"]["name"],
        "Seed": str(plan["seed"]),
    }
    sections = [
        Section("facts", "What was compared", {"rows": facts}),
        Section("comparison", "Candidates", _candidates(found), "candidates"),
        Section("examples", "What they were judged on", _examples(found)),
        Section("comparison", "Kinds of anomalies", _kinds(found), "kinds"),
        Section("comparison", "Sizes of defects", _sizes(found), "sizes"),
    ]
    return Page(
        title=f"Which detector for {printable(images['source'])}?",
        verdict=found.advice,
        tiles=tiles,
        sections=sections,
        footer=f"Compared {plan['date']} by adcgan {plan['versions']['adcgan']}.",
    )


def overview(found: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows of the table of candidates, the best first."""
    with_own = any(row["own"] is not None for row in found.table)
    columns = ["detector", "defects", "contents", *(["own"] * with_own)]
    columns += ["smallest", "alarms", "fit", "per s"]
    rows = []
    for row in found.table:
        if row["error"] is not None:
            rows.append([row["detector"], *["–"] * (len(columns) - 1)])
            continue
        own = ["–" if row["own"] is None else f"{row['own']:.3f}"] * with_own
        rows.append(
            [
                row["detector"],
                f"{row['defects']:.3f}",
                f"{row['contents']:.3f}",
                *own,
                _pixels(row["smallest"]),
                percent(row["false_alarms"]),
                duration(row["fit_seconds"]),
                rounded(row["images_a_second"]),
            ]
        )
    return columns, rows


def _candidates(found: Comparison) -> dict[str, Any]:
    columns, rows = overview(found)
    notes = [
        "Defects and contents: the mean AUROC over kinds of made defects and of images that show "
        "something else; 0.5 is chance. They are made of held-out normal images and say what a "
        "detector can see, not that your anomalies look like that.",
        "Smallest: the median extent of the smallest of three sizes of made defects of which "
        "at least half score above the threshold.",
        "Alarms: the share of held-out normal images above the threshold, which each model set "
        "by held-out images of its own. Fit: the time to learn. Per s: images scored in a second.",
    ]
    if found.by == "own":
        notes.append(
            "Your own anomalies decide the order. The first of several looks a little better on "
            "them than it is: evaluate it on others."
        )
    else:
        notes.append(f"The column {found.by} decides the order.")
    larger = [
        f"{percent(row['budget'])} for {row['detector']}"
        for row in found.ranking
        if row["budget"] is not None and row["budget"] > found.plan["fpr"]
    ]
    if larger:
        notes.append(
            f"A false-alarm budget of {percent(found.plan['fpr'])} needs "
            f"{counted(images_needed(found.plan['fpr']), 'image')} that a model neither learns "
            f"from nor is judged on. With fewer it is larger: {', '.join(larger)}."
        )
    for row in found.rows:
        if row["error"] is not None:
            notes.append(f"{row['detector']} has no figures: {printable(row['error'])}")
        elif row["steps"] is not None and row["steps"] < 1:
            notes.append(
                f"{row['detector']} was trained for {percent(row['steps'], 0)} of its steps, to "
                "fit the time; 'adcgan fit' takes all of them."
            )
        elif row["n_images"] < found.plan["n_learned"]:
            notes.append(
                f"{row['detector']} learned from {row['n_images']:,} of the "
                f"{found.plan['n_learned']:,} images, to fit the time."
            )
        if row["league"]:
            notes.append(f"{row['detector']}: {row['league']}.")
    return _tables([("Candidates, the best first", columns, rows)], notes)


def _kinds(found: Comparison) -> dict[str, Any]:
    """Return the tables of AUROCs by kind of anomaly, with intervals."""
    groups = {"defects": "Made defects", "contents": "Other contents", "own": "Your own anomalies"}
    ranking = found.ranking
    tables = []
    for group, title in groups.items():
        kinds = list(ranking[0][group])
        if not kinds:
            continue
        columns = ["kind", "images", *(row["detector"] for row in ranking)]
        rows = [
            [
                f"{kind}: {_ABOUT[kind]}" if group != "own" else kind,
                f"{ranking[0][group][kind]['n']:,}",
                *(_with_interval(row[group][kind]) for row in ranking),
            ]
            for kind in kinds
        ]
        tables.append((f"{title}: AUROC and its 95% interval", columns, rows))
    notes = ["Intervals are over the choice of images; another training seed moves AUROCs as well."]
    return _tables(tables, notes)


def _sizes(found: Comparison) -> dict[str, Any]:
    """Return the table of shares caught by size of defect."""
    ranking = found.ranking
    rows = [
        [f"about {size['extent']:.0f} pixels", f"{size['n']:,}"]
        + [percent(row["sizes"][number]["caught"]) for row in ranking]
        for number, size in enumerate(ranking[0]["sizes"])
    ]
    columns = ["size", "images", *(row["detector"] for row in ranking)]
    notes = ["The longer side of the box around what changed, as a median over all kinds."]
    return _tables([("Share of made defects above the threshold", columns, rows)], notes)


def _examples(found: Comparison) -> dict[str, Any]:
    """Return the pictures of what was made of one image, at one size."""
    height, width = next(iter(found.examples.values())).shape[:2]
    scale = _EXAMPLE_SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))

    def shown(image: NDArray[np.uint8]) -> str:
        pixels = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
        way = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
        return photograph_uri(np.asarray(pixels.resize(size, way)).reshape(*size[::-1], -1))

    pictures = [
        {"name": f"{kind}: {_ABOUT[kind]}" if kind in _ABOUT else kind, "uri": shown(image)}
        for kind, image in found.examples.items()
    ]
    return {"pictures": pictures, "width": size[0], "height": size[1]}


def _tables(
    tables: list[tuple[str, list[str], list[list[str]]]], notes: list[str]
) -> dict[str, Any]:
    """Return what the template of comparisons reads."""
    return {
        "warning": "",
        "plots": [],
        "tables": [
            {"anchor": title.split(":")[0].lower().replace(" ", "-"), "title": title}
            | {"columns": columns, "rows": rows}
            for title, columns, rows in tables
        ],
        "notes": notes,
    }


def _with_interval(figures: Mapping[str, Any]) -> str:
    low, high = figures["auroc_ci95"]
    return f"{figures['auroc']:.3f} ({low:.2f}–{high:.2f})"


def _pixels(extent: float | None) -> str:
    return "none" if extent is None else f"{extent:.0f} px"


def _budget(row: Mapping[str, Any]) -> str:
    return "" if row["budget"] is None else f"budget {percent(row['budget'], 2)}"


def _own(n: int) -> str:
    return f"{counted(n, 'anomalous image')} of yours" if n else "no others"
