"""Headers of images made by hand, each at the edge of what is read."""

import struct

import pytest

from shared.datasets.image_headers import ImageHeader, orientation, read_header

SOF, SCAN = 0xC0, b"\xff\xda\0\x02"
FOUND = ImageHeader(300, 200)


def segment(marker: int, content: bytes = b"") -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def frame(width: int = 300, height: int = 200, marker: int = SOF) -> bytes:
    return segment(marker, struct.pack(">BHH", 8, height, width) + b"\x01\x01\x11\0")


def jpeg(*parts: bytes) -> ImageHeader | None:
    return read_header(b"\xff\xd8" + b"".join(parts))


# --- JPEG --------------------------------------------------------------------------------------------------


def test_the_size_of_a_jpeg_stands_after_its_frame_marker_and_before_the_scan():
    assert jpeg(frame(), SCAN) == FOUND
    assert jpeg(SCAN, frame()) is None
    assert jpeg(frame()) is None


@pytest.mark.parametrize("marker", [m for m in range(0xC0, 0xD0) if m not in (0xC4, 0xC8, 0xCC)])
def test_thirteen_markers_begin_a_frame_and_the_last_one_counts(marker: int):
    assert jpeg(frame(5, 6), frame(marker=marker), SCAN) == FOUND


@pytest.mark.parametrize("marker", [0xC4, 0xC8, 0xCC, 0xBF, 0xDB, 0xE0, 0xFE])
def test_no_other_marker_does(marker: int):
    assert jpeg(frame(), frame(5, 6, marker), SCAN) == FOUND


@pytest.mark.parametrize("marker", [0x00, 0x01, *range(0xD0, 0xD9)])
def test_markers_without_a_length_are_stepped_over(marker: int):
    assert jpeg(bytes([0xFF, marker]), frame(), SCAN) == FOUND


@pytest.mark.parametrize("length", [0, 1, 2])
def test_a_segment_has_two_bytes_at_least(length: int):
    assert jpeg(b"\xff\xfe" + struct.pack(">H", length), frame(), SCAN) == FOUND


def test_stray_bytes_and_fill_bytes_count_as_steps_of_which_there_are_1024():
    for stray in (b"\0", b"\xff"):
        assert jpeg(stray * 1022, frame(), SCAN) == FOUND
        assert jpeg(stray * 1023, frame(), SCAN) is None
    assert jpeg(segment(0xFE) * 1022, frame(), SCAN) == FOUND
    assert jpeg(segment(0xFE) * 1023, frame(), SCAN) is None
    assert jpeg(b"\xff\xd0" * 1022, frame(), SCAN) == FOUND
    assert jpeg(b"\xff\xd0" * 1023, frame(), SCAN) is None


def test_exif_of_64_kib_together_is_read_past_and_one_byte_more_is_not():
    half = segment(0xE1, b"Exif" + bytes(32_768 - 6))
    assert jpeg(half, half, frame(), SCAN) == FOUND
    assert jpeg(half, half + segment(0xE1, b"Exif"), frame(), SCAN) is None
    other = segment(0xE1, b"http" + bytes(60_000))
    assert jpeg(other, other, other, frame(), SCAN) == FOUND
    assert jpeg(*[segment(0xE2, b"Exif" + bytes(60_000))] * 3, frame(), SCAN) == FOUND


# --- PNG ---------------------------------------------------------------------------------------------------


def png(chunks: int = 0, kind: bytes = b"IHDR") -> bytes:
    header = struct.pack(">I4sIIBBBBBI", 13, kind, 300, 200, 8, 2, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + header + chunks * struct.pack(">I4sI", 0, b"tEXt", 0)


def test_the_size_of_a_png_stands_in_its_first_chunk_which_must_be_there_whole():
    assert len(png()) == 33
    assert read_header(png()) == FOUND
    assert read_header(png()[:-1]) is None
    assert read_header(png(kind=b"IDAT")) is None


def test_a_png_has_up_to_4095_chunks():
    assert read_header(png(4_094)) == FOUND
    assert read_header(png(4_095)) is None


# --- WebP --------------------------------------------------------------------------------------------------


def webp(kind: bytes, rest: bytes) -> ImageHeader | None:
    return read_header((b"RIFF\0\0\0\0WEBP" + kind + bytes(4) + rest)[:30])


def test_each_kind_of_webp_says_its_size_in_thirty_bytes():
    extended = bytes(4) + (299).to_bytes(3, "little") + (199).to_bytes(3, "little")
    assert webp(b"VP8X", extended) == FOUND
    assert webp(b"VP8X", b"\x02" + extended[1:]) == ImageHeader(300, 200, animated=True)
    assert webp(b"VP8X", b"\xfd" + extended[1:]) == FOUND
    assert webp(b"VP8X", extended[:-1]) is None
    lossless = b"\x2f" + (299 | 199 << 14 | 0b1111 << 28).to_bytes(4, "little") + bytes(5)
    assert webp(b"VP8L", lossless) == FOUND
    # The two bits above each are a scale for whoever shows it.
    assert webp(b"VP8 ", bytes(6) + struct.pack("<HH", 300 | 0xC000, 200 | 0x4000)) == FOUND
    assert webp(b"ALPH", extended) is None


def test_the_largest_sizes_fit():
    assert webp(b"VP8X", bytes(4) + b"\xff" * 6) == ImageHeader(1 << 24, 1 << 24)
    assert webp(b"VP8L", b"\x2f" + b"\xff" * 4 + bytes(5)) == ImageHeader(1 << 14, 1 << 14)
    assert webp(b"VP8 ", bytes(6) + b"\xff" * 4) == ImageHeader((1 << 14) - 1, (1 << 14) - 1)


# --- EXIF --------------------------------------------------------------------------------------------------


def exif(*tags: tuple[int, int, int, int], at: int = 8) -> bytes:
    entries = b"".join(struct.pack("<HHIHH", *tag, 0) for tag in tags)
    return b"II*\0" + struct.pack("<I", at) + bytes(at - 8) + struct.pack("<H", len(tags)) + entries


@pytest.mark.parametrize(
    ("tag", "turned"),
    [((0x0112, 3, 1, value), value if 1 <= value <= 8 else 1) for value in range(10)]
    + [((0x0112, 4, 1, 6), 1), ((0x0112, 3, 2, 6), 1), ((0x0113, 3, 1, 6), 1)],
)
def test_orientation_is_one_short_from_1_to_8(tag: tuple[int, int, int, int], turned: int):
    assert orientation(exif(tag)) == turned


def test_the_directory_stands_where_it_is_said_and_of_it_512_tags_are_read():
    other, turned = (0x0100, 3, 1, 5), (0x0112, 3, 1, 6)
    assert orientation(exif(turned, at=26)) == 6
    assert orientation(exif(*[other] * 511, turned)) == 6
    assert orientation(exif(*[other] * 512, turned)) == 1
    assert orientation(exif(other, turned)[:-3]) == 1
    assert orientation(b"II+\0" + exif(turned)[4:]) == 1
