"""The ledger: nothing is granted twice, whoever asks and whoever dies."""

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from services.teacher.ledger import BLOCK_ROWS, Ledger
from shared.errors import Corrupt, StoreFull

KEY = "abcdefgh0123"
BUDGET = 100_000


def test_what_is_taken_is_on_disk_before_it_is_granted(tmp_path: Path):
    granted = Ledger(tmp_path).take(KEY, 10, BUDGET)
    assert granted == 10 + BLOCK_ROWS
    assert Ledger(tmp_path).taken(KEY) == granted


def test_never_more_is_granted_than_the_budget_and_all_of_it_can_be(tmp_path: Path):
    ledger, granted = Ledger(tmp_path), 0
    while got := ledger.take(KEY, 7, 10_000):
        granted += got
        assert granted <= 10_000
    assert 10_000 - granted < 7
    assert ledger.take(KEY, 10_000 - granted, 10_000) == 10_000 - granted
    assert ledger.take(KEY, 1, 10_000) == 0


def test_little_is_taken_ahead_of_a_budget_that_is_nearly_spent(tmp_path: Path):
    assert Ledger(tmp_path).take(KEY, 1, 17) == 3


def test_what_is_put_back_can_be_taken_again(tmp_path: Path):
    ledger = Ledger(tmp_path)
    granted = ledger.take(KEY, 100, 100)
    assert ledger.take(KEY, 1, 100) == 0
    ledger.put_back(KEY, granted)
    assert ledger.taken(KEY) == 0
    assert ledger.take(KEY, 100, 100) == 100


def test_keys_have_budgets_of_their_own(tmp_path: Path):
    ledger = Ledger(tmp_path)
    assert ledger.take(KEY, 5, 5) == 5
    assert ledger.take("other0000000", 5, 5) == 5


def test_threads_and_processes_that_share_a_ledger_grant_each_row_once(tmp_path: Path):
    code = (
        "import sys; from pathlib import Path; from services.teacher.ledger import Ledger\n"
        "ledger, total = Ledger(Path(sys.argv[1])), 0\n"
        f"while got := ledger.take({KEY!r}, 1, 3000): total += got\n"
        "print(total)"
    )
    others = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    ledger, lock, total = Ledger(tmp_path), threading.Lock(), 0

    def take(_: int) -> None:
        nonlocal total
        while got := ledger.take(KEY, 1, 3000):
            with lock:
                total += got

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(take, range(4)))
    assert total + sum(int(other.communicate()[0]) for other in others) == 3000


def test_a_process_that_is_killed_gives_no_row_away(tmp_path: Path):
    """It prints each grant after it was granted: more than that may be noted as taken, never less."""
    code = (
        "import sys; from pathlib import Path; from services.teacher.ledger import Ledger\n"
        "ledger = Ledger(Path(sys.argv[1]))\n"
        f"while True: print(ledger.take({KEY!r}, 1, 10**12), flush=True)"
    )
    for _ in range(3):
        before = Ledger(tmp_path).taken(KEY)
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(20)]
        os.kill(process.pid, signal.SIGKILL)
        lines += process.stdout.read().splitlines()
        process.wait()
        process.stdout.close()
        granted = sum(int(line) for line in lines if line.strip())
        taken = Ledger(tmp_path).taken(KEY) - before
        assert granted <= taken <= granted + 1 + BLOCK_ROWS


def test_a_damaged_file_grants_nothing(tmp_path: Path):
    ledger = Ledger(tmp_path)
    ledger.take(KEY, 1, BUDGET)
    (tmp_path / f"{KEY}.json").write_text('{"rows": -5}')
    with pytest.raises(Corrupt):
        ledger.take(KEY, 1, BUDGET)


def test_a_full_disk_is_named_and_grants_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    ledger = Ledger(tmp_path)
    granted = ledger.take(KEY, 1, BUDGET)
    with monkeypatch.context() as disk:
        disk.setattr("services.teacher.ledger.write_atomic", full)
        with pytest.raises(StoreFull, match=KEY):
            ledger.take(KEY, 1, BUDGET)
        with pytest.raises(StoreFull, match=KEY):
            ledger.put_back(KEY, granted)
    assert ledger.taken(KEY) == granted
