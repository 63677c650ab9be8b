"""Which requests a canary takes."""

import subprocess
import sys

from services.gateway.traffic.canary import Split, place


class Candidate:
    version = "digits-2"


def split(share):
    return Split(Candidate(), share)  # type: ignore[arg-type]


KEYS = [f"user-{number}" for number in range(2000)]


def test_a_key_gets_the_same_student_in_every_process_and_after_a_restart():
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            "from services.gateway.traffic.canary import place\n"
            "print([place(f'user-{n}', 'digits-2') < 0.3 for n in range(50)])",
        ],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert told.strip() == str([split(0.3).takes(key) for key in KEYS[:50]])


def test_the_share_of_keys_is_the_share_asked_for():
    # Four standard deviations of a share of 2000.
    for share in (0.05, 0.5, 0.9):
        taken = sum(split(share).takes(key) for key in KEYS) / len(KEYS)
        assert abs(taken - share) < 4 * (share * (1 - share) / len(KEYS)) ** 0.5


def test_a_larger_share_takes_no_key_away_from_the_candidate():
    small = {key for key in KEYS if split(0.1).takes(key)}
    assert small
    assert small <= {key for key in KEYS if split(0.4).takes(key)}


def test_another_candidate_meets_other_keys():
    first = {key for key in KEYS if place(key, "digits-2") < 0.1}
    second = {key for key in KEYS if place(key, "digits-3") < 0.1}
    assert len(first & second) < len(first) / 2


def test_without_a_key_a_share_of_the_requests_is_taken():
    one = split(0.3)
    taken = sum(one.takes(None) for _ in range(5000)) / 5000
    assert abs(taken - 0.3) < 0.04


def test_the_whole_share_takes_every_request():
    one = split(1.0)
    assert all(one.takes(key) for key in [*KEYS, None, ""])
