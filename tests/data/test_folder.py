from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adcgan.data import load_images
from adcgan.errors import InputError


def save(path: Path, value: int | tuple[int, int, int] = 0, kind: str = "PNG") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L" if isinstance(value, int) else "RGB", (20, 20), value).save(path, kind)
    return path


def truncated(path: Path) -> Path:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8))
    noise.save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


def test_nested_files_are_read_in_order_of_their_paths(tmp_path: Path) -> None:
    for value, name in enumerate(["a.png", "b/c.png", "b/d/e.png", "f.png"]):
        save(tmp_path / name, value)
    found = load_images(tmp_path)
    assert found.names == ["a.png", "b/c.png", "b/d/e.png", "f.png"]
    assert found.images.shape == (4, 1, 64, 64)
    assert found.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert found.positions.tolist() == [0, 1, 2, 3]
    assert found.resized
    assert found.labels is None
    assert found.source == str(tmp_path)


def test_what_cannot_be_read_is_accounted_for(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "a.png", 1)
    truncated(tmp_path / "b.jpg")
    truncated(tmp_path / "c.png")
    truncated(tmp_path / "d.tif")
    (tmp_path / "e.png").write_bytes(b"")
    (tmp_path / "f.jpg").write_text("not a picture")
    (tmp_path / "g.txt").write_text("notes\n")
    Image.new("F", (20, 20)).save(tmp_path / "h.tif")
    save(tmp_path / "i.png", 2)
    found = load_images(tmp_path)
    assert found.names == ["a.png", "i.png"]
    assert found.positions.tolist() == [0, 8]
    assert found.images[:, 0, 0, 0].tolist() == [1, 2]
    assert [item.name for item in found.skipped] == [
        "b.jpg", "c.png", "d.tif", "e.png", "f.jpg", "g.txt", "h.tif",
    ]  # fmt: skip
    assert [item.position for item in found.skipped] == list(range(1, 8))
    assert found.n_items == 9
    errors = {item.name: item.error for item in found.skipped}
    assert errors["e.png"] == "the file is empty"
    assert errors["f.jpg"] == errors["g.txt"] == "not an image in a format that can be read"
    assert "mode F" in errors["h.tif"]
    assert all(error and "\n" not in error and "0x" not in error for error in errors.values())
    assert capfd.readouterr() == ("", "")


def test_damaged_files_never_break_the_loader(tmp_path: Path) -> None:
    draw = random.Random(0)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    save(tmp_path / "good.png", 1)
    for kind in ("jpg", "png", "gif", "tif", "bmp", "webp", "ppm"):
        path = tmp_path / f"whole.{kind}"
        Image.fromarray(pixels).save(path)
        content = path.read_bytes()
        for i in range(20):
            damaged = bytearray(content)
            for _ in range(8):
                damaged[draw.randrange(min(len(damaged), 200))] = draw.randrange(256)
            (tmp_path / f"{i}.{kind}").write_bytes(damaged)
    found = load_images(tmp_path, image_size=16)
    assert found.n_items == 7 * 21 + 1
    assert found.skipped


def test_content_and_not_the_name_decides_the_format(tmp_path: Path) -> None:
    save(tmp_path / "photo.jpg", 77, "PNG")
    save(tmp_path / "no-ending", 78, "PNG")
    assert load_images(tmp_path).images[:, 0, 0, 0].tolist() == [78, 77]


def test_strict_names_the_first_unreadable_file_and_counts_all(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    (tmp_path / "c.png").write_bytes(b"?")
    with pytest.raises(InputError, match=r"2 of 3 .* the first is 'b\.png': the file is empty"):
        load_images(tmp_path, strict=True)


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no file"):
        load_images(tmp_path)


def test_folder_without_a_readable_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("nothing here")
    with pytest.raises(InputError, match="1 of 1 images"):
        load_images(tmp_path)


def test_missing_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'.*nowhere' does not exist"):
        load_images(tmp_path / "nowhere")
    with pytest.raises(InputError, match="does not exist"):
        load_images(tmp_path / "nowhere.npy")
    with pytest.raises(InputError, match="does not exist"):
        load_images("nul\0.png")


def test_name_of_a_data_set_as_path_is_pointed_out() -> None:
    with pytest.raises(InputError, match="use load_named"):
        load_images("mnist")


def test_single_image_file_is_read(tmp_path: Path) -> None:
    found = load_images(str(save(tmp_path / "one.png", 9)))
    assert found.names == ["one.png"]
    assert found.images.shape == (1, 1, 64, 64)


def test_single_unreadable_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(b"")
    with pytest.raises(InputError, match="the file is empty"):
        load_images(tmp_path / "one.png")


def test_hidden_files_and_folders_are_left_out(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    save(tmp_path / ".b.png")
    save(tmp_path / ".git" / "c.png")
    found = load_images(tmp_path)
    assert found.names == ["a.png"]
    assert found.n_items == 1


def test_links_that_loop_neither_hang_nor_duplicate(tmp_path: Path) -> None:
    save(tmp_path / "z" / "a.png")
    (tmp_path / "z" / "up").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path / "z")
    (tmp_path / "self").symlink_to(tmp_path / "self")
    found = load_images(tmp_path)
    assert found.names == ["z/a.png"]
    assert [item.name for item in found.skipped] == ["self"]
    assert found.skipped[0].error.startswith("broken link")


def test_links_to_folders_and_files_outside_are_followed(tmp_path: Path) -> None:
    save(tmp_path / "other" / "a.png", 1)
    save(tmp_path / "b.png", 2)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "other")
    (tmp_path / "in" / "again").symlink_to(tmp_path / "other")
    (tmp_path / "in" / "b.png").symlink_to(tmp_path / "b.png")
    assert load_images(tmp_path / "in").names == ["again/a.png", "b.png"]


