"""Any order of steps, crashes and lapses: both stores do what a plain model of the record says.

The model knows nothing of stores: a state, an epoch, attempts, two flags, a parent and children. A lapse is
made by renewing for a moment and waiting it out, as a worker does that is paused.
"""

import time

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from shared.adapters.redis_jobs import RedisJobStore
from shared.contracts.jobs import FINAL_STATES, Failure, JobEventKind, JobResult, JobState
from shared.errors import JobAlreadyFinal, LeaseLost
from shared.jobs.memory_store import MemoryJobStore
from shared.jobs.ports import JobStore
from shared.jobs.service import new_job_id
from shared.jobs.states import ARROWS
from tests.support.jobs import teacher_spec

MOST = 3
STEPS = 30
MOST_JOBS = 3 * STEPS
"""In one example, whose steps each make up to three; lists begin with the newest."""


class Model:
    """One job as it should be."""

    def __init__(self, parent: "Model | None" = None) -> None:
        self.parent = parent
        self.children: dict[str, Model] = {}
        self.state = JobState.QUEUED
        self.epoch = 0
        self.attempts = 0
        self.lapsed = False
        self.cancel = False
        self.told = [JobState.QUEUED]

    def move(self, state: JobState) -> None:
        assert state in ARROWS[self.state]
        self.state = state
        self.told.append(state)

    def end(self, state: JobState) -> None:
        self.move(JobState.CANCELLED if self.cancel else state)
        if self.state in FINAL_STATES:
            self.tell_parent()

    def unfinished(self) -> "list[Model]":
        return [child for child in self.children.values() if child.state not in FINAL_STATES]

    def tell_parent(self) -> None:
        parent = self.parent
        if parent is None or parent.state is not JobState.WAITING:
            return
        if self.state is not JobState.SUCCEEDED:
            parent.cancel_children()
        if not parent.unfinished():
            parent.move(JobState.QUEUED)

    def request_cancel(self, *, among_others: bool = False) -> None:
        if self.cancel or self.state in FINAL_STATES:
            return
        self.cancel = True
        if self.state is JobState.RUNNING and not self.lapsed:
            self.move(JobState.RUNNING)
            return
        self.move(JobState.CANCELLED)
        self.cancel_children()
        if not among_others:
            self.tell_parent()

    def cancel_children(self) -> None:
        for child in self.unfinished():
            child.request_cancel(among_others=True)

    def held_by(self, epoch: int) -> bool:
        return self.state is JobState.RUNNING and self.epoch == epoch


