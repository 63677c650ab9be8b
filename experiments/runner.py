"""Runs an experiment through the public API: what was run before with the same spec is found again.

So an interrupted run goes on where it was, and experiments share teachers without knowing of each other.
"""

import importlib
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Protocol

from experiments.experiment import Action, Computation, Experiment, Form, JobStep, Outcomes, Step
from experiments.machine import commit, machine_of
from experiments.result import ExperimentResult, StepRun, Values
from shared.contracts.jobs import JobPage, JobState, JobView
from shared.contracts.reports import JobReport
from shared.contracts.specs import JobSpec
from shared.contracts.teachers import TeacherDescriptions

_GONE = frozenset({JobState.FAILED, JobState.CANCELLED})


class Api(Protocol):
    """The part of the public API that is needed here."""

    def submit(self, spec: JobSpec) -> JobView:
        """Submit a job."""
        ...

    def jobs(
        self, *, kind: str | None = None, limit: int | None = None, cursor: str | None = None
    ) -> JobPage:
        """Return a page of jobs, newest first."""
        ...

    def report(self, job_id: str) -> JobReport:
        """Return the report of a succeeded job."""
        ...

    def teachers(self) -> TeacherDescriptions:
        """Return all teachers as they are now."""
        ...


class Teller(Protocol):
    """Whoever tells a person how the run goes."""

    def step(self, step: Step, number: int, steps: int) -> None:
        """A step begins."""
        ...

    def found(self, job: JobView) -> None:
        """A job of the same spec was there."""
        ...

    def watch(self, job: JobView) -> JobView:
        """Show a job to its end; raise where it does not succeed."""
        ...


def run(experiment: Experiment, form: Form, api: Api, teller: Teller, *, command: str) -> ExperimentResult:
    """Run what was not run yet, read the reports, return what came of it.

    Errors of the API, and of a job that does not succeed, pass through.
    """
    steps = experiment.steps(form)
    reports: dict[str, JobReport] = {}
    computed: dict[str, dict[str, Values]] = {}
    ended: dict[str, JobView] = {}
    runs: list[StepRun] = []
    for number, step in enumerate(steps, start=1):
        teller.step(step, number, len(steps))
        if not isinstance(step, JobStep):
            began = time.perf_counter()
            computed[step.name] = _computed(step, form, api, Outcomes(form, reports, computed))
            seconds = time.perf_counter() - began
            runs.append(
                StepRun(
                    step=step.name,
                    kind="computation" if isinstance(step, Computation) else "action",
                    job_id=None,
                    seconds=seconds,
                    teacher_rows=0,
                    ended_at=datetime.now(UTC),
                    found=False,
                )
            )
            continue
        job, found = _ended(step, ended, api, teller)
        ended[step.name] = job
        report = reports[step.name] = api.report(job.id)
        runs.append(
            StepRun(
                step=step.name,
                kind=step.spec.kind,
                job_id=job.id,
                seconds=_seconds(job),
                teacher_rows=report.cost.teacher_rows,
                ended_at=job.finished_at,
                found=found,
            )
        )
    return ExperimentResult(
        name=experiment.name,
        title=experiment.title,
        source=experiment.source,
        published=experiment.published,
        to_reach=experiment.to_reach,
        form="reduced" if form.reduced else "full",
        left_out=experiment.reduced if form.reduced else "",
        finding=experiment.summarise(Outcomes(form, reports, computed)),
        seeds=form.seeds if reports else (),
        wall_s=round(sum(one.seconds for one in runs), 1),
        steps=tuple(runs),
        machine=machine_of(list(reports.values())),
        commit=commit(),
        command=command,
        finished_at=datetime.now(UTC),
    )


def find(step: JobStep, ended: dict[str, JobView], api: Api) -> JobView | None:
    """Return the newest job of this step's very spec that has not failed, or None.

    It counts only if it was asked for after the steps that it builds on had ended, and one that made a
    teacher only if the store holds that still under its name.

    Args:
        step: what is looked for.
        ended: the jobs of the steps before, by name of step.
        api: of the running stack.
    """
    earliest = max((ended[name].finished_at or ended[name].created_at for name in step.after), default=None)
    for job in _all(api, step.spec.kind):
        if job.spec != step.spec or job.state in _GONE or (earliest and job.created_at < earliest):
            continue
        if job.result is not None and job.result.teacher == job.spec.name and not _is_held(job, api):
            continue
        return job
    return None


def datasets_of(experiment: Experiment, form: Form) -> set[str]:
    """Return the names of the datasets that an experiment needs."""
    steps = [step.spec for step in experiment.steps(form) if isinstance(step, JobStep)]
    made = {name for step in experiment.steps(form) if isinstance(step, Action) for name in step.makes}
    return {spec.dataset for spec in steps if spec.dataset is not None} - made


def _computed(step: Computation | Action, form: Form, api: Api, outcomes: Outcomes) -> dict[str, Values]:
    module = importlib.import_module(step.module)
    found: dict[str, Values]
    if isinstance(step, Computation):
        found = module.run(form)
    else:
        found = getattr(module, step.function)(form, api, outcomes)
    return found


def _ended(step: JobStep, ended: dict[str, JobView], api: Api, teller: Teller) -> tuple[JobView, bool]:
    """Return the step's job at its end, and whether it was there before."""
    before = find(step, ended, api)
    if before is None:
        job = api.submit(step.spec)
    else:
        job = before
        teller.found(job)
    return job if job.state is JobState.SUCCEEDED else teller.watch(job), before is not None


def _all(api: Api, kind: str) -> Iterator[JobView]:
    cursor: str | None = None
    while True:
        page = api.jobs(kind=kind, limit=100, cursor=cursor)
        yield from page.jobs
        if page.next_cursor is None:
            return
        cursor = page.next_cursor


def _is_held(job: JobView, api: Api) -> bool:
    digest = job.result.teacher_digest if job.result else None
    return any(
        teacher.name == job.spec.name and teacher.digest == digest for teacher in api.teachers().teachers
    )


def _seconds(job: JobView) -> float:
    if job.started_at is None or job.finished_at is None:
        return 0.0
    return round((job.finished_at - job.started_at).total_seconds(), 1)