def test_broken_links_are_skipped(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    (skipped,) = load_images(tmp_path).skipped
    assert (skipped.position, skipped.name) == (1, "b.png")
    assert skipped.error.startswith("broken link")


def test_pipes_are_skipped_without_waiting(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    os.mkfifo(tmp_path / "b.png")
    (skipped,) = load_images(tmp_path, cache=True).skipped
    assert skipped.error == "not a regular file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_and_folders_without_permission_are_skipped(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    save(tmp_path / "b.png").chmod(0)
    save(tmp_path / "c" / "d.png").parent.chmod(0)
    found = load_images(tmp_path, cache=True)
    (tmp_path / "c").chmod(0o700)
    assert [(item.name, item.error) for item in found.skipped] == [
        ("b.png", "Permission denied"),
        ("c", "Permission denied"),
    ]


def test_permission_errors_become_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "a.png")
    refused = str(save(tmp_path / "b.png"))
    really_open = Image.open

    def refusing_open(file: object, **options: object) -> Image.Image:
        if file == refused:
            raise PermissionError(13, "Permission denied", refused)
        return really_open(file, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Image, "open", refusing_open)
    (skipped,) = load_images(tmp_path).skipped
    assert (skipped.name, skipped.error) == ("b.png", "Permission denied")


def test_decompression_bombs_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "a.png")
    for side in (25, 40):
        Image.new("L", (side, side)).save(tmp_path / f"{side}.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    found = load_images(tmp_path)
    assert found.names == ["a.png"]
    assert all("decompression bomb" in item.error for item in found.skipped)
    assert len(found.skipped) == 2


def test_odd_file_names_are_read(tmp_path: Path) -> None:
    for name in ["with space.png", "line\nbreak.png", "ünïcode-画像.png", "quote'\".png"]:
        save(tmp_path / name)
    raw = os.fsencode(tmp_path) + b"/bytes-\xff.png"
    try:
        os.rename(save(tmp_path / "plain.png"), raw)
    except OSError:
        pytest.skip("the file system takes only text as names")
    found = load_images(tmp_path, cache=True)
    assert not found.skipped
    assert found.names == sorted(found.names)
    assert {"line\nbreak.png", "ünïcode-画像.png", "bytes-\\udcff.png"} < set(found.names)
    "".join(found.names).encode("utf-8")


def test_channels_are_three_as_soon_as_one_readable_image_has_colour(tmp_path: Path) -> None:
    for i in range(40):
        save(tmp_path / f"{i:02}.png", i)
    assert load_images(tmp_path).shape == (1, 64, 64)
    save(tmp_path / "40.png", (1, 2, 3))
    save(tmp_path / "41.png", 41)
    found = load_images(tmp_path)
    assert found.images.shape == (42, 3, 64, 64)
    for i in (0, 1, 2, 39, 41):
        assert np.unique(found.images[i]).tolist() == [i]
    assert found.images[40, :, 0, 0].tolist() == [1, 2, 3]


def test_unreadable_colour_images_do_not_make_a_set_colour(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    truncated(tmp_path / "b.png")
    assert load_images(tmp_path).shape == (1, 64, 64)


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_can_be_forced(tmp_path: Path, channels: int) -> None:
    save(tmp_path / "a.png")
    save(tmp_path / "b.png", (1, 2, 3))
    assert load_images(tmp_path, channels=channels, image_size=16).shape == (channels, 16, 16)


def test_many_pixels_go_to_a_file_that_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    monkeypatch.setattr("adcgan.data.parallel._IN_MEMORY_BYTES", 0)
    for i in range(40):
        save(tmp_path / "in" / f"{i:02}.png", i if i < 39 else (39, 39, 39))
    found = load_images(tmp_path / "in", image_size=16)
    assert isinstance(found.images, np.memmap)
    assert found.images[:, 2, 3, 3].tolist() == list(range(40))
    assert list(scratch.iterdir()) == []


def test_progress_counts_every_input(tmp_path: Path) -> None:
    class Counting:
        started = done = finished = 0

        def start(self, description: str, total: int) -> None:
            assert description
            self.started += total

        def advance(self, n: int = 1, **figures: float) -> None:
            assert not figures
            self.done += n

        def finish(self) -> None:
            self.finished += 1

    for i in range(37):
        save(tmp_path / f"{i}.png")
    (tmp_path / "x").write_bytes(b"")
    progress = Counting()
    load_images(tmp_path, progress=progress)
    assert (progress.started, progress.done, progress.finished) == (38, 38, 1)
