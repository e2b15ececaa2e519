"""``adcgan data``: named data sets, and the cache of decoded images."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adcgan.cli import options
from adcgan.cli.inputs import load_path, refuse_skipped
from adcgan.cli.terminal import print_json, print_table, say
from adcgan.errors import StorageError

if TYPE_CHECKING:
    from adcgan.data import ImageSet, Listing

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")


@app.callback()
def _data() -> None:
    """List the data sets known by name, and decode images ahead of time."""


@app.command("list", epilog="Example: adcgan data list")
def list_named(json: options.Json = False) -> None:
    """List the named data sets."""
    from adcgan.data import DATASETS, FOLDER_SETS
    from adcgan.data.layouts import GOOD

    rows: list[dict[str, Any]] = []
    folder = os.environ.get("ADCGAN_DATA")
    for entry in DATASETS.values():
        here = None
        if entry.hub_id is not None and folder:
            here = (Path(folder) / entry.hub_id).is_dir()
        rows.append(
            {
                "name": entry.name,
                "image_size": entry.size,
                "channels": entry.channels,
                "n_classes": len(entry.class_names),
                "class_names": list(entry.class_names),
                "from": entry.hub_id or "scikit-learn",
                "in_adcgan_data": here,
            }
        )
    for name, defects in FOLDER_SETS.items():
        rows.append(
            {
                "name": name,
                "image_size": None,
                "channels": None,
                "n_classes": 1 + len(defects),
                "class_names": [GOOD, *defects],
                "from": f"$ADCGAN_DATA/{name}",
                "in_adcgan_data": (Path(folder) / name).is_dir() if folder else None,
            }
        )
    if json:
        print_json(rows)
        return
    print_table(
        ["name", "pixels", "classes", "from", "in $ADCGAN_DATA"],
        [
            [
                row["name"],
                _pixels(row),
                str(row["n_classes"]),
                row["from"],
                {True: "yes", False: "no", None: "-"}[row["in_adcgan_data"]],
            ]
            for row in rows
        ],
    )


def _pixels(row: dict[str, Any]) -> str:
    """Return the size of a set's images, for people."""
    if row["image_size"] is None:
        return "photographs"
    return f"{row['image_size']}×{row['image_size']}{' RGB' if row['channels'] == 3 else ''}"


@app.command(
    epilog="Examples: adcgan data prepare photos/normal --image-size 128\n\n"
    "adcgan data prepare cats-vs-dogs"
)
def prepare(
    data: Annotated[
        str, typer.Argument(help="A folder of images, a manifest, or a named set (all splits).")
    ],
    image_size: Annotated[
        int | None, typer.Option(help="Resize images to this height and width.")
    ] = None,
    resize: Annotated[str, typer.Option(help="squash, crop, pad or keep.")] = "squash",
    strict: options.Strict = False,
    json: options.Json = False,
) -> None:
    """Decode images into the cache ($ADCGAN_CACHE), so that later commands start at once.

    Of a folder with train/good/ and test/ in it, or of several such folders, the training and the
    test images are decoded, and the masks left out.
    """
    from adcgan.data.cache import CacheWarning
    from adcgan.report.wording import counted, printable

    try:
        with warnings.catch_warnings():
            # Elsewhere the images can be used all the same.
            warnings.simplefilter("error", CacheWarning)
            sets = _loaded(data, image_size, resize, strict)
    except CacheWarning as warning:
        raise StorageError(str(warning)) from None
    result = [
        {
            "data": images.source,
            "n_images": len(images),
            "shape": list(images.shape),
            "skipped": [{"name": item.name, "error": item.error} for item in images.skipped],
        }
        for images in sets
    ]
    if json:
        print_json(result)
        return
    for images in sets:
        _, height, width = images.shape
        typer.echo(
            f"{printable(images.source)}: {counted(len(images), 'image')} of {height}×{width} "
            f"pixels, {len(images.skipped):,} skipped"
        )
        for item in images.skipped:
            say(f"skipped {printable(item.name)}: {printable(item.error)}")


def _loaded(data: str, image_size: int | None, resize: str, strict: bool) -> list[ImageSet]:
    """Return the parts of a folder or a named set."""
    from adcgan.data import DATASETS, load_named
    from adcgan.data.layouts import part_listings

    if data in DATASETS:
        sets = [load_named(data, split, image_size=image_size) for split in ("train", "test")]
        for images in sets:
            refuse_skipped(images, strict)
        return sets
    parts: list[str | Listing] = [*part_listings(data)] or [data]
    return [load_path(part, image_size=image_size, resize=resize, strict=strict) for part in parts]
