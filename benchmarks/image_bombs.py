"""Files of a few bytes that are, or say that they are, images of very many pixels.

One for every format that Pillow reads and whose size the file decides; `claims` only says so, in
its head, and `fills` decodes to every pixel of it.
"""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from collections.abc import Callable

from PIL import Image

# Formats without pixels that Pillow decodes (it asks another program), or of one fixed size.
NO_BOMB = {"BUFR", "GRIB", "HDF5", "WMF", "MPEG", "PCD", "IMT"}
# The longest side of WebP and AVIF.
CODEC_SIDE = 16_383


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def small(kind: str, mode: str = "RGB", **options: object) -> bytearray:
    return bytearray(saved(Image.new(mode, (64, 64), 1 if mode == "L" else 0), kind, **options))


def patched(data: bytearray, layout: str, *places: int, side: int) -> bytes:
    """Write `side` at each place."""
    for place in places:
        struct.pack_into(layout, data, place, side)
    return bytes(data)


def chunk(name: bytes, data: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + data))
    return struct.pack(">I", len(data)) + name + data + checksum


def png(side: int, *more: bytes) -> bytes:
    size = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1_000_000), 9)
    chunks = [chunk(b"IHDR", size), *more, chunk(b"IDAT", rows), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def bmp(side: int) -> bytes:
    return patched(small("BMP"), "<i", 18, 22, side=side)


def dib(side: int) -> bytes:
    return bmp(side)[14:]


def jpeg(side: int) -> bytes:
    data = small("JPEG")
    start = data.index(b"\xff\xc0")
    return patched(data, ">H", start + 5, start + 7, side=side)


def jpeg2000(side: int) -> bytes:
    data = small("JPEG2000", no_jp2=True)
    # The image's and the tile's width and height.
    return patched(data, ">I", 8, 12, 24, 28, side=side)


def gif(side: int) -> bytes:
    data = small("GIF", "L")
    frame = data.index(b"\x2c\0\0\0\0")
    return patched(data, "<H", 6, 8, frame + 5, frame + 7, side=side)


def webp(side: int) -> bytes:
    data = small("WEBP", lossless=True)
    start = data.index(b"VP8L") + 9
    bits = (min(side, CODEC_SIDE) - 1) * (1 + (1 << 14))
    return patched(data, "<I", start, side=bits)


def avif(side: int) -> bytes:
    data = small("AVIF")
    start = data.index(b"ispe")
    return patched(data, ">I", start + 8, start + 12, side=min(side, CODEC_SIDE))


def tiff(side: int) -> bytes:
    rows = zlib.compress(bytes(1_000_000), 9)
    tags = {256: side, 257: side, 258: 8, 259: 8, 262: 1, 273: 200, 277: 1, 278: side}
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()]
    entries.append(struct.pack("<HHII", 279, 4, 1, len(rows)))
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return (b"II*\0" + struct.pack("<I", 8) + directory).ljust(200, b"\0") + rows


def icon(kind: int, content: bytes) -> bytes:
    return struct.pack("<3H4B2H2I", 0, kind, 1, 16, 16, 0, 0, 1, 32, len(content), 22) + content


def icns(side: int) -> bytes:
    content = png(side)
    entry = b"ic09" + struct.pack(">I", len(content) + 8) + content
    return b"icns" + struct.pack(">I", len(entry) + 8) + entry


def dcx(side: int) -> bytes:
    return struct.pack("<3I", 987654321, 12, 0) + pcx(side)


def pcx(side: int) -> bytes:
    return patched(small("PCX", "L"), "<H", 8, 10, side=side - 1)


def fits(side: int) -> bytes:
    facts = {"SIMPLE": "T", "BITPIX": 8, "NAXIS": 2, "NAXIS1": side, "NAXIS2": side}
    cards = [f"{name:8}= {value!s:>20}" for name, value in facts.items()]
    return "".join(f"{card:80}" for card in [*cards, "END"]).ljust(2880).encode() + bytes(2880)


