import io
import os
import tarfile
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import anyio
import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message

from services.gateway.tar import TarEntry, TarResponse, tar_bytes, tar_pieces
from shared.errors import Corrupt

AT = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
LONG = "d" * 64 + "/shard-00000.safetensors"


def entries(folder: Path, files: dict[str, bytes]) -> list[TarEntry]:
    for number, data in enumerate(files.values()):
        (folder / str(number)).write_bytes(data)
    return [
        TarEntry(name, len(data), partial(folder.joinpath, str(number)))
        for number, (name, data) in enumerate(files.items())
    ]


def test_a_tar_holds_the_files_in_order_and_is_as_long_as_was_said(tmp_path: Path):
    files = {LONG: b"x" * 3_000_000, "empty": b"", "block": b"y" * 512, "odd": b"z"}
    packed = entries(tmp_path, files)
    data = b"".join(tar_pieces(packed, AT))
    assert len(data) == tar_bytes(packed)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getnames() == list(files)
        for member in tar:
            assert tar.extractfile(member).read() == files[member.name]
            assert (member.mtime, member.mode) == (AT.timestamp(), 0o644)


def test_no_piece_is_longer_than_a_mebibyte(tmp_path: Path):
    packed = entries(tmp_path, {"a": b"x" * 5_000_000})
    assert max(map(len, tar_pieces(packed, AT))) == 2**20


def test_a_file_beyond_eight_gibibytes_has_its_length_in_one_header():
    (header, *_) = tar_pieces([TarEntry("a", 2**34, lambda: Path("/dev/null"))], AT), None
    block = next(header)
    assert len(block) == 512
    assert tarfile.TarInfo.frombuf(block, "utf-8", "strict").size == 2**34


@pytest.mark.parametrize("size_bytes", [999, 1001])
def test_a_file_of_another_length_breaks_the_tar_off(tmp_path: Path, size_bytes: int):
    packed = entries(tmp_path, {"a": b"x" * 1000})
    (tmp_path / "0").write_bytes(b"x" * size_bytes)
    with pytest.raises(Corrupt):
        list(tar_pieces(packed, AT))


def test_files_are_looked_for_when_their_turn_comes(tmp_path: Path):
    packed = entries(tmp_path, {"a": b"x", "b": b"y"})
    (tmp_path / "1").unlink()
    pieces = tar_pieces(packed, AT)
    assert next(pieces)[:1] == b"a"
    with pytest.raises(FileNotFoundError):
        list(pieces)


def test_a_client_that_leaves_in_the_middle_leaves_no_file_open(tmp_path: Path):
    answer = TarResponse(entries(tmp_path, {"a": b"x" * 5_000_000}), AT, "a.tar")
    sent = 0

    async def send(message: Message) -> None:
        nonlocal sent
        sent += 1
        if sent == 3:  # head, header of the file, first piece
            raise OSError("gone")

    async def receive() -> Message:
        await anyio.sleep_forever()
        raise AssertionError

    with pytest.raises(ClientDisconnect):
        anyio.run(answer, {"type": "http", "asgi": {"spec_version": "2.4"}}, receive, send)
    assert str(tmp_path / "0") not in {os.path.realpath(path) for path in Path("/proc/self/fd").iterdir()}
    assert answer.headers["content-length"] == str(5_000_000 + 512 + (-5_000_000 % 512) + 1024)
