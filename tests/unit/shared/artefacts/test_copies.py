from pathlib import Path

import pytest

from shared.artefacts.copies import CopyExchange


@pytest.fixture
def copies(tmp_path: Path) -> CopyExchange:
    return CopyExchange(tmp_path / "copies")


def test_the_newest_copy_of_a_member_is_read_with_its_epoch(copies: CopyExchange) -> None:
    for epoch in (1, 2, 3):
        copies.leave(0, 1, epoch, f"copy {epoch}".encode())
    assert copies.newest(0, 1) == (3, b"copy 3")


def test_members_and_seeds_are_kept_apart_and_where_nothing_lies_there_is_none(copies: CopyExchange) -> None:
    copies.leave(0, 1, 1, b"a")
    copies.leave(1, 1, 1, b"b")
    assert (copies.newest(0, 1), copies.newest(1, 1)) == ((1, b"a"), (1, b"b"))
    assert copies.newest(0, 0) is None
    assert copies.newest(2, 1) is None


def test_an_attempt_that_goes_back_does_not_take_a_later_copy_away(copies: CopyExchange) -> None:
    copies.leave(0, 1, 5, b"later")
    copies.leave(0, 1, 4, b"earlier")
    assert copies.newest(0, 1) == (5, b"later")


@pytest.mark.parametrize("damage", [b"", b"COPY", b"copy and more"])
def test_a_damaged_copy_is_as_good_as_none(copies: CopyExchange, tmp_path: Path, damage: bytes) -> None:
    copies.leave(0, 1, 1, b"copy")
    (file,) = (tmp_path / "copies" / "0").glob("*.safetensors")
    file.write_bytes(damage)
    assert copies.newest(0, 1) is None
    copies.leave(0, 1, 2, b"whole")
    assert copies.newest(0, 1) == (2, b"whole")


def test_a_damaged_pointer_is_as_good_as_none_and_is_replaced(copies: CopyExchange, tmp_path: Path) -> None:
    copies.leave(0, 1, 1, b"copy")
    (tmp_path / "copies" / "0" / "1.json").write_text('{"epoch": 1')
    assert copies.newest(0, 1) is None
    copies.leave(0, 1, 1, b"copy")
    assert copies.newest(0, 1) == (1, b"copy")


def test_only_a_few_copies_stay(copies: CopyExchange, tmp_path: Path) -> None:
    for epoch in range(1, 9):
        copies.leave(0, 1, epoch, b"copy")
        copies.leave(0, 11, epoch, b"copy of another")
    names = sorted(path.name for path in (tmp_path / "copies" / "0").glob("*.safetensors"))
    assert len(names) == 6
    assert names[0].startswith("1-000006")
