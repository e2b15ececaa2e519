from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from adcgan.data.image_file import Target, decode_file, decode_photograph, quiet_pillow
from adcgan.errors import InputError

SIZE = 16


def saved(image: Image.Image, kind: str, **options: object) -> BytesIO:
    file = BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return file


def decoded(image: Image.Image, kind: str = "PNG", **options: object) -> NDArray[np.uint8]:
    with quiet_pillow():
        return decode_file(saved(image, kind, **options), Target(SIZE))


def ramp() -> NDArray[np.uint8]:
    return np.arange(SIZE * SIZE, dtype=np.uint8).reshape(SIZE, SIZE)


def colours() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def test_grey_pixels_of_the_right_size_are_untouched() -> None:
    np.testing.assert_array_equal(decoded(Image.fromarray(ramp())), ramp()[None])


def test_rgb_pixels_of_the_right_size_are_untouched() -> None:
    pixels = colours()
    np.testing.assert_array_equal(decoded(Image.fromarray(pixels)), pixels.transpose(2, 0, 1))


def test_bilevel_becomes_black_and_white() -> None:
    bits = ramp() > 100
    np.testing.assert_array_equal(decoded(Image.fromarray(bits)), bits[None] * np.uint8(255))


def test_grey_alpha_is_composited_on_white() -> None:
    image = Image.merge("LA", [Image.new("L", (SIZE, SIZE), 0), Image.fromarray(ramp())])
    np.testing.assert_array_equal(decoded(image), 255 - ramp()[None])


def test_colour_alpha_is_composited_on_white() -> None:
    pixels = decoded(Image.new("RGBA", (SIZE, SIZE), (255, 0, 0, 0)))
    np.testing.assert_array_equal(pixels, np.full((3, SIZE, SIZE), 255, np.uint8))


