"""Data that says which images are normal, and where defects and their masks are.

Manifests (`adcgan.data.manifest`), and folders in two layouts. The one that industrial sets have::

    train/good/NAME.png
    test/good/NAME.png
    test/DEFECT/NAME.png
    ground_truth/DEFECT/NAME_mask.png    or NAME.png; any image format

and ``normal/`` beside ``anomalous/``. A folder of several such sets holds categories; a model is
for one of them.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path, PurePosixPath

from adcgan.data.classes import ANOMALOUS_FOLDER, NORMAL_FOLDER
from adcgan.data.folder import FoundFile, list_files, valid_name
from adcgan.data.listing import ListedImage, Listing
from adcgan.data.manifest import is_manifest, read_manifest
from adcgan.data.system_files import is_left_out
from adcgan.errors import InputError

GOOD, TRAIN, TEST, GROUND_TRUTH = "good", "train", "test", "ground_truth"
_MASK_ENDING = "_mask"

# Sets known by name that are folders in the industrial layout, in ``$ADCGAN_DATA``, and their types
# of defects. Magnetic-tile: Huang, Qiu and Yuan, "Surface defect saliency of magnetic tile" (2018).
FOLDER_SETS: dict[str, tuple[str, ...]] = {"magnetic-tile": ("blowhole", "break", "crack")}


def set_folder(name: str) -> Path:
    """Return where a set of `FOLDER_SETS` is; `InputError` if it is not in ``$ADCGAN_DATA``."""
    base = os.environ.get("ADCGAN_DATA")
    if not base:
        raise InputError(
            f"The data set {name!r} is read from $ADCGAN_DATA/{name}, but $ADCGAN_DATA is not set."
        )
    folder = Path(base) / name
    if not folder.is_dir():
        raise InputError(
            f"The data set {name!r} must be the folder {str(folder)!r}, which does not exist."
        )
    return folder


def categories(data: str | os.PathLike[str]) -> dict[str, Path]:
    """Return the categories of a set in the industrial layout, each for a model, by name.

    Parameters
    ----------
    data : path
        A folder, or a name of `FOLDER_SETS`.

    Returns
    -------
    dict of str to Path
        The folder itself, if it has ``train/good/`` or ``test/good/``; else, in alphabetical
        order, those folders in it that have ``train/`` or ``test/``. Empty for any other data.
    """
    root = _root(data)
    if _has(root, TRAIN, GOOD) or _has(root, TEST, GOOD):
        return {folder_name(data): root}
    inside = [path for path in _subfolders(root) if _has(path, TRAIN) or _has(path, TEST)]
    return {valid_name(path.name): path for path in inside}


def folder_name(data: str | os.PathLike[str]) -> str:
    """Return a folder's own name, without following links."""
    return valid_name(os.path.basename(os.path.abspath(_root(data))))


def beside_categories(data: str | os.PathLike[str]) -> list[str]:
    """Return the names of the folders beside categories that are no categories."""
    root, found = _root(data), set(categories(data).values())
    if root in found:
        return []
    return [valid_name(path.name) for path in _subfolders(root) if path not in found]


def part_listings(data: str | os.PathLike[str]) -> list[Listing]:
    """Return the training and the test images of every category, none for any other data.

    Missing parts are left out, and so are masks.
    """
    found: list[Listing | None] = []
    for folder in categories(data).values():
        # A set known by name keeps it.
        part = data if data in FOLDER_SETS else folder
        found += [training_listing(part)] if _has(folder, TRAIN, GOOD) else []
        found += [judging_listing(part)] if _has(folder, TEST, GOOD) else []
    return [listing for listing in found if listing is not None]


