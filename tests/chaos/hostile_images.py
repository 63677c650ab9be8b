"""Images that are not what they say: mutants of whole ones, and small files that would take a machine."""

import io
import random
import struct
import zlib
from collections.abc import Iterator
from functools import cache

import numpy as np
from PIL import Image, PngImagePlugin

PNG = b"\x89PNG\r\n\x1a\n"


@cache
def seeds() -> tuple[bytes, ...]:
    """Return whole images of all kinds that are taken, small ones."""
    noise = np.random.default_rng(0)

    def encoded(mode: str, size: tuple[int, int], format: str, **options: object) -> bytes:
        channels = {"L": 1, "RGB": 3, "RGBA": 4, "CMYK": 4, "LA": 2}[mode]
        pixels = noise.integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
        out = io.BytesIO()
        Image.fromarray(pixels.squeeze(), mode if channels > 1 else None).save(out, format, **options)
        return out.getvalue()

    texts = PngImagePlugin.PngInfo()
    texts.add_text("a", "text" * 20, zip=True)
    texts.add_itxt("b", "text" * 20, zip=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    palette = io.BytesIO()
    Image.fromarray(noise.integers(0, 256, (12, 10, 3), dtype=np.uint8)).quantize(8).save(palette, "PNG")
    deep = io.BytesIO()
    Image.fromarray(noise.integers(0, 65536, (9, 11)).astype(np.uint16)).save(deep, "PNG")
    return (
        encoded("L", (28, 28), "PNG"),
        encoded("L", (28, 28), "PNG", compress_level=0),
        encoded("RGB", (17, 11), "PNG", pnginfo=texts, exif=exif),
        encoded("RGBA", (8, 13), "PNG"),
        palette.getvalue(),
        deep.getvalue(),
        encoded("L", (28, 28), "JPEG"),
        encoded("RGB", (33, 20), "JPEG", progressive=True, exif=exif),
        encoded("CMYK", (16, 16), "JPEG"),
        encoded("RGB", (20, 20), "JPEG", icc_profile=bytes(range(256)) * 4, comment=b"words"),
        encoded("RGB", (16, 16), "WEBP"),
        encoded("RGB", (16, 16), "WEBP", lossless=True),
        encoded("RGBA", (16, 9), "WEBP", exif=exif.tobytes()),
    )


def mutants(seed: int) -> Iterator[bytes]:
    """Yield mutants without end, the same ones for a seed."""
    chance = random.Random(seed)
    while True:
        data = bytearray(chance.choice(seeds()))
        for _ in range(chance.choice((1, 1, 1, 2, 4))):
            data = bytearray(chance.choice(_KINDS)(data, chance)) or bytearray(b"\0")
        yield bytes(data)


def _flip(data: bytearray, chance: random.Random) -> bytes:
    for _ in range(chance.randint(1, 8)):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return data


def _cut(data: bytearray, chance: random.Random) -> bytes:
    return data[: chance.randrange(1, len(data) + 1)]


def _drop(data: bytearray, chance: random.Random) -> bytes:
    at = chance.randrange(len(data))
    return data[:at] + data[at + chance.randint(1, 64) :]


def _splice(data: bytearray, chance: random.Random) -> bytes:
    other = chance.choice(seeds())
    return data[: chance.randrange(len(data))] + other[chance.randrange(len(other)) :]


def _repeat(data: bytearray, chance: random.Random) -> bytes:
    at = chance.randrange(len(data))
    piece = data[at : at + chance.randint(1, 64)]
    return data[:at] + piece * chance.randint(2, 40) + data[at:]


def _number(data: bytearray, chance: random.Random) -> bytes:
    """Put a number that is hard to bear where one may stand: lengths, sizes, counts."""
    at = chance.randrange(max(1, min(len(data), 64)) if chance.random() < 0.6 else len(data))
    value = chance.choice((0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF))
    data[at : at + 4] = struct.pack(chance.choice("<>") + "I", value)
    return data


def _png_header(data: bytearray, chance: random.Random) -> bytes:
    """Set a field of a PNG's header, with a checksum that is right."""
    if not data.startswith(PNG) or len(data) < 33:
        return data
    fields = list(struct.unpack(">IIBBBBB", data[16:29]))
    field = chance.randrange(len(fields))
    fields[field] = chance.choice((0, 1, 2, 3, 4, 6, 8, 16, 255, 5_000, 2**16, 2**31 - 1, 2**32 - 1))
    if field > 1:
        fields[field] &= 0xFF
    header = b"IHDR" + struct.pack(">IIBBBBB", *fields)
    data[12:33] = header + zlib.crc32(header).to_bytes(4, "big")
    return data


def _chunk(data: bytearray, chance: random.Random) -> bytes:
    """Put a chunk with a right checksum and wrong contents into a PNG."""
    if not data.startswith(PNG):
        return data
    kind = chance.choice(
        (b"IDAT", b"PLTE", b"tRNS", b"iCCP", b"zTXt", b"iTXt", b"eXIf", b"acTL", b"fcTL", b"IEND")
    )
    return data[:33] + png_chunk(kind, chance.randbytes(chance.randint(0, 40))) + data[33:]


_KINDS = (_flip, _flip, _cut, _drop, _splice, _repeat, _number, _number, _png_header, _chunk)


# --- bombs -------------------------------------------------------------------------------------------------


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def png(width: int, height: int, *extra: bytes, rows: int | None = None, depth: int = 8) -> bytes:
    """Return a grey PNG of zeros with other chunks before its pixels; `rows` as many as it really has."""
    packer = zlib.compressobj(9)
    row = bytes(1 + (width * depth + 7) // 8)
    pixels = b"".join(packer.compress(row) for _ in range(height if rows is None else rows)) + packer.flush()
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0))
    return PNG + header + b"".join(extra) + png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b"")


