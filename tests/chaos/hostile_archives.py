"""Archives, idx and Parquet files that lie: what strangers may send as a dataset or as a model."""

import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.gateway_in_process import image_file

IMAGE = image_file()
BASE = {"a/1.png": IMAGE, "b/1.png": IMAGE}
MIB = 2**20


def zipped(
    *members: tuple[str | zipfile.ZipInfo, bytes], packing: int = zipfile.ZIP_DEFLATED, base: bool = True
) -> bytes:
    """Return a zip of a small dataset and these members."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", packing) as archive:
        for name, data in [*(BASE.items() if base else ()), *members]:
            archive.writestr(name, data)
    return out.getvalue()


def _named(name: str) -> bytes:
    """Return a zip with a member of this name, byte by byte; `zipfile` would change some."""
    given = name.encode()
    stand_in = "x" * len(given)
    return zipped((stand_in, IMAGE)).replace(stand_in.encode(), given)


def _special(kind: int, target: bytes = b"/etc/passwd", name: str = "a/2.png") -> bytes:
    info = zipfile.ZipInfo(name)
    info.external_attr = (kind | 0o777) << 16
    return zipped((info, target))


def _patched(data: bytes, *, directory: bool, at: int, value: bytes) -> bytes:
    """Overwrite a field of the last entry, in the directory or before its bytes."""
    place = data.rindex(b"PK\x01\x02" if directory else b"PK\x03\x04") + at
    return data[:place] + value + data[place + len(value) :]


def _ended(data: bytes, at: int, value: bytes) -> bytes:
    place = data.rindex(b"PK\x05\x06") + at
    return data[:place] + value + data[place + len(value) :]


def _overlapping(entries: int) -> bytes:
    """Return a zip whose entries are all the same bytes, as those of 42.zip's successors."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    unpacked = b"".join(bytes([number % 251]) * 90 for number in range(11_000))
    packed = packer.compress(unpacked) + packer.flush()
    facts = struct.pack("<III", zlib.crc32(unpacked), len(packed), len(unpacked))
    local = (
        b"PK\x03\x04" + struct.pack("<HHHHH", 20, 0, 8, 0, 33) + facts + struct.pack("<HH", 7, 0) + b"a/0.png"
    )
    directory = b"".join(
        b"PK\x01\x02" + struct.pack("<HHHHHH", 20, 20, 0, 8, 0, 33) + facts
        + struct.pack("<HHHHHII", 8, 0, 0, 0, 0, 0, 0) + b"%c/%05d.p" % (97 + n % 2, n)
        for n in range(entries)
    )  # fmt: skip
    end = b"PK\x05\x06" + struct.pack(
        "<HHHHIIH", 0, 0, entries % 65536, entries % 65536, len(directory), len(local) + len(packed), 0
    )
    return local + packed + directory + end


def _many(count: int) -> bytes:
    """Return a zip of so many empty members, made by hand because that is quicker."""
    local = b"PK\x03\x04" + struct.pack("<HHHHHIIIHH", 20, 0, 0, 0, 33, 0, 0, 0, 5, 0) + b"a/b.c"
    entries = b"".join(
        b"PK\x01\x02" + struct.pack("<HHHHHHIIIHHHHHII", 20, 20, 0, 0, 0, 33, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0)
        + b"a/%06d" % n for n in range(count)
    )  # fmt: skip
    zip64 = b"PK\x06\x06" + struct.pack(
        "<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, len(entries), len(local)
    )
    locator = b"PK\x06\x07" + struct.pack("<IQI", 0, len(local) + len(entries), 1)
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 65535, 65535, 2**32 - 1, 2**32 - 1, 0)
    return local + entries + zip64 + locator + end


def _zip64_sizes() -> bytes:
    info = zipfile.ZipInfo("a/2.png")
    info.extra = struct.pack("<HHQQ", 1, 16, 2**62, 2**62)
    data = zipped((info, IMAGE))
    return _patched(data, directory=True, at=20, value=b"\xff" * 8)


def _tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        info = tarfile.TarInfo("../evil.png")
        info.size = len(IMAGE)
        archive.addfile(info, io.BytesIO(IMAGE))
    return out.getvalue()


def _idx(*shape: int, data: bytes = b"") -> bytes:
    return bytes([0, 0, 8, len(shape)]) + b"".join(length.to_bytes(4, "big") for length in shape) + data