def training_listing(data: str | os.PathLike[str]) -> Listing | None:
    """Return the normal images of data that says which they are, None for any other.

    Parameters
    ----------
    data : path
        A folder, a name of `FOLDER_SETS`, or a manifest. Of ``train/good/`` its images are
        returned; else, of ``normal/`` beside ``anomalous/``, those; of a manifest, the rows that
        are neither for testing nor labelled as anomalous.

    Returns
    -------
    Listing or None
        Names are relative to the folder.

    Raises
    ------
    InputError
        If there is ``test/good/`` without ``train/good/``, the normal folder is empty, the folder
        holds several categories, or the manifest is wrong or has no such row.
    """
    if is_manifest(data):
        listing = read_manifest(data)
        chosen = listing.train()
        counts = f"{len(chosen.images):,} of {len(listing.images):,} rows"
        rule = "those neither for testing nor labelled as anomalous"
        return replace(
            _not_empty(chosen, rule), note=f"learning from {counts} of {listing.source}: {rule}"
        )
    root = _root(data)
    if _has(root, TRAIN, GOOD):
        inside = f"{TRAIN}/{GOOD}"
    elif _has(root, TEST, GOOD):
        raise InputError(
            f"The folder {str(root)!r} must have {TRAIN}/{GOOD}/ to learn from. It has "
            f"only {TEST}/{GOOD}/: name the folder of normal images itself."
        )
    elif _has(root, NORMAL_FOLDER) and _has(root, ANOMALOUS_FOLDER):
        inside = NORMAL_FOLDER
    else:
        _refuse_several(data, root)
        return None
    images = [ListedImage(file, 0, split=TRAIN) for file in _files(root, inside)]
    source = f"{data} ({TRAIN})" if data in FOLDER_SETS else str(root / inside)
    return Listing(source, images, note=f"learning from {inside}/ of {root} alone")


def judging_listing(data: str | os.PathLike[str]) -> Listing | None:
    """Return the test images of data that says what each is, None for any other.

    Parameters
    ----------
    data : path
        A folder in the industrial layout, a name of `FOLDER_SETS`, or a manifest. ``test/good/``
        is normal, every other folder in ``test/`` a type of defect; of a manifest, the rows that
        are not for training.

    Returns
    -------
    Listing or None
        With labels, types and, where there are files, masks. Names are relative to the folder.
        A file that lies in ``test/`` itself is listed with an error.

    Raises
    ------
    InputError
        If there is ``train/good/`` without ``test/good/``, the folder holds several categories,
        or the manifest is wrong, has no such row or one of them has no label.
    """
    if is_manifest(data):
        listing = read_manifest(data)
        chosen = _not_empty(listing.test(), "those not for training")
        for item in chosen.images:
            if item.label is None:
                raise InputError(
                    f"To evaluate, the manifest {listing.source!r} must have a 'label' in every "
                    f"row. The row of {item.file.name!r} has none."
                )
        counts = f"{len(chosen.images):,} of {len(listing.images):,} rows"
        return replace(chosen, note=f"reading {counts} of {listing.source}: those not for training")
    root = _root(data)
    if not _has(root, TEST, GOOD):
        if _has(root, TRAIN, GOOD):
            raise InputError(
                f"To evaluate, the folder {str(root)!r} must have {TEST}/{GOOD}/ beside "
                f"{TRAIN}/{GOOD}/, and folders of defects in {TEST}/. It has none."
            )
        _refuse_several(data, root)
        return None
    masks = _masks(root)
    images = []
    for file in _files(root, TEST):
        parts = PurePosixPath(file.name).parts
        if len(parts) < 3:
            lost = f"it lies directly in {TEST}/, not in a folder that says what it is"
            images.append(ListedImage(FoundFile(file.name, file.path, file.error or lost)))
            continue
        kind = parts[1]
        anomalous = kind != GOOD
        images.append(
            ListedImage(
                file,
                int(anomalous),
                kind if anomalous else None,
                _mask_of(file.name, masks) if anomalous else None,
                TEST,
            )
        )
    note = f"reading {TEST}/ of {root} alone: {GOOD}/ is normal, its other folders are defects"
    source = f"{data} ({TEST})" if data in FOLDER_SETS else str(root / TEST)
    return Listing(source, images, with_masks=True, note=note)