def _zeros(mebibytes: int) -> bytes:
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(mebibytes)) + packer.flush()


def _jpeg(width: int, height: int, *segments: bytes) -> bytes:
    whole = next(one for one in seeds() if one.startswith(b"\xff\xd8"))
    at = whole.index(b"\xff\xc0") + 5
    changed = whole[:at] + struct.pack(">HH", height, width) + whole[at + 4 :]
    return changed[:2] + b"".join(segments) + changed[2:]


def _webp_canvas(width: int, height: int, flags: int) -> bytes:
    body = b"VP8X" + (10).to_bytes(4, "little") + bytes([flags, 0, 0, 0])
    body += (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body += next(one for one in seeds() if one[:4] == b"RIFF")[12:]
    return b"RIFF" + (4 + len(body)).to_bytes(4, "little") + b"WEBP" + body


def _frames(format: str, count: int) -> bytes:
    frames = [Image.new("L" if format == "PNG" else "RGB", (16, 16), i % 256) for i in range(count)]
    out = io.BytesIO()
    frames[0].save(out, format, save_all=True, append_images=frames[1:])
    return out.getvalue()


def _exif(tags: int, value_bytes: int) -> bytes:
    """EXIF data whose tags all have the same large value."""
    entries = b"".join(
        struct.pack("<HHII", 0x8000 + number, 7, value_bytes, 14 + 12 * tags) for number in range(tags)
    )
    return b"II*\0" + struct.pack("<IH", 8, tags) + entries + bytes(4 + value_bytes)


DEFUSED = "a PNG with 1,000 tags of 900 KB"
"""Taken, because nobody reads the tags: its cost counts."""


@cache
def bombs() -> dict[str, bytes]:
    """Return files that are small, or quick to send, and dear to read."""
    lossless = bytearray(next(one for one in seeds() if one[12:16] == b"VP8L"))
    lossless[21:25] = ((int.from_bytes(lossless[21:25], "little") >> 28 << 28) | 0xFFFFFFF).to_bytes(
        4, "little"
    )
    large = io.BytesIO()
    Image.new("L", (6_000, 6_000)).save(large, "JPEG")
    text = _zeros(1)
    return {
        "a PNG of 9,000 x 9,000": png(9_000, 9_000),
        "a PNG of 13,300 x 13,300": png(13_300, 13_300),
        "a PNG of 2^31 x 2^31 that has one row": png(2**16, 2**31 - 1, rows=1),
        "a JPEG of 6,000 x 6,000": large.getvalue(),
        "a JPEG of 65,500 x 65,500 by its header": _jpeg(65_500, 65_500),
        "a WebP of 16,384 x 16,384 by its header": _webp_canvas(2**14, 2**14, 0),
        "a lossless WebP of 16,384 x 16,384": bytes(lossless),
        "a WebP of 300 frames": _frames("WEBP", 300),
        "an APNG of 300 frames": _frames("PNG", 300),
        "a PNG with a profile of 256 MiB": png(28, 28, png_chunk(b"iCCP", b"a\0\0" + _zeros(256))),
        "a PNG with 200 texts of 1 MiB": png(28, 28, *[png_chunk(b"zTXt", b"a\0\0" + text)] * 200),
        "a PNG with 200 international texts": png(28, 28, *[png_chunk(b"iTXt", b"a\0\1\0\0\0" + text)] * 200),
        "a PNG with 80,000 chunks": png(28, 28, *[png_chunk(b"aaAa", b"")] * 80_000),
        DEFUSED: png(28, 29, png_chunk(b"eXIf", _exif(1_000, 900_000))),
        "a JPEG with 9 MB before its marker": b"\xff\xd8" + b"\xff" * 9_000_000 + _jpeg(28, 28)[2:],
        "a JPEG with 9 MB of strays": _jpeg(28, 28)[:2] + bytes(9_000_000) + _jpeg(28, 28)[2:],
        "a JPEG with 200,000 segments": _jpeg(28, 28, b"\xff\xe5\0\x02" * 200_000),
        "a JPEG with 5,000 scans": _jpeg(28, 28) + b"\xff\xda\0\x08\x01\x01\0\0\x3f\0" * 5_000,
    }
