"""Files and folders that are whole or not there."""

import fcntl
import multiprocessing
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shared.artefacts.files import (
    canonical_json,
    digest_of,
    publish_directory,
    sha256_bytes,
    sha256_file,
    sweep_temporaries,
    write_atomic,
    write_once,
)


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_digest_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    assert sha256_file(tmp_path / "a") == sha256_bytes(b"abc") == known


def test_canonical_json_does_not_depend_on_the_order_of_keys() -> None:
    assert canonical_json({"b": 1, "a": "é"}) == '{"a":"é","b":1}'.encode()
    assert digest_of({"b": 1, "a": 2}) == digest_of({"a": 2, "b": 1}) != digest_of({"a": 1, "b": 2})


def test_canonical_json_refuses_nan() -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"a": float("nan")})


def test_write_atomic_replaces_the_whole_file_and_leaves_no_temporary(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", b"longer text")
    write_atomic(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert names_in(tmp_path) == ["a"]


def test_write_atomic_keeps_the_old_file_when_writing_fails(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", b"old")
    with pytest.raises(TypeError):
        write_atomic(tmp_path / "a", "no bytes")  # type: ignore[arg-type]
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names_in(tmp_path) == ["a"]


def test_write_once_keeps_what_the_first_wrote(tmp_path: Path) -> None:
    assert write_once(tmp_path / "a", b"first")
    assert not write_once(tmp_path / "a", b"second")
    assert (tmp_path / "a").read_bytes() == b"first"
    assert names_in(tmp_path) == ["a"]


def test_published_folder_appears_whole(tmp_path: Path) -> None:
    final = tmp_path / "deep" / "folder"
    assert publish_directory(final, lambda folder: write_atomic(folder / "a", b"1"))
    assert (final / "a").read_bytes() == b"1"
    assert names_in(final.parent) == ["folder"]


def test_published_folder_is_not_replaced(tmp_path: Path) -> None:
    final = tmp_path / "folder"
    publish_directory(final, lambda folder: write_atomic(folder / "a", b"1"))
    assert not publish_directory(final, lambda folder: write_atomic(folder / "a", b"2"))
    assert (final / "a").read_bytes() == b"1"


def test_folder_published_by_another_meanwhile_is_kept(tmp_path: Path) -> None:
    final = tmp_path / "folder"

    def slow(folder: Path) -> None:
        write_atomic(folder / "a", b"slow")
        publish_directory(final, lambda other: write_atomic(other / "a", b"quick"))

    assert not publish_directory(final, slow)
    assert (final / "a").read_bytes() == b"quick"
    assert names_in(tmp_path) == ["folder"]


def test_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        write_atomic(folder / "a", b"1")
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        publish_directory(tmp_path / "folder", build)
    assert names_in(tmp_path) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from shared.artefacts.files import publish_directory, write_atomic

def build(folder):
    write_atomic(folder / "a", b"1")
    os.kill(os.getpid(), signal.SIGKILL)

publish_directory(Path(sys.argv[1]), build)
"""


@pytest.mark.integration
def test_killed_build_leaves_no_folder_and_the_next_one_clears_up(tmp_path: Path) -> None:
    final = tmp_path / "folder"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(final)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not final.exists()
    assert len(names_in(tmp_path)) == 1
    assert publish_directory(final, lambda folder: write_atomic(folder / "a", b"2"))
    assert names_in(tmp_path) == ["folder"]


def test_sweeping_spares_the_temporaries_of_living_writers(tmp_path: Path) -> None:
    alive, dead = tmp_path / f".a.{'0' * 16}.tmp", tmp_path / f".b.{'1' * 16}.tmp"
    alive.touch()
    dead.touch()
    (tmp_path / "bystander.tmp").touch()
    with alive.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        sweep_temporaries(tmp_path)
    assert names_in(tmp_path) == [alive.name, "bystander.tmp"]


def _publish_often(root: Path, process: int) -> None:
    for i in range(40):
        publish_directory(root / f"folder-{i}", lambda folder: write_atomic(folder / "a", b"%d" % process))
        write_atomic(root / "file", b"%d" % process * 1000)
        write_once(root / f"once-{i}", b"%d" % process)


@pytest.mark.integration
def test_processes_that_publish_and_sweep_at_once_disturb_nobody(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_publish_often, args=(tmp_path, i)) for i in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    expected = {"file", *(f"folder-{i}" for i in range(40)), *(f"once-{i}" for i in range(40))}
    assert set(names_in(tmp_path)) == expected
    assert len(set((tmp_path / "file").read_bytes())) == 1