class JobRecord(RuleBasedStateMachine):
    """Several jobs, and workers that come, stall, die and come back with old epochs."""

    store: JobStore
    jobs = Bundle("jobs")

    def __init__(self) -> None:
        super().__init__()
        self.models: dict[str, Model] = {}

    @rule(target=jobs)
    def submit(self) -> str:
        job_id = new_job_id()
        _, created = self.store.submit(job_id, teacher_spec())
        assert created
        self.models[job_id] = Model()
        return job_id

    @rule(job_id=jobs)
    def acquire(self, job_id: str) -> None:
        grant = self.store.acquire(job_id, 60, MOST)
        model = self.models[job_id]
        taken = model.state is JobState.RUNNING and not model.lapsed
        if taken or model.state in {*FINAL_STATES, JobState.WAITING}:
            assert grant is None
        elif model.cancel or model.attempts >= MOST:
            assert grant is None
            model.end(JobState.FAILED)
        else:
            model.epoch += 1
            model.attempts += 1
            model.lapsed = False
            model.move(JobState.RUNNING)
            assert grant is not None
            assert (grant.epoch, grant.attempts) == (model.epoch, model.attempts)
            ends = [(child_id, child.state) for child_id, child in model.children.items()]
            assert [(child.id, child.state) for child in grant.children] == ends
            assert all(state in FINAL_STATES for _, state in ends)

    @rule(job_id=jobs)
    def lease_lapses(self, job_id: str) -> None:
        model = self.models[job_id]
        if model.state is JobState.RUNNING:
            self.store.renew(job_id, model.epoch, 0.001)
            time.sleep(0.003)
            model.lapsed = True

    @rule(job_id=jobs, behind=st.integers(0, 2))
    def renew(self, job_id: str, behind: int) -> None:
        model = self.models[job_id]
        epoch = model.epoch - behind
        if model.held_by(epoch):
            assert self.store.renew(job_id, epoch, 60).cancel_requested == model.cancel
            model.lapsed = False
        else:
            with pytest.raises(LeaseLost):
                self.store.renew(job_id, epoch, 60)

    @rule(job_id=jobs, behind=st.integers(0, 2), end=st.sampled_from(["succeed", "fail", "cancelled"]))
    def finish(self, job_id: str, behind: int, end: str) -> None:
        model = self.models[job_id]
        epoch = model.epoch - behind
        calls = {
            "succeed": (lambda: self.store.succeed(job_id, epoch, JobResult()), JobState.SUCCEEDED),
            "fail": (lambda: self.store.fail(job_id, epoch, Failure(code="c", detail="d")), JobState.FAILED),
            "cancelled": (lambda: self.store.cancelled(job_id, epoch), JobState.CANCELLED),
        }
        call, state = calls[end]
        if model.held_by(epoch):
            model.end(state)
            assert call() is model.state
        elif model.state in FINAL_STATES and epoch == model.epoch:
            assert call() is model.state
        else:
            with pytest.raises(LeaseLost):
                call()

    @rule(job_id=jobs, behind=st.integers(0, 2), died=st.booleans())
    def release(self, job_id: str, behind: int, died: bool) -> None:
        model = self.models[job_id]
        epoch = model.epoch - behind
        reason = "killed" if died else None
        if model.held_by(epoch):
            if not model.cancel and not died:
                model.attempts -= 1
            model.end(JobState.QUEUED)
            assert self.store.release(job_id, epoch, died=reason) is model.state
        elif model.state is JobState.QUEUED and epoch == model.epoch:
            assert self.store.release(job_id, epoch, died=reason) is JobState.QUEUED
        else:
            with pytest.raises(LeaseLost):
                self.store.release(job_id, epoch, died=reason)

    @rule(target=jobs, job_id=jobs, behind=st.integers(0, 2), count=st.integers(0, 3), again=st.booleans())
    def wait(self, job_id: str, behind: int, count: int, again: bool) -> MultipleResults[str]:
        model = self.models[job_id]
        epoch = model.epoch - behind
        begin = 0 if again else len(model.children)
        children = [(f"{job_id}-{number:03}", teacher_spec()) for number in range(begin, begin + count)]
        made: list[str] = []
        if not model.held_by(epoch):
            if model.state is not JobState.RUNNING and epoch == model.epoch:
                assert self.store.wait(job_id, epoch, children) is model.state
            else:
                with pytest.raises(LeaseLost):
                    self.store.wait(job_id, epoch, children)
            return multiple()
        if model.cancel:
            model.end(JobState.CANCELLED)
        else:
            made = [child for child, _ in children if child not in model.children]
            for child in made:
                self.models[child] = model.children[child] = Model(model)
            model.attempts -= 1
            model.move(JobState.WAITING if model.unfinished() else JobState.QUEUED)
        assert self.store.wait(job_id, epoch, children) is model.state
        return multiple(*made)

    # Two steps at once, which are rare in a random order and lead to where parents and children meet.

    @rule(target=jobs, job_id=jobs, count=st.integers(1, 3))
    def acquire_and_wait(self, job_id: str, count: int) -> MultipleResults[str]:
        self.acquire(job_id)
        return self.wait(job_id, 0, count, again=False)

    @rule(job_id=jobs, end=st.sampled_from(["succeed", "succeed", "fail"]))
    def acquire_and_finish(self, job_id: str, end: str) -> None:
        self.acquire(job_id)
        self.finish(job_id, 0, end)

    @rule(job_id=jobs)
    def cancel(self, job_id: str) -> None:
        model = self.models[job_id]
        if model.state in (JobState.SUCCEEDED, JobState.FAILED):
            with pytest.raises(JobAlreadyFinal):
                self.store.request_cancel(job_id)
            return
        model.request_cancel()
        assert self.store.request_cancel(job_id).state is model.state

    @invariant()
    def every_record_is_as_the_model_says(self) -> None:
        for job_id, model in self.models.items():
            job = self.store.get(job_id)
            assert (job.state, job.epoch, job.attempts) == (model.state, model.epoch, model.attempts)
            assert job.cancel_requested == model.cancel
            assert (job.finished_at is not None) == (model.state in FINAL_STATES)
            assert (job.failure is not None) == (model.state is JobState.FAILED)
            told = [e.data["state"] for e in self.store.events(job_id) if e.kind is JobEventKind.STATE]
            assert told == model.told
            assert job.children == tuple(model.children)
            if model.state is JobState.WAITING:
                assert job.progress is not None
                done = len(model.children) - len(model.unfinished())
                assert (job.progress.done, job.progress.total) == (done, len(model.children))

    @invariant()
    def who_waits_has_someone_to_wait_for(self) -> None:
        for model in self.models.values():
            assert (model.state is JobState.WAITING) <= bool(model.unfinished())
            # A job in any other state has no unfinished children but those that are being cancelled.
            if model.state is not JobState.WAITING:
                assert all(child.cancel for child in model.unfinished())

    @invariant()
    def lists_agree_with_the_records(self) -> None:
        for state in JobState:
            listed = {job.id for job in self.store.list(state, limit=MOST_JOBS).jobs}
            assert listed >= {job_id for job_id, model in self.models.items() if model.state is state}
            assert not listed & {job_id for job_id, model in self.models.items() if model.state is not state}


def run(store: JobStore, examples: int) -> None:
    # A subclass a run: the store is no part of a Hypothesis example.
    machine = type("JobRecordOnStore", (JobRecord,), {"store": store})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_the_store_in_memory_does_what_the_model_says() -> None:
    run(MemoryJobStore(), 40)


@pytest.mark.integration
def test_the_store_in_redis_does_what_the_model_says(redis_url: str) -> None:
    store = RedisJobStore(redis_url)
    run(store, 40)
    store.close()
