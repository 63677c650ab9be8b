"""The store in memory does what the model says; that in Redis: `tests/chaos/test_job_record.py`."""

from shared.jobs.memory_store import MemoryJobStore
from tests.support.job_record_machine import run_machine


def test_the_store_in_memory_does_what_the_model_says() -> None:
    assert len(run_machine(MemoryJobStore, runs=40, steps=30)) >= 40
