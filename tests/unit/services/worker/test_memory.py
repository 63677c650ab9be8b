"""What a process holds is seen as it is, and more than it may is told."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import ValidationError

from services.worker import memory
from services.worker.memory import MemoryWatch, held_bytes, in_words, oom_kills
from services.worker.settings import WorkerSettings

pytestmark = pytest.mark.integration
MIB = 1 << 20


@contextmanager
def process(code: str) -> Iterator[int]:
    """Run code in a process of its own; provide its pid once it has said a line."""
    child = subprocess.Popen(
        [sys.executable, "-c", code + "\nprint(flush=True)\ninput()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    try:
        child.stdout.readline()
        yield child.pid
    finally:
        child.communicate(b"\n")


HOLDS = "held = bytearray(b'x') * (100 << 20)"


def test_what_a_process_holds_is_told_in_bytes() -> None:
    with process("") as small, process(HOLDS) as large:
        assert 100 * MIB <= held_bytes(large) - held_bytes(small) < 110 * MIB


def test_helpers_of_a_process_count_and_mapped_files_do_not(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(100 * MIB))
    reads = f"""
import mmap
with open({str(tmp_path / "file")!r}, "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
sum(mapped[::4096])
"""
    starts = f"""
import subprocess, sys
helper = subprocess.Popen([sys.executable, "-c", {HOLDS + "; print(flush=True); input()"!r}],
                          stdout=subprocess.PIPE)
helper.stdout.readline()
"""
    with process(reads) as reader:
        assert held_bytes(reader) < 50 * MIB
    with process(starts) as starter:
        assert held_bytes(starter) > 100 * MIB


def test_a_process_that_is_gone_holds_nothing() -> None:
    with process("") as pid:
        pass
    assert held_bytes(pid) == 0


def test_more_than_the_limit_is_told_and_stays_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_LOOK_S", 0.0)
    with process(HOLDS) as pid:
        watch, roomy = MemoryWatch(pid, 100 * MIB), MemoryWatch(pid, 1000 * MIB)
        assert watch.is_over()
        assert not roomy.is_over()
        assert roomy.peak_bytes == watch.peak_bytes > 100 * MIB
    assert watch.is_over()
    assert not roomy.is_over()


def test_exactly_the_limit_is_not_more_than_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "held_bytes", lambda _: 100)
    assert not MemoryWatch(1, 100).is_over()
    assert MemoryWatch(1, 99).is_over()


def test_without_a_limit_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "held_bytes", lambda _: pytest.fail("it looked"))
    assert not MemoryWatch(1, None).is_over()


def test_it_looks_again_only_after_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    monkeypatch.setattr(memory, "held_bytes", lambda pid: looks.append(pid) or 0)
    monkeypatch.setattr(memory, "_LOOK_S", 60.0)
    watch = MemoryWatch(7, 1)
    watch.is_over()
    watch.is_over()
    assert looks == [7]
    monkeypatch.setattr(memory, "_LOOK_S", 0.0)
    watch._next_look = time.monotonic()
    watch.is_over()
    assert looks == [7, 7]


def test_what_the_kernel_killed_for_lack_of_memory_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vmstat = tmp_path / "vmstat"
    vmstat.write_text("nr_free_pages 1\noom_kill 41\nnuma_hit 7\n")
    assert oom_kills(vmstat) == 41
    vmstat.write_text("nr_free_pages 1\n")
    assert oom_kills(vmstat) == 0
    assert oom_kills(tmp_path / "missing") == 0
    counts = iter([3, 3, 4])
    monkeypatch.setattr(memory, "oom_kills", lambda: next(counts))
    watch = MemoryWatch(1, None)
    assert not watch.kernel_killed()
    assert watch.kernel_killed()


def test_sizes_are_told_as_people_read_them() -> None:
    assert [in_words(size) for size in (100 * MIB, 1023 * MIB, 1024 * MIB, 3584 * MIB)] == [
        "100 MiB",
        "1023 MiB",
        "1.0 GiB",
        "3.5 GiB",
    ]


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ("33554432", 32 * MIB),
        ("33554432b", 32 * MIB),
        ("65536k", 64 * MIB),
        ("512M", 512 * MIB),
        ("4g", 4096 * MIB),
        ("", None),
    ],
)
def test_the_limit_is_written_as_docker_writes_it(
    given: str, size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKER_MEMORY_LIMIT", given)
    assert WorkerSettings().memory_limit == size


@pytest.mark.parametrize("given", ["much", "4gb", "-1g", "1m", "g", "1.5g"])
def test_a_limit_that_is_none_or_too_small_to_start_in_is_refused(given: str) -> None:
    with pytest.raises(ValidationError):
        WorkerSettings(memory_limit=given)  # type: ignore[arg-type]