def anomalous_listing(data: str | os.PathLike[str]) -> Listing | None:
    """Return the anomalous images of data that says which they are, None where it has none.

    Parameters
    ----------
    data : path
        A folder, a name of `FOLDER_SETS`, or a manifest. Of ``test/`` every folder but ``good/``;
        else ``anomalous/`` beside ``normal/``; of a manifest, the rows labelled as anomalous.

    Returns
    -------
    Listing or None
        With types where they are known.
    """
    if is_manifest(data):
        listing = read_manifest(data)
        images = [item for item in listing.images if item.label == 1]
        return replace(listing, images=images) if images else None
    root = _root(data)
    if _has(root, TEST, GOOD):
        judged = judging_listing(data)
        assert judged is not None
        return replace(judged, images=[item for item in judged.images if item.label == 1])
    if _has(root, NORMAL_FOLDER) and _has(root, ANOMALOUS_FOLDER):
        found = list_files(root / ANOMALOUS_FOLDER)
        return Listing(str(root / ANOMALOUS_FOLDER), [ListedImage(file, 1) for file in found])
    return None


def _not_empty(listing: Listing, rule: str) -> Listing:
    """Refuse a manifest with no rows to use."""
    if not listing.images:
        raise InputError(f"The manifest {listing.source!r} must have rows to use: {rule}.")
    return listing


def _root(data: str | os.PathLike[str]) -> Path:
    """Return the folder meant by a path or by a name of `FOLDER_SETS`."""
    return set_folder(str(data)) if data in FOLDER_SETS else Path(data).expanduser()


def _subfolders(root: Path) -> list[Path]:
    """Return the folders in `root`, none where it is no folder or cannot be opened."""
    try:
        with os.scandir(root) as scan:
            found = [item.path for item in scan if item.is_dir() and not is_left_out(item.name)]
    except (OSError, ValueError):
        return []
    return [Path(path) for path in sorted(found)]


def _refuse_several(data: str | os.PathLike[str], root: Path) -> None:
    """Refuse a folder of categories where one is wanted."""
    found = [path for path in _subfolders(root) if _has(path, TRAIN, GOOD)]
    if not found:
        return
    names = [valid_name(path.name) for path in found]
    listed = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    raise InputError(
        f"The folder {valid_name(str(root))!r} holds categories ({listed}), but a model is for "
        f"one: name its folder, such as {valid_name(str(found[0]))!r}. 'adcgan benchmark "
        f"--dataset {valid_name(str(data))}' takes all of them."
    )


def _has(root: Path, *inside: str) -> bool:
    """Say whether there is such a folder in `root`."""
    # os.path, unlike Path, takes a path that cannot be looked at for one that is not there.
    return os.path.isdir(os.path.join(root, *inside))


def _files(root: Path, inside: str) -> list[FoundFile]:
    """List the files of a folder in `root`, by their path relative to `root`."""
    found = list_files(root / inside)
    if not found:
        raise InputError(f"The folder {str(root / inside)!r} must hold images. It holds no file.")
    return [FoundFile(f"{inside}/{file.name}", file.path, file.error) for file in found]


def _masks(root: Path) -> dict[str, str]:
    """Return the paths of all files in ``ground_truth/``, by name without ending."""
    if not _has(root, GROUND_TRUTH):
        return {}
    files = list_files(root / GROUND_TRUTH)
    return {_without_ending(file.name): file.path for file in reversed(files)}


def _mask_of(name: str, masks: dict[str, str]) -> str | None:
    """Return the mask of the image ``test/DEFECT/NAME.png``, None where there is none."""
    stem = _without_ending(name.removeprefix(f"{TEST}/"))
    return masks.get(stem + _MASK_ENDING, masks.get(stem))


def _without_ending(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))
