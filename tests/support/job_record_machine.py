"""Any order of steps, crashes, stalls and lapses: a job store does what a plain model of the record says.

The model knows nothing of stores: a state, an epoch, attempts, three flags, an owner, a parent and children.
A crash, or a holder that is stopped beyond its lease, is made by renewing for a moment and waiting it out; a
holder that wakes again comes with an epoch from before. A message is an `acquire`, and may come twice.
"""

import time
from collections.abc import Callable, Iterable
from itertools import count
from typing import Final

import pytest
from hypothesis import HealthCheck, Phase, settings
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

from shared.contracts.jobs import FINAL_STATES, Failure, JobEventKind, JobResult, JobState, JobView
from shared.errors import IdempotencyConflict, JobAlreadyFinal, JobNotPaused, LeaseLost
from shared.jobs.ports import JobStore
from shared.jobs.service import new_job_id
from tests.support.job_record_model import Model
from tests.support.jobs import teacher_spec

MOST: Final = 3
"""Attempts."""
OWNERS: Final = (None, "ada", "bob")
_lapses = count()


class JobRecord(RuleBasedStateMachine):
    """Several jobs, and workers that come, stall, die and come back with old epochs."""

    fresh: Callable[[], JobStore]
    """Gives an empty store."""
    done: list[int]
    """Steps of each run."""
    jobs = Bundle("jobs")

    def __init__(self) -> None:
        super().__init__()
        self.store = type(self).fresh()
        self.models: dict[str, Model] = {}
        self.keys: dict[tuple[str | None, str], tuple[str, str]] = {}
        self.touched: Model | None = None
        self.steps = 0

    def at(self, job_id: str) -> Model:
        self.touched = self.models[job_id]
        return self.touched

    # --- those who ask for jobs ----------------------------------------------------------------------------

    @rule(target=jobs, owner=st.sampled_from(OWNERS))
    def submit(self, owner: str | None) -> str:
        job_id = new_job_id()
        _, created = self.store.submit(job_id, teacher_spec(), owner=owner)
        assert created
        self.models[job_id] = Model(owner)
        return job_id

    @rule(
        target=jobs,
        owner=st.sampled_from(OWNERS),
        key=st.sampled_from("xy"),
        digest=st.sampled_from(["one", "one", "one", "two"]),
    )
    def submit_with_a_key(self, owner: str | None, key: str, digest: str) -> MultipleResults[str]:
        job_id = new_job_id()
        before = self.keys.get((owner, key))
        if before is not None and before[1] != digest:
            with pytest.raises(IdempotencyConflict):
                self.store.submit(job_id, teacher_spec(), key, digest, owner)
            return multiple()
        job, created = self.store.submit(job_id, teacher_spec(), key, digest, owner)
        if before is not None:
            assert (job.id, created) == (before[0], False)
            return multiple()
        assert (job.id, created) == (job_id, True)
        self.keys[owner, key] = job_id, digest
        self.models[job_id] = Model(owner)
        return multiple(job_id)

    @rule(job_id=jobs)
    def cancel(self, job_id: str) -> None:
        model = self.at(job_id)
        if model.state in (JobState.SUCCEEDED, JobState.FAILED):
            with pytest.raises(JobAlreadyFinal):
                self.store.request_cancel(job_id)
            return
        model.request_cancel()
        assert self.store.request_cancel(job_id).state is model.state

    @rule(job_id=jobs)
    def pause(self, job_id: str) -> None:
        model = self.at(job_id)
        if model.state in FINAL_STATES:
            with pytest.raises(JobAlreadyFinal):
                self.store.request_pause(job_id)
            return
        model.request_pause()
        assert self.store.request_pause(job_id).state is model.state

    @rule(job_id=jobs)
    def resume(self, job_id: str) -> None:
        model = self.at(job_id)
        if model.resume():
            assert self.store.resume(job_id).state is model.state
        else:
            with pytest.raises(JobNotPaused):
                self.store.resume(job_id)

    # --- workers -------------------------------------------------------------------------------------------

    @rule(job_id=jobs, messages=st.integers(1, 2), taker=st.sampled_from([None, "one", "one", "two"]))
    def acquire(self, job_id: str, messages: int = 1, taker: str | None = None) -> None:
        for _ in range(messages):
            self.a_message_comes(job_id, self.at(job_id), taker)

    def a_message_comes(self, job_id: str, model: Model, taker: str | None) -> None:
        grant = self.store.acquire(job_id, 60, MOST, taker)
        if model.is_held() and taker is not None and model.taker == taker:
            assert grant is not None
            assert (grant.epoch, grant.attempts) == (model.epoch, model.attempts)
            return
        may_run = not model.is_held() and model.state in (JobState.QUEUED, JobState.RUNNING)
        if not may_run or (model.state is JobState.RUNNING and model.settle()):
            assert grant is None
        elif model.attempts >= MOST:
            assert grant is None
            model.end(JobState.FAILED)
        else:
            model.epoch += 1
            model.attempts += 1
            model.taker = taker
            model.lapsed = False
            model.move(JobState.RUNNING)
            assert grant is not None
            assert (grant.epoch, grant.attempts, grant.owner) == (model.epoch, model.attempts, model.owner)
            ends = [(child_id, child.state) for child_id, child in model.children.items()]
            assert [(child.id, child.state) for child in grant.children] == ends
            assert all(state in FINAL_STATES for _, state in ends)

    @rule(job_id=jobs)
    def the_holder_dies_or_stalls_beyond_its_lease(self, job_id: str) -> None:
        model = self.at(job_id)
        if model.state is JobState.RUNNING:
            self.store.renew(job_id, model.epoch, 0.001)
            time.sleep(0.003)
            model.lapsed, model.lapse = True, next(_lapses)

    @rule()
    def reconcile(self) -> None:
        before = {job_id: model.state for job_id, model in self.models.items()}
        claimed = set(self.store.claim_due(1000))
        lapsed = [model for model in self.models.values() if model.state is JobState.RUNNING and model.lapsed]
        for model in sorted(lapsed, key=lambda one: one.lapse):
            # What was settled before may have ended it.
            if model.state is JobState.RUNNING:
                model.settle()
        for job_id in claimed:
            # One that was due earlier may have ended since with a sibling that is settled: the message finds
            # nothing to do.
            now = self.models[job_id].state
            assert before[job_id] in (JobState.QUEUED, JobState.RUNNING) or now is JobState.QUEUED
            assert now in (JobState.QUEUED, JobState.RUNNING, JobState.CANCELLED)
            assert not self.models[job_id].is_held()

    @rule(job_id=jobs, behind=st.integers(0, 2))
    def renew(self, job_id: str, behind: int) -> None:
        model = self.at(job_id)
        epoch = model.epoch - behind
        if model.held_by(epoch):
            signal = self.store.renew(job_id, epoch, 60)
            assert (signal.cancel_requested, signal.pause_requested) == (model.cancel, model.pause)
            model.lapsed = False
        else:
            with pytest.raises(LeaseLost):
                self.store.renew(job_id, epoch, 60)

    @rule(job_id=jobs, behind=st.integers(0, 2))
    def note(self, job_id: str, behind: int) -> None:
        model = self.at(job_id)
        epoch = model.epoch - behind
        if model.held_by(epoch):
            self.store.note(job_id, epoch, "still here")
            model.notes += 1
        else:
            with pytest.raises(LeaseLost):
                self.store.note(job_id, epoch, "still here")

    @rule(job_id=jobs, behind=st.integers(0, 2), end=st.sampled_from(["succeed", "fail", "cancelled"]))
    def finish(self, job_id: str, behind: int, end: str) -> None:
        model = self.at(job_id)
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
        model = self.at(job_id)
        epoch = model.epoch - behind
        reason = "killed" if died else None
        if model.held_by(epoch):
            if not model.cancel and not died:
                model.attempts -= 1
            model.end(JobState.QUEUED)
            assert self.store.release(job_id, epoch, died=reason) is model.state
        elif model.state in (JobState.QUEUED, JobState.PAUSED) and epoch == model.epoch:
            assert self.store.release(job_id, epoch, died=reason) is model.state
        else:
            with pytest.raises(LeaseLost):
                self.store.release(job_id, epoch, died=reason)

    @rule(target=jobs, job_id=jobs, behind=st.integers(0, 2), count=st.integers(0, 3), again=st.booleans())
    def wait(self, job_id: str, behind: int, count: int, again: bool) -> MultipleResults[str]:
        model = self.at(job_id)
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
                self.models[child] = model.children[child] = Model(model.owner, model)
            model.attempts -= 1
            if model.unfinished():
                model.move(JobState.WAITING)
                if model.pause:
                    model.put_aside()
            else:
                model.end(JobState.QUEUED)
        assert self.store.wait(job_id, epoch, children) is model.state
        return multiple(*made)

    # Several steps at once, which are rare in a random order and lead to where pauses and families meet.

    @rule(target=jobs, job_id=jobs, count=st.integers(1, 3))
    def acquire_and_wait(self, job_id: str, count: int) -> MultipleResults[str]:
        self.acquire(job_id)
        return self.wait(job_id, 0, count, again=False)

    @rule(job_id=jobs, end=st.sampled_from(["succeed", "succeed", "fail"]))
    def acquire_and_finish(self, job_id: str, end: str) -> None:
        self.acquire(job_id)
        self.finish(job_id, 0, end)

    @rule(job_id=jobs, asked=st.sampled_from(["pause", "cancel"]), dies=st.booleans(), seen=st.booleans())
    def acquire_and_ask(self, job_id: str, asked: str, dies: bool, seen: bool) -> None:
        self.acquire(job_id)
        self.pause(job_id) if asked == "pause" else self.cancel(job_id)
        if not dies:
            self.release(job_id, 0, died=False)
            return
        self.the_holder_dies_or_stalls_beyond_its_lease(job_id)
        if seen:
            self.reconcile()

    @rule(target=jobs, job_id=jobs, count=st.integers(1, 2))
    def acquire_pause_and_wait(self, job_id: str, count: int) -> MultipleResults[str]:
        self.acquire(job_id)
        self.pause(job_id)
        return self.wait(job_id, 0, count, again=False)

    @rule(job_id=jobs, end=st.sampled_from([None, "succeed", "fail"]), resumes=st.booleans())
    def a_parent_pauses(self, job_id: str, end: str | None, resumes: bool) -> None:
        """And its child ends meanwhile, or does not."""
        if self.models[job_id].parent is None:
            return
        parent = job_id.rpartition("-")[0]
        if end is not None:
            self.acquire(job_id)
        self.pause(parent)
        if end is not None:
            self.finish(job_id, 0, end)
        if resumes:
            self.resume(parent)

    # --- what always holds ---------------------------------------------------------------------------------

    @invariant()
    def every_record_is_as_the_model_says(self) -> None:
        self.steps += 1  # once before the first
        most = len(self.models) + 1
        for state in JobState:
            listed = {job.id: job for job in self.store.list(state, limit=most).jobs}
            assert set(listed) == {job_id for job_id, model in self.models.items() if model.state is state}
            for job_id, job in listed.items():
                self.is_as_the_model_says(job, self.models[job_id])
        if self.touched is not None:
            family = list(self.touched.family())
            self.events_are_as_the_model_says(job_id for job_id, m in self.models.items() if m in family)

    def is_as_the_model_says(self, job: JobView, model: Model) -> None:
        assert (job.state, job.epoch, job.attempts) == (model.state, model.epoch, model.attempts)
        assert (job.cancel_requested, job.pause_requested) == (model.cancel, model.pause)
        assert job.owner == model.owner
        assert (job.finished_at is not None) == (model.state in FINAL_STATES)
        assert (job.failure is not None) == (model.state is JobState.FAILED)
        assert job.children == tuple(model.children)
        if model.state is JobState.WAITING:
            assert job.progress is not None
            done = len(model.children) - len(model.unfinished())
            assert (job.progress.done, job.progress.total) == (done, len(model.children))

    def events_are_as_the_model_says(self, job_ids: Iterable[str]) -> None:
        for job_id in job_ids:
            events = self.store.events(job_id)
            told = [event.data["state"] for event in events if event.kind is JobEventKind.STATE]
            assert told == self.models[job_id].told
            notes = sum(event.kind is JobEventKind.NOTE for event in events)
            assert notes == self.models[job_id].notes

    @invariant()
    def who_waits_has_someone_to_wait_for(self) -> None:
        for model in self.models.values():
            assert (model.state is JobState.WAITING) <= bool(model.unfinished())
            # A job in any other state has no unfinished children but those that are being cancelled.
            if model.state not in (JobState.WAITING, JobState.PAUSED):
                assert all(child.cancel for child in model.unfinished())

    @invariant()
    def an_owner_lists_their_own(self) -> None:
        if self.touched is None or self.touched.owner is None:
            return
        owner = self.touched.owner
        cursor, seen = None, []
        while True:
            page = self.store.list(cursor=cursor, limit=7, owner=owner)
            seen += [job.id for job in page.jobs]
            cursor = page.next_cursor
            if cursor is None:
                break
        theirs = [job_id for job_id, model in self.models.items() if model.owner == owner][::-1]
        assert seen == theirs
        for state in {*self.touched.told[-2:]}:
            page = self.store.list(state, limit=len(theirs) + 1, owner=owner)
            assert [job.id for job in page.jobs] == [one for one in theirs if self.models[one].state is state]

    def teardown(self) -> None:
        self.events_are_as_the_model_says(self.models)
        self.done.append(self.steps - 1)


def run_machine(fresh: Callable[[], JobStore], runs: int, steps: int) -> list[int]:
    """Run the machine on an empty store each; return how many steps each run took, `steps` at most.

    Fails with the shortest story that the model and the store tell differently.
    """
    # A subclass a call: the store is no part of a Hypothesis example.
    machine = type("JobRecordOnStore", (JobRecord,), {"fresh": staticmethod(fresh), "done": []})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=runs,
            stateful_step_count=steps,
            deadline=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        ),
    )
    return list(machine.done)