def packed_fits(side: int) -> bytes:
    facts = {"XTENSION": "'BINTABLE'", "BITPIX": 8, "NAXIS": 2, "NAXIS1": 0, "NAXIS2": 0}
    facts |= {"ZIMAGE": "T", "ZCMPTYPE": "'GZIP_1  '", "ZBITPIX": 8, "ZNAXIS": 2}
    facts |= {"ZNAXIS1": side, "ZNAXIS2": side}
    cards = [f"{'SIMPLE':8}= {'T':>20}", f"{'NAXIS':8}= {0:>20}"]
    cards += [f"{name:8}= {value!s:>20}" for name, value in facts.items()]
    head = "".join(f"{card:80}" for card in [*cards, "END"])
    return head.ljust(2880).encode() + gzip.compress(bytes(4 * side * side), 9)


def fli(side: int) -> bytes:
    head = struct.pack("<IHHHHHH", 144, 0xAF12, 1, side, side, 8, 3)
    return head.ljust(128, b"\0") + struct.pack("<IHH8x", 16, 0xF1FA, 0)


def iptc(side: int) -> bytes:
    fields = {(3, 60): b"\1\0", (3, 20): side, (3, 30): side, (3, 120): b"\1", (8, 10): b"\0"}
    data = b""
    for (record, number), value in fields.items():
        content = struct.pack(">I", value) if isinstance(value, int) else value
        data += struct.pack(">BBBH", 0x1C, record, number, len(content)) + content
    return data


def mcidas(side: int) -> bytes:
    words = [0] * 64
    words[1], words[8], words[9], words[10], words[13] = 4, side, side, 1, 1
    return struct.pack("!64i", *words)


def psd(side: int) -> bytes:
    head = struct.pack(">4sH6xHIIHH", b"8BPS", 1, 1, side, side, 8, 1)
    return head + bytes(12) + struct.pack(">H", 0)


def spider(side: int) -> bytes:
    values = [0.0] * 256
    values[0], values[1], values[4], values[11] = 1, side, 1, side
    # Records in the head, its length in bytes, and that of a record.
    length = 4 * side
    values[12], values[21], values[22] = 1, length, length
    return struct.pack(">256f", *values)


def sun(side: int) -> bytes:
    return struct.pack(">8I", 0x59A66A95, side, side, 8, 0, 1, 0, 0)


def dds(side: int) -> bytes:
    return patched(small("DDS"), "<I", 12, 16, side=side)


def tga(side: int) -> bytes:
    return patched(small("TGA"), "<H", 12, 14, side=side)


def msp(side: int) -> bytes:
    data = small("MSP", "1")
    struct.pack_into("<HH", data, 4, side, side)
    # The head's words are made to cancel out.
    struct.pack_into("<H", data, 24, 0)
    rest = 0
    for (word,) in struct.iter_unpack("<H", data[:32]):
        rest ^= word
    return patched(data, "<H", 24, side=rest)


CLAIMS: dict[str, Callable[[int], bytes]] = {
    "AVIF": avif,
    "BLP": lambda side: b"BLP2" + struct.pack("<i4bII", 1, 1, 0, 0, 0, side, side) + bytes(2000),
    "BMP": bmp,
    "CUR": lambda side: icon(2, dib(side)),
    "DCX": dcx,
    "DDS": dds,
    "DIB": dib,
    "FITS": fits,
    "FLI": fli,
    "FTEX": lambda side: b"FTEX" + struct.pack("<9i", 0, side, side, 1, 1, 0, 32, 8, 0) + bytes(8),
    "GBR": lambda side: struct.pack(">5I", 20, 1, side, side, 1) + bytes(99),
    "GIF": gif,
    "ICNS": icns,
    "ICO": lambda side: icon(1, png(side)),
    "IM": lambda side: (
        f"Image type: L image\r\nImage size (x*y): {side}*{side}\r\n".encode().ljust(511, b"\0")
        + b"\x1a"
    ),
    "IPTC": iptc,
    "JPEG": jpeg,
    "JPEG2000": jpeg2000,
    "MCIDAS": mcidas,
    "MSP": msp,
    "PCX": pcx,
    "PIXAR": lambda side: (
        b"\200\350\000\000".ljust(416, b"\0")
        + struct.pack("<2H4x2H", side, side, 14, 2)
        + bytes(84)
    ),
    "PNG": png,
    "PPM": lambda side: b"P5 %d %d 255\n" % (side, side),
    "PSD": psd,
    "QOI": lambda side: struct.pack(">4sIIBB", b"qoif", side, side, 3, 0) + b"\xc0" * 99,
    "SGI": lambda side: patched(small("SGI"), ">H", 6, 8, side=side),
    "SPIDER": spider,
    "SUN": sun,
    "TGA": tga,
    "TIFF": tiff,
    "WEBP": webp,
    "XBM": lambda side: (
        b"#define x_width %d\n#define x_height %d\nstatic char x_bits[] = {\n0" % (side, side)
    ),
    "XPM": lambda side: b'/* XPM */\n"%d %d 1 1",\n"a c #000000",\n"a",\n' % (side, side),
    "XVTHUMB": lambda side: b"P7 332\n#END\n%d %d 255\n" % (side, side),
}