def _parquet(**columns: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


def datasets(watched: Path) -> dict[str, Callable[[], bytes]]:
    """Return what may come as a dataset, made when it is wanted; nothing may appear in `watched`."""
    images = pa.array([IMAGE] * 4, pa.binary())
    whole = _parquet(image=images, label=pa.array([0, 1, 0, 1]))
    names = (
        "../evil.png", "a/../../evil.png", "/evil.png", f"{watched}/evil.png", "..\\evil.png",
        "a\\..\\..\\e.png",
        "C:\\evil.png", "C:evil.png", "\\\\host\\share\\evil.png", "a//evil.png", "./../evil.png",
        "a/./evil.png",
        "a/e\nvil.png", "a/\x1b[2Jevil.png", "a/evil.png\0.txt", "\0evil.png", "../" * 100 + "etc/evil.png",
        "a/" + "e" * 600, "a/" + "e" * 60_000, "a/CON", "nul.png/1.png", "a/LPT1.png", "a/..", "..",
    )  # fmt: skip
    found: dict[str, Callable[[], bytes]] = {
        f"a member called {name[:40]!r}": (lambda name=name: _named(name)) for name in names
    }
    small = zipped(("a/2.png", IMAGE))
    pair = zipped(("a/2.png", IMAGE), ("a/3.png", IMAGE))

    def in_directory(at: int, value: bytes) -> bytes:
        return _patched(small, directory=True, at=at, value=value)

    return found | {
        "a symbolic link": lambda: _special(0o120000),
        "a link out of the folder": lambda: _special(0o120000, b"../../../evil"),
        "a pipe": lambda: _special(0o010000),
        "a device": lambda: _special(0o020000),
        "a socket": lambda: _special(0o140000),
        "a name twice": lambda: pair.replace(b"a/3.png", b"a/2.png"),
        "a name twice, one with a backslash": lambda: pair.replace(
            b"a/3.png", b"a\\2.png"
        ),
        "a zip inside": lambda: zipped(("a/2.zip", zipped())),
        "a tar inside": lambda: zipped(("a/2.tar.gz", _tar())),
        "one tight member": lambda: zipped(("a/2.png", bytes(64 * MIB))),
        "many tight members": lambda: zipped(*((f"a/{n}.png", bytes(9 * MIB)) for n in range(2, 12))),
        "members on the same bytes": lambda: _overlapping(3_000),
        "a wrong checksum": lambda: in_directory(16, b"\1\2\3\4"),
        "a size that is too small": lambda: in_directory(24, struct.pack("<I", 10)),
        "a size that is too large": lambda: in_directory(24, struct.pack("<I", 2**31)),
        "a packed size that is too large": lambda: in_directory(20, b"\0\0\0\x7f"),
        "a place behind the end": lambda: in_directory(42, b"\xff\xff\xff\x7f"),
        "another name before the bytes": lambda: _patched(small, directory=False, at=30, value=b"../ev"),
        "an encrypted member": lambda: in_directory(8, b"\1\0"),
        "bzip2": lambda: zipped(packing=zipfile.ZIP_BZIP2),
        "LZMA": lambda: zipped(packing=zipfile.ZIP_LZMA),
        "an unknown packing": lambda: in_directory(10, b"\x63\0"),
        "sizes of zip64 that lie": _zip64_sizes,
        "more members than are taken": lambda: _many(100_001),
        "half a million members": lambda: _many(500_000),
        "a directory without end": lambda: _ended(small, 12, b"\xff\xff\xff\x7f"),
        "a directory before its beginning": lambda: _ended(small, 16, b"\xff\xff\xff\x7f"),
        "half a zip": lambda: small[: len(small) // 2],
        "half a directory": lambda: small[:-40],
        "no end": lambda: small[:-22],
        "something before the zip": lambda: b"#!/bin/sh\ntouch evil\n" + small,
        "only an end": lambda: small[-22:],
        "a tar": _tar,
        "another archive": lambda: b"7z\xbc\xaf\x27\x1c" + bytes(100),
        "xz": lambda: lzma.compress(small),
        "idx of 2^96 bytes": lambda: _idx(2**32 - 1, 2**32 - 1, 2**32 - 1),
        "idx of nothing times much": lambda: _idx(0, 2**32 - 1, 2**32 - 1),
        "tight idx": lambda: gzip.compress(_idx(200, 1024, 1024, data=bytes(200 * MIB)), 1),
        "idx that goes on": lambda: _idx(2, 4, 4, data=bytes(33)),
        "half a Parquet file": lambda: whole[: len(whole) // 2],
        "a footer that lies": lambda: whole[:-8] + struct.pack("<I", 2**31 - 1) + b"PAR1",
        "a footer of noise": lambda: b"PAR1" + np.random.default_rng(0).bytes(500) + b"\xf4\1\0\0PAR1",
        "Parquet of ten million rows": lambda: _parquet(
            image=pa.repeat(pa.scalar(b"x", pa.binary()), 10**7), label=pa.repeat(1, 10**7)
        ),
        "Parquet of bombs": lambda: _parquet(
            image=pa.repeat(pa.scalar(bytes(9 * MIB), pa.binary()), 20), label=pa.repeat(1, 20)
        ),
        "Parquet of paths": lambda: _parquet(
            image=pa.array(["/etc/passwd", "../x"]), label=pa.array([0, 1])
        ),
    }  # fmt: skip


def models(watched: Path) -> dict[str, Callable[[], bytes]]:
    """Return zips that may come as the files of a model."""
    config = ("config.json", b"{}")

    def holding(*members: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
        return zipped(*members, base=False)

    def link() -> bytes:
        info = zipfile.ZipInfo("config.json")
        info.external_attr = 0o120777 << 16
        return holding((info, b"/etc/passwd"))

    return {
        "a model above its folder": lambda: holding(("../model.safetensors", b"x")),
        "a model at a place of its own": lambda: holding((f"{watched}/model.safetensors", b"x")),
        "a model on another drive": lambda: holding(("C:\\model.safetensors", b"x")),
        "a model that is a link": link,
        "what torch.save writes": lambda: holding(("archive/data.pkl", b"x"), ("archive/data/0", b"x")),
        "a pickle": lambda: holding(("pytorch_model.bin", b"x")),
        "code": lambda: holding(config, ("modeling.py", b"import os")),
        "tight weights": lambda: holding(config, ("model.safetensors", bytes(300 * MIB))),
        "half a million members": lambda: _many(500_000),
        "300 members": lambda: _many(300),
        "a member twice": lambda: holding(config, ("Config.json", b"{}")).replace(
            b"Config.json", b"config.json"
        ),
        "a zip inside": lambda: holding(config, ("weights.zip", holding(config))),
    }
