from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adcgan.data import ImageSet, folder, load_images
from adcgan.data.cache import cache_folder
from adcgan.progress import silent


@pytest.fixture
def entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ADCGAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for i in range(20):
        Image.new("L", (20, 20), i).save(tmp_path / "photos" / f"{i:02}.png")
    (tmp_path / "photos" / "notes.txt").write_text("not an image")
    return tmp_path / "photos"


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were decoded."""
    calls: list[str] = []
    really: Callable[..., object] = folder.decode_file

    def counting(path: str, *arguments: object) -> object:
        calls.append(os.path.basename(path))
        return really(path, *arguments)

    monkeypatch.setattr(folder, "decode_file", counting)
    return calls


def load(path: Path, **options: object) -> ImageSet:
    return load_images(path, image_size=16, cache=True, progress=silent, **options)  # type: ignore[arg-type]


def same(a: ImageSet, b: ImageSet) -> bool:
    return (
        np.array_equal(a.images, b.images)
        and a.names == b.names
        and a.positions.tolist() == b.positions.tolist()
        and [vars(x) for x in a.skipped] == [vars(x) for x in b.skipped]
    )


def test_second_load_decodes_nothing(entries: Path, photos: Path, decodings: list[str]) -> None:
    first = load(photos)
    assert len(decodings) == 21
    second = load(photos)
    assert len(decodings) == 21
    assert same(first, second)
    assert same(first, load_images(photos, image_size=16))
    assert [item.name for item in second.skipped] == ["notes.txt"]
    assert sorted(path.suffix for path in entries.iterdir()) == [".json", ".pixels"]


def test_without_cache_nothing_is_kept(entries: Path, photos: Path) -> None:
    load_images(photos)
    assert not entries.exists()


@pytest.mark.parametrize("change", ["content", "name", "size", "resize", "channels"])
def test_any_change_is_a_new_entry(
    entries: Path, photos: Path, decodings: list[str], change: str
) -> None:
    load(photos)
    options: dict[str, object] = {}
    if change == "content":
        Image.new("L", (20, 20), 99).save(photos / "03.png")
    elif change == "name":
        (photos / "03.png").rename(photos / "03b.png")
    else:
        options = {"size": {"image_size": 32}, "resize": {"resize": "crop"}}.get(
            change, {"channels": 3}
        )  # type: ignore[assignment]
    found = load_images(photos, **{"image_size": 16, "cache": True, **options})  # type: ignore[arg-type]
    assert len(decodings) == 42
    assert len(list(entries.glob("*.json"))) == 2
    assert same(found, load_images(photos, **{"image_size": 16, **options}))  # type: ignore[arg-type]


def test_content_and_not_place_or_time_is_the_key(
    entries: Path, photos: Path, decodings: list[str]
) -> None:
    load(photos)
    moved = photos.rename(photos.parent / "moved")
    os.utime(moved / "03.png", (1, 1))
    load(moved)
    assert len(decodings) == 21
    assert entries.exists()


def damage_pixels(entries: Path) -> None:
    (path,) = entries.glob("*.pixels")
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


def truncate_pixels(entries: Path) -> None:
    (path,) = entries.glob("*.pixels")
    path.write_bytes(path.read_bytes()[:-1])


def remove_pixels(entries: Path) -> None:
    (path,) = entries.glob("*.pixels")
    path.unlink()


def remove_record(entries: Path) -> None:
    (path,) = entries.glob("*.json")
    path.unlink()


def truncate_record(entries: Path) -> None:
    (path,) = entries.glob("*.json")
    path.write_text(path.read_text()[:-5])


def empty_record(entries: Path) -> None:
    (path,) = entries.glob("*.json")
    path.write_text("{}")


def flat_record(entries: Path) -> None:
    (path,) = entries.glob("*.json")
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "sides": [20 * 16 * 16]}))


@pytest.mark.parametrize(
    "damage",
    [
        damage_pixels,
        truncate_pixels,
        remove_pixels,
        remove_record,
        truncate_record,
        empty_record,
        flat_record,
    ],
)
def test_broken_entries_are_built_again(
    entries: Path, photos: Path, decodings: list[str], damage: Callable[[Path], None]
) -> None:
    load(photos)
    damage(entries)
    assert same(load(photos), load_images(photos, image_size=16))
    assert len(decodings) == 3 * 21
    load(photos)
    assert len(decodings) == 3 * 21


def test_interrupted_decoding_leaves_nothing(entries: Path, photos: Path) -> None:
    class Interrupting:
        def start(self, description: str, total: int) -> None:
            self.armed = description.startswith("Reading") and total > 0

        def advance(self, n: int = 1, **figures: float) -> None:
            if self.armed and n and not figures:
                raise KeyboardInterrupt

        def finish(self) -> None: ...

    with pytest.raises(KeyboardInterrupt):
        load_images(photos, cache=True, progress=Interrupting())
    assert list(entries.iterdir()) == []


def test_files_that_change_while_they_are_decoded_are_not_kept(
    entries: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = folder.decode_file

    def changing(path: str, *arguments: object) -> object:
        Image.new("L", (21, 21), 200).save(photos / "19.png")
        return really(path, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(folder, "decode_file", changing)
    load(photos)
    assert list(entries.iterdir()) == []


def test_processes_may_build_the_same_entry_at_once(entries: Path, photos: Path) -> None:
    expected = int(load_images(photos, image_size=16).images.sum())
    script = (
        "import sys, time; from adcgan import load_images; "
        "time.sleep(max(0, float(sys.argv[2]) - time.time())); "
        "print(load_images(sys.argv[1], image_size=16, cache=True).images.sum())"
    )
    command = [sys.executable, "-c", script, str(photos), str(time.time() + 2)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    sums = [int(process.communicate(timeout=60)[0]) for process in running]
    assert sums == [expected] * 3
    assert sorted(path.suffix for path in entries.iterdir()) == [".json", ".pixels"]


def test_unwritable_cache_is_a_warning_and_no_error(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("ADCGAN_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(UserWarning, match=r"cannot be written .*ADCGAN_CACHE"):
        found = load(photos)
    assert len(found) == 20


def test_leftovers_of_killed_processes_are_removed_after_a_day(entries: Path, photos: Path) -> None:
    entries.mkdir()
    (entries / "old.tmp").write_bytes(b"x")
    os.utime(entries / "old.tmp", (1, 1))
    (entries / "new.tmp").write_bytes(b"x")
    load(photos)
    assert [path.name for path in entries.glob("*.tmp")] == ["new.tmp"]


def test_unreadable_folders_are_not_kept(entries: Path, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_bytes(b"")
    with pytest.raises(ValueError, match="cannot be read"):
        load(tmp_path / "bad")
    assert list(entries.iterdir()) == []


def test_strict_looks_at_kept_entries_too(entries: Path, photos: Path) -> None:
    load(photos)
    assert entries.exists()
    with pytest.raises(ValueError, match=r"notes\.txt"):
        load(photos, strict=True)


def test_cache_folder_follows_the_platform(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ADCGAN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "adcgan"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "adcgan"
