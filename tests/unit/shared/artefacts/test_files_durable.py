"""What `files` promises to a loss of power, to a writer beside it, and to a process that opens many files."""

import errno
import fcntl
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.artefacts import files
from shared.artefacts.files import (
    exclusive_lock,
    publish_directory,
    remove_directory,
    stamp_of,
    sweep_temporaries,
    sync_directory,
    write_atomic,
    write_once,
)

STALE = f".a.{'0' * 16}.tmp"


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what reached the disk, in order: paths as they were at that moment."""
    found: list[str] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        found.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    return found


@pytest.fixture
def any_mode() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


# --- a loss of power ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [write_atomic, write_once])
def test_a_file_reaches_the_disk_before_its_name_and_then_the_name_does(
    write, tmp_path: Path, synced: list[str]
) -> None:
    write(tmp_path / "a", b"text")
    content, folder = synced
    assert Path(content).name.startswith(".a.")
    assert folder == str(tmp_path)


def test_all_of_a_folder_reaches_the_disk_before_its_name_and_then_the_name_does(
    tmp_path: Path, synced: list[str]
) -> None:
    def build(directory: Path) -> None:
        (directory / "b").mkdir()
        (directory / "b" / "c").write_bytes(b"text")

    assert publish_directory(tmp_path / "a", build)
    ends = [path.split(".tmp")[1] for path in synced[:-1]]
    assert sorted(ends) == ["", "/b", "/b/c"]
    assert synced[-1] == str(tmp_path)


def test_a_folder_that_is_removed_stays_so(tmp_path: Path, synced: list[str]) -> None:
    (tmp_path / "a").mkdir()
    remove_directory(tmp_path / "a")
    assert synced == [str(tmp_path)]


def test_a_folder_is_synced_by_its_name(tmp_path: Path, synced: list[str]) -> None:
    sync_directory(tmp_path)
    assert synced == [str(tmp_path)]


# --- what is told ------------------------------------------------------------------------------------------


def test_who_comes_second_is_told_so(tmp_path: Path) -> None:
    assert write_once(tmp_path / "a", b"first") is True
    assert write_once(tmp_path / "a", b"second") is False
    assert publish_directory(tmp_path / "x" / "y" / "b", lambda _: None) is True
    assert publish_directory(tmp_path / "x" / "y" / "b", lambda _: None) is False
    assert publish_directory(tmp_path / "x" / "y" / "c", lambda _: _fill(tmp_path / "x/y/c")) is False


def _fill(directory: Path) -> None:
    directory.mkdir()
    (directory / "d").touch()


def test_a_folder_that_cannot_get_its_name_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="No space"):
        publish_directory(tmp_path / "a", lambda _: None)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("any_mode")
def test_files_have_the_mode_that_the_umask_grants(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", b"text")
    with exclusive_lock(tmp_path / "b"):
        pass
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in "ab"] == [0o666, 0o666]


def test_a_stamp_changes_with_the_file(tmp_path: Path) -> None:
    assert stamp_of(tmp_path / "a") is None
    write_atomic(tmp_path / "a", b"text")
    before = stamp_of(tmp_path / "a")
    assert before is not None
    assert stamp_of(tmp_path / "a") == before
    write_atomic(tmp_path / "a", b"text")
    assert stamp_of(tmp_path / "a") != before


# --- removing ----------------------------------------------------------------------------------------------


def test_a_folder_loses_its_name_first_and_is_removed_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    rmtree = shutil.rmtree

    def remove(path: Path, **options: object) -> None:
        assert not (tmp_path / "a").exists()
        assert (path / "b").exists()
        rmtree(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(shutil, "rmtree", remove)
    assert remove_directory(tmp_path / "a") is True
    assert not list(tmp_path.iterdir())
    assert remove_directory(tmp_path / "a") is False


@pytest.mark.parametrize("what", ["removes", "sweeps", "builds"])
def test_what_another_removes_meanwhile_is_no_error(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rmtree = shutil.rmtree

    def remove_twice(path: Path, **options: object) -> None:
        rmtree(path)
        rmtree(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(shutil, "rmtree", remove_twice)
    (tmp_path / "a").mkdir()
    (tmp_path / STALE).mkdir()
    if what == "removes":
        assert remove_directory(tmp_path / "a")
    elif what == "sweeps":
        sweep_temporaries(tmp_path)
    else:
        with pytest.raises(ZeroDivisionError):
            publish_directory(tmp_path / "c", lambda _: [][1 // 0])
    assert not (tmp_path / STALE).exists() or what == "removes"


# --- those who write beside --------------------------------------------------------------------------------


def test_the_temporary_of_a_writer_is_locked_while_it_lives(tmp_path: Path) -> None:
    with files._temporary_file(tmp_path / "a", b"text") as temporary:
        sweep_temporaries(tmp_path)
        assert temporary.read_bytes() == b"text"
    assert not temporary.exists()
    with files._temporary_directory(tmp_path / "a") as temporary:
        sweep_temporaries(tmp_path)
        assert temporary.is_dir()
    assert not temporary.exists()


@pytest.mark.parametrize("of", ["file", "folder"])
def test_a_temporary_that_is_swept_between_its_birth_and_its_lock_is_made_anew(
    of: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, swept = fcntl.flock, []

    def sweep_first(descriptor: int, how: int) -> None:
        if not swept:
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            swept.append(path)
            path.unlink() if path.is_file() else path.rmdir()
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", sweep_first)
    if of == "file":
        write_atomic(tmp_path / "a", b"text")
        assert (tmp_path / "a").read_bytes() == b"text"
    else:
        assert publish_directory(tmp_path / "a", lambda aside: (aside / "b").touch())
        assert (tmp_path / "a" / "b").exists()
    assert swept


def test_a_folder_that_is_swept_before_it_can_be_opened_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, swept = os.open, []

    def sweep_first(path: Path, flags: int, mode: int = 0o777) -> int:
        if not swept and str(path).endswith(".tmp"):
            swept.append(path)
            Path(path).rmdir()
        return opened(path, flags, mode)

    monkeypatch.setattr(os, "open", sweep_first)
    assert publish_directory(tmp_path / "a", lambda aside: (aside / "b").touch())
    assert swept
    assert (tmp_path / "a" / "b").exists()


def test_a_temporary_that_its_writer_has_just_finished_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        (tmp_path / f".a.{number:016x}.tmp").touch()
    opened, finished = os.open, []

    def finish_first(path: Path, flags: int, mode: int = 0o777) -> int:
        if not finished:
            finished.append(path)
            Path(path).unlink()
        return opened(path, flags, mode)

    monkeypatch.setattr(os, "open", finish_first)
    sweep_temporaries(tmp_path)
    assert finished
    assert not list(tmp_path.iterdir())


def test_a_temporary_that_two_sweep_at_once_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / STALE).touch()
    flock = fcntl.flock

    def sweep_first(descriptor: int, how: int) -> None:
        (tmp_path / STALE).unlink()
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", sweep_first)
    sweep_temporaries(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_living_writer_does_not_keep_the_rest_from_being_swept(tmp_path: Path) -> None:
    names = [f".a.{number:016x}.tmp" for number in range(5)]
    for name in names:
        (tmp_path / name).touch()
    with (tmp_path / names[2]).open() as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)
        sweep_temporaries(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [names[2]]


# --- a lock ------------------------------------------------------------------------------------------------


def test_a_lock_is_held_against_everybody_else_and_given_back(tmp_path: Path) -> None:
    lock, order = tmp_path / "x" / "y" / "lock", []
    inside, leave = threading.Event(), threading.Event()

    def first() -> None:
        with exclusive_lock(lock):
            inside.set()
            leave.wait(10)
            order.append("first leaves")

    def second() -> None:
        with exclusive_lock(lock):
            order.append("second enters")

    holder, other = threading.Thread(target=first), threading.Thread(target=second)
    holder.start()
    assert inside.wait(10)
    other.start()
    other.join(0.2)
    assert other.is_alive()
    leave.set()
    holder.join(10)
    other.join(10)
    assert order == ["first leaves", "second enters"]


def test_nothing_stays_open(tmp_path: Path) -> None:
    before = open_files()
    for number in range(3):
        write_atomic(tmp_path / "a", b"text")
        write_once(tmp_path / "b", b"text")
        publish_directory(tmp_path / f"c{number}", lambda _: None)
        remove_directory(tmp_path / "c0")
        (tmp_path / STALE).touch()
        sweep_temporaries(tmp_path)
        with exclusive_lock(tmp_path / "lock"):
            pass
    assert open_files() == before
