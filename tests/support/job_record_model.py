"""What a job's record should say after each step, without a store: plain rules, applied one at a time."""

from collections.abc import Iterable

from shared.contracts.jobs import FINAL_STATES, JobState
from shared.jobs.states import ARROWS


class Model:
    """One job as it should be."""

    def __init__(self, owner: str | None, parent: "Model | None" = None) -> None:
        self.owner = owner
        self.parent = parent
        self.children: dict[str, Model] = {}
        self.state = JobState.QUEUED
        self.epoch = 0
        self.attempts = 0
        self.taker: str | None = None
        self.lapsed = False
        self.lapse = 0
        """When it lapsed, among the lapses of all jobs."""
        self.cancel = False
        self.pause = False
        self.told = [JobState.QUEUED]
        self.notes = 0

    def move(self, state: JobState) -> None:
        assert state in ARROWS[self.state]
        self.state = state
        self.told.append(state)

    def end(self, state: JobState) -> None:
        """Leave the worker: to an end, or to the queue, or aside."""
        if state is JobState.QUEUED and self.pause:
            self.put_aside()
            return
        self.move(JobState.CANCELLED if self.cancel else state)
        if self.state in FINAL_STATES:
            self.pause = False
            self.tell_parent()

    def unfinished(self) -> "list[Model]":
        return [child for child in self.children.values() if child.state not in FINAL_STATES]

    def family(self) -> "Iterable[Model]":
        """It, all above it and all below those."""
        top = self
        while top.parent is not None:
            top = top.parent
        found = [top]
        for one in found:
            found += one.children.values()
        return found

    def tell_parent(self) -> None:
        parent = self.parent
        if parent is None or parent.state not in (JobState.WAITING, JobState.PAUSED):
            return
        if self.state is not JobState.SUCCEEDED:
            parent.cancel_children()
        if parent.state is JobState.WAITING and not parent.unfinished():
            parent.move(JobState.QUEUED)

    def is_held(self) -> bool:
        return self.state is JobState.RUNNING and not self.lapsed

    def held_by(self, epoch: int) -> bool:
        return self.state is JobState.RUNNING and self.epoch == epoch

    def request_cancel(self, *, among_others: bool = False) -> None:
        if self.cancel or self.state in FINAL_STATES:
            return
        self.cancel, self.pause = True, False
        if self.is_held():
            self.move(JobState.RUNNING)
            return
        self.move(JobState.CANCELLED)
        self.cancel_children()
        if not among_others:
            self.tell_parent()

    def cancel_children(self) -> None:
        for child in self.unfinished():
            child.request_cancel(among_others=True)

    def request_pause(self) -> None:
        if self.state in {*FINAL_STATES, JobState.PAUSED} or self.cancel:
            return
        if not self.is_held():
            self.put_aside()
        elif not self.pause:
            self.pause = True
            self.move(JobState.RUNNING)

    def put_aside(self) -> None:
        self.pause = False
        self.move(JobState.PAUSED)
        for child in self.unfinished():
            child.request_pause()

    def resume(self) -> bool:
        if self.state is JobState.RUNNING and self.pause:
            self.pause = False
            self.move(JobState.RUNNING)
            return True
        if self.state is not JobState.PAUSED:
            return False
        self.move(JobState.WAITING if self.unfinished() else JobState.QUEUED)
        for child in self.unfinished():
            child.resume()
        return True

    def settle(self) -> bool:
        """What becomes of it once its lease has lapsed, without a worker; tell whether anything did."""
        if self.cancel:
            self.end(JobState.CANCELLED)
        elif self.pause:
            self.put_aside()
        return self.state is not JobState.RUNNING