def test_transparent_palette_entry_is_white_and_others_keep_their_colour() -> None:
    image = Image.new("P", (SIZE, SIZE), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((3, 2), 1)
    pixels = decoded(image, transparency=0)
    assert pixels[:, 2, 3].tolist() == [40, 50, 60]
    assert pixels[:, 0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("mode", "hidden", "shape"),
    [("1", 0, (1,)), ("L", 7, (1,)), ("RGB", (7, 7, 7), (3,))],
)
def test_transparent_colour_of_a_png_is_white(
    mode: str, hidden: int | tuple[int, ...], shape: tuple[int]
) -> None:
    pixels = decoded(Image.new(mode, (SIZE, SIZE), hidden), transparency=hidden)
    np.testing.assert_array_equal(pixels, np.full((*shape, SIZE, SIZE), 255, np.uint8))


def test_cmyk_becomes_rgb() -> None:
    pixels = decoded(Image.new("CMYK", (SIZE, SIZE), (0, 255, 255, 0)), "TIFF")
    assert pixels[:, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("value", "expected"), [(0, 0), (128, 0), (129, 1), (257, 1), (32896, 128), (65535, 255)]
)
def test_sixteen_bits_are_scaled_not_clipped(value: int, expected: int) -> None:
    image = Image.fromarray(np.full((SIZE, SIZE), value, np.uint16))
    assert image.mode == "I;16"
    pixels = decoded(image)
    assert pixels.shape == (1, SIZE, SIZE)
    assert np.unique(pixels).tolist() == [expected]


def test_big_endian_sixteen_bits_are_read() -> None:
    image = Image.frombytes("I;16B", (SIZE, SIZE), b"\x80\x80" * SIZE * SIZE)
    assert np.unique(decoded(image, "TIFF")).tolist() == [128]


def test_wide_integers_with_sixteen_bit_values_are_scaled() -> None:
    image = Image.fromarray(np.full((SIZE, SIZE), 65535, np.int32))
    assert image.mode == "I"
    assert np.unique(decoded(image, "TIFF")).tolist() == [255]


@pytest.mark.parametrize("value", [-1, 65536])
def test_wide_integers_beyond_sixteen_bits_are_an_error(value: int) -> None:
    with pytest.raises(ValueError, match=r"0\.\.65535"):
        decoded(Image.fromarray(np.full((SIZE, SIZE), value, np.int32)), "TIFF")


def test_transparent_value_of_a_sixteen_bit_png_is_white() -> None:
    image = Image.fromarray(np.full((SIZE, SIZE), 300, np.uint16))
    assert np.unique(decoded(image, transparency=300)).tolist() == [255]


def test_floating_point_pixels_are_an_error() -> None:
    with pytest.raises(ValueError, match="mode F"):
        decoded(Image.new("F", (SIZE, SIZE), 0.5), "TIFF")


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_first_frame_of_an_animation_is_read(kind: str) -> None:
    frames = [Image.new("RGB", (SIZE, SIZE), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    pixels = decoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert pixels[:, 5, 5].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (1, lambda x: x),
        (2, lambda x: x[:, ::-1]),
        (3, lambda x: x[::-1, ::-1]),
        (4, lambda x: x[::-1]),
        (5, lambda x: x.T),
        (6, lambda x: np.rot90(x, -1)),
        (7, lambda x: x[::-1, ::-1].T),
        (8, lambda x: np.rot90(x)),
    ],
)
def test_exif_orientation_is_applied_once(kind: str, orientation: int, expected) -> None:  # type: ignore[no-untyped-def]
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = decoded(Image.fromarray(ramp()), kind, exif=exif)
    np.testing.assert_array_equal(pixels[0], expected(ramp()))


def test_exif_orientation_is_applied_before_cropping() -> None:
    # Stored lying, 64 wide and 32 high; upright its black half is at the top.
    stored = np.zeros((32, 64), np.uint8)
    stored[:, 32:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    file = saved(Image.fromarray(stored), "JPEG", quality=95, exif=exif)
    pixels = decode_file(file, Target(SIZE, "crop"))[0]
    assert pixels[: SIZE // 2 - 1].max() < 20
    assert pixels[SIZE // 2 + 1 :].min() > 235


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize(
    ("orientation", "size"), [(1, (801, 600)), (3, (801, 600)), (6, (600, 801))]
)
def test_the_size_of_the_upright_photograph_is_told(
    kind: str, orientation: int, size: tuple[int, int]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = saved(Image.new("L", (801, 600)), kind, exif=exif)
    pixels, told = decode_photograph(file, Target(SIZE))
    assert told == size
    assert pixels.shape == (1, SIZE, SIZE)


def test_broken_exif_does_not_cost_the_image() -> None:
    pixels = decoded(Image.fromarray(ramp()), exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xffrubbish")
    np.testing.assert_array_equal(pixels, ramp()[None])


def test_squash_keeps_the_whole_image() -> None:
    wide = Image.new("L", (64, 32), 0)
    wide.paste(200, (32, 0, 64, 32))
    pixels = decode_file(saved(wide, "PNG"), Target(SIZE, "squash"))[0]
    assert pixels[:, :6].max() <= 2
    assert np.abs(pixels[:, 10:].astype(int) - 200).max() <= 2


def test_crop_keeps_the_centre() -> None:
    wide = Image.new("L", (64, 32), 0)
    wide.paste(200, (16, 0, 48, 32))
    pixels = decode_file(saved(wide, "PNG"), Target(SIZE, "crop"))[0]
    assert np.unique(pixels).tolist() == [200]


def test_pad_adds_black_bars_on_both_sides() -> None:
    tall = Image.new("RGB", (32, 64), (200, 200, 200))
    pixels = decode_file(saved(tall, "PNG"), Target(SIZE, "pad"))
    assert np.unique(pixels[:, :, 4:12]).tolist() == [200]
    assert np.unique(pixels[:, :, :4]).tolist() == [0]
    assert np.unique(pixels[:, :, 12:]).tolist() == [0]


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (17, 300)])
def test_any_shape_is_fitted(resize: str, shape: tuple[int, int]) -> None:
    image = Image.new("L", shape, 90)
    for kind in ("PNG", "JPEG"):
        assert decode_file(saved(image, kind), Target(SIZE, resize)).shape == (1, SIZE, SIZE)


def test_shrinking_averages_fine_detail() -> None:
    stripes = np.zeros((512, 512), np.uint8)
    stripes[:, ::2] = 255
    pixels = decode_file(saved(Image.fromarray(stripes), "PNG"), Target(SIZE))[0]
    assert pixels.min() >= 120
    assert pixels.max() <= 135


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
def test_fast_jpeg_decoding_is_close_to_slow(resize: str) -> None:
    y, x = np.mgrid[0:600, 0:800]
    wave = (127 + 60 * np.sin(x / 90) + 60 * np.cos(y / 70)).astype(np.uint8)
    file = saved(Image.fromarray(wave), "JPEG", quality=95)
    exact = decode_file(saved(Image.fromarray(wave), "PNG"), Target(SIZE, resize)).astype(int)
    assert np.abs(decode_file(file, Target(SIZE, resize)) - exact).max() <= 3


def test_channels_are_converted() -> None:
    red = Image.new("RGB", (SIZE, SIZE), (255, 0, 0))
    grey = Image.new("L", (SIZE, SIZE), 50)
    assert np.unique(decode_file(saved(red, "PNG"), Target(SIZE, channels=1))).tolist() == [76]
    pixels = decode_file(saved(grey, "PNG"), Target(SIZE, channels=3))
    assert pixels.shape == (3, SIZE, SIZE)
    assert np.unique(pixels).tolist() == [50]


@pytest.mark.parametrize("factor", [1.5, 3])
def test_decompression_bombs_are_an_error(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    file = saved(Image.new("L", (40, 40)), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(1600 / factor))
    with quiet_pillow(), pytest.raises(Exception, match="decompression bomb"):
        decode_file(file, Target(SIZE))


def test_no_external_program_is_started_for_eps(tmp_path: Path) -> None:
    Image.new("L", (20, 20)).save(tmp_path / "x.eps")
    with pytest.raises(OSError, match="cannot identify"):
        decode_file(str(tmp_path / "x.eps"), Target(SIZE))


def test_no_external_program_is_started_for_eps_inside_another_file() -> None:
    eps = saved(Image.new("L", (20, 20)), "EPS").getvalue()
    side = (20).to_bytes(4, "big")
    # An IPTC file of one layer, compressed as JPEG, which Pillow does not check.
    fields = {60: b"\1\0", 20: side, 30: side, 120: b"\5"}
    head = b"".join(bytes([28, 3, i, 0, len(data)]) + data for i, data in fields.items())
    file = BytesIO(head + bytes([28, 8, 10]) + len(eps).to_bytes(2, "big") + eps)
    with pytest.raises(OSError, match="cannot identify"):
        decode_file(file, Target(SIZE))


def test_quiet_pillow_restores_the_warning_filters() -> None:
    before = list(warnings.filters)
    with quiet_pillow():
        with quiet_pillow():
            warnings.warn("not shown", stacklevel=1)
        warnings.warn("not shown either", stacklevel=1)
    assert list(warnings.filters) == before
    with pytest.warns(UserWarning, match="shown again"):
        warnings.warn("shown again", stacklevel=1)


@pytest.mark.parametrize("size", [15, 257, 32.0, "32", True, -1])
def test_image_size_out_of_bounds_is_refused(size: object) -> None:
    with pytest.raises(InputError, match="'image_size' parameter must be an integer from 16 to"):
        Target(size)  # type: ignore[arg-type]


@pytest.mark.parametrize("channels", [0, 2, 4, "3", True])
def test_other_channel_counts_are_refused(channels: object) -> None:
    with pytest.raises(InputError, match="'channels' parameter must be 1"):
        Target(SIZE, channels=channels)  # type: ignore[arg-type]


def test_unknown_resize_is_refused() -> None:
    with pytest.raises(InputError, match=r"'squash', 'crop', 'pad', 'keep'\. Got 'stretch'"):
        Target(SIZE, "stretch")