def icon_around(kind: str, side: int) -> bytes:
    """Return an icon that says it is 16 pixels wide and holds a whole PNG of `side`."""
    content = saved(Image.new("RGBA", (side, side)), "PNG")
    if kind == "ICO":
        return icon(1, content)
    entry = b"ic09" + struct.pack(">I", len(content) + 8) + content
    return b"icns" + struct.pack(">I", len(entry) + 8) + entry


def long_text() -> bytes:
    """Return a PNG of which 50 chunks of text are a megabyte each once they are unpacked."""
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1_000_000), 9))
    profile = chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(50_000_000), 9))
    return png(24, profile, *[text] * 50)


def many_scans(side: int, n: int) -> bytes:
    """Return a JPEG of zeros that goes `n` times over all of its blocks, in 40 bytes each time."""
    blocks = ((side + 7) // 8) ** 2

    def segment(marker: int, *content: bytes) -> bytes:
        joined = b"".join(content)
        return struct.pack(">BBH", 0xFF, marker, len(joined) + 2) + joined

    def codes(table: int, symbol: int) -> bytes:
        return segment(0xC4, bytes([table, 1]), bytes(15), bytes([symbol]))

    def scan(first: int, last: int, data: bytes) -> bytes:
        return segment(0xDA, bytes([1, 1, 0, first, last, 0])) + data.replace(b"\xff", b"\xff\0")

    # A bit 0 and fourteen more, all 1, end the next 32,767 blocks.
    bits = ("0" + "1" * 14) * (blocks // 32_767 + 1)
    bits = bits.ljust(-(-len(bits) // 8) * 8, "0")
    ends = int(bits, 2).to_bytes(len(bits) // 8, "big")
    head = segment(0xDB, b"\0" + b"\1" * 64)
    head += segment(0xC2, struct.pack(">BHH4B", 8, side, side, 1, 1, 0x11, 0))
    head += codes(0, 0) + codes(0x10, 0xE0) + scan(0, 0, bytes(blocks // 8 + 1))
    return b"\xff\xd8" + head + scan(1, 63, ends) * n + b"\xff\xd9"


FILLS: dict[str, Callable[[int], bytes]] = {
    "AVIF": lambda side: saved(Image.new("L", (side, side)), "AVIF", speed=10),
    "BMP": lambda side: saved(Image.new("1", (side, side)), "BMP"),
    "GIF": lambda side: saved(Image.new("P", (side, side)), "GIF"),
    "FITS": packed_fits,
    "JPEG": lambda side: saved(Image.new("CMYK", (side, side)), "JPEG", progressive=True),
    "JPEG2000": lambda side: saved(Image.new("L", (side, side)), "JPEG2000"),
    "PCX": lambda side: saved(Image.new("L", (side, side)), "PCX"),
    "PNG": lambda side: saved(Image.new("RGBA", (side, side)), "PNG"),
    "PPM": lambda side: saved(Image.new("1", (side, side)), "PPM"),
    "QOI": lambda side: (
        struct.pack(">4sIIBB", b"qoif", side, side, 4, 0) + b"\xc7" * (side * side // 8 + 1)
    ),
    "TGA": lambda side: saved(Image.new("RGBA", (side, side)), "TGA", compression="tga_rle"),
    "TIFF": lambda side: saved(Image.new("RGBA", (side, side)), "TIFF", compression="tiff_lzw"),
    "WEBP": lambda side: saved(Image.new("RGBA", (side, side)), "WEBP", lossless=True, method=0),
}
