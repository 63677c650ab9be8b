"""A gateway in memory, with the same contract as the real one: it answers contract models and problems."""

import email
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote

import httpx

from shared.contracts.architectures import Mlp
from shared.contracts.base import Contract
from shared.contracts.comparisons import (
    Bounds,
    CalibrationDrift,
    Disagreement,
    LatencyBounds,
    StudentComparison,
    TrafficLatency,
)
from shared.contracts.datasets import DatasetList, DatasetView
from shared.contracts.evaluation import Comparison, Evaluation, SeedComparison, Verdict
from shared.contracts.findings import Finding
from shared.contracts.images import ImageInput, Preprocessing
from shared.contracts.jobs import (
    Failure,
    JobEvent,
    JobEventKind,
    JobPage,
    JobResult,
    JobState,
    JobView,
    Progress,
    Stage,
)
from shared.contracts.predictions import ClassProbability, Prediction, PredictionAnswer, Timing
from shared.contracts.problems import PROBLEM_MEDIA_TYPE, Problem
from shared.contracts.reports import Cost, DistillationReport, Plot, TeacherCheckReport, TeacherReport
from shared.contracts.specs import DistillationSpec, TeacherCheckSpec, TeacherImportSpec, TeacherSpec
from shared.contracts.students import LiveStudent, StudentList, StudentView
from shared.contracts.teachers import Nets, TeacherDescription, TeacherDescriptions
from shared.contracts.traffic import TrafficPolicy, TrafficView
from shared.contracts.training import Budget

NOON = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
DIGEST = "ab" * 32
VERSION = "mnist-student-0a1b2c"
DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class Brought:
    """A request that brings a teacher: the order, and its files by name in the order in which they came."""

    order: bytes
    files: dict[str, bytes]

    @classmethod
    def of(cls, request: httpx.Request) -> "Brought":
        if request.headers["Content-Type"] == "application/json":
            return cls(request.content, {})
        head = b"Content-Type: " + request.headers["Content-Type"].encode() + b"\r\n\r\n"
        parts = email.message_from_bytes(head + request.content).get_payload()
        first, *rest = parts
        assert first.get_param("name", header="content-disposition") == "teacher"
        return cls(
            first.get_payload(decode=True),
            {part.get_filename(): part.get_payload(decode=True) for part in rest},
        )


class FakeGateway:
    """Answers like the gateway. Each connection to a job's events serves the next of `streams`.

    `seen` holds every request; `events` is what happened to the one job.
    """

    def __init__(self) -> None:
        self.seen: list[httpx.Request] = []
        self.jobs: dict[str, JobView] = {}
        self.events: list[JobEvent] = []
        self.cut_after: list[int | Exception] = []
        """For each next connection: events until it breaks off, or what connecting raises."""
        self.pause_s = 0.0
        """Before the last event of a stream."""
        self.ends_as = JobState.SUCCEEDED
        self.findings: tuple[Finding, ...] | None = FINDINGS
        """What the check of a teacher finds; None where it ends before it has looked."""
        self.brought: Brought | None = None
        """The teacher that was brought last."""
        self.datasets = (
            DatasetView(name="mnist", builtin=True, available=False, description="all"),
            DatasetView(name="mnist-5k", builtin=True, available=True, description="some"),
        )

    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self._answer)

    def problem(self, status: int, code: str, detail: str, remedy: str = "") -> httpx.Response:
        problem = Problem(title="Refused", status=status, code=code, detail=detail, remedy=remedy)
        return httpx.Response(
            status, content=problem.model_dump_json(), headers={"Content-Type": PROBLEM_MEDIA_TYPE}
        )

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        raw_path = request.url.raw_path.decode().partition("?")[0]
        parts = [unquote(part) for part in raw_path.strip("/").split("/")[1:]]
        match (request.method, *parts):
            case ("POST", "jobs"):
                return self._submit(request)
            case ("GET", "jobs"):
                asked = request.url.params
                jobs = tuple(
                    job
                    for job in list(self.jobs.values())
                    if asked.get("state", job.state.value) == job.state.value
                    and asked.get("parent", job.parent) == job.parent
                )
                return _json(JobPage(jobs=jobs))
            case (_, "jobs", job_id, *_) if job_id not in self.jobs:
                return self.problem(404, "job-not-found", f"there is no job {job_id!r}", "List jobs.")
            case ("GET", "jobs", job_id):
                return _json(self.jobs[job_id])
            case ("GET", "jobs", job_id, "events"):
                return self._stream(job_id, request)
            case ("POST", "jobs", job_id, "cancel"):
                self.jobs[job_id] = self.jobs[job_id].model_copy(update={"state": JobState.CANCELLED})
                return _json(self.jobs[job_id])
            case ("POST", "jobs", job_id, "pause"):
                self.jobs[job_id] = self.jobs[job_id].model_copy(update={"state": JobState.PAUSED})
                return _json(self.jobs[job_id])
            case ("POST", "jobs", job_id, "resume"):
                if self.jobs[job_id].state is not JobState.PAUSED:
                    return self.problem(409, "job-not-paused", f"job {job_id!r} is not paused", "Pause it.")
                self.jobs[job_id] = self.jobs[job_id].model_copy(update={"state": JobState.QUEUED})
                return _json(self.jobs[job_id])
            case ("GET", "jobs", _, "checkpoint"):
                return httpx.Response(200, content=b"weights")
            case ("GET", "jobs", job_id, "report"):
                spec = self.jobs[job_id].spec
                if isinstance(spec, TeacherImportSpec | TeacherCheckSpec):
                    if self.findings is None:
                        return self.problem(404, "report-not-ready", "there is no report", "Wait.")
                    return _json(check_report(self.jobs[job_id], self.findings))
                if request.headers["Accept"] == "text/markdown":
                    return httpx.Response(200, text="# Report\n")
                return _json(report_of(self.jobs[job_id]))
            case ("GET", "jobs", job_id, "report", "files", "report.json"):
                return _json(report_of(self.jobs[job_id]))
            case ("GET", "jobs", _, "report", "files", name):
                return httpx.Response(200, text="# Report\n" if name == "report.md" else f"content of {name}")
            case ("POST", "predictions"):
                return _json(prediction(request.content.count(b"filename=") or 1))
            case ("GET", "students"):
                return _json(StudentList(live=None, students=(STUDENT,)))
            case ("POST", "students", "rollback"):
                return self.problem(409, "nothing-to-roll-back", "no student was live before")
            case ("POST", "students", version, "promote"):
                return _json(LiveStudent(version=version, promotion=1, changed_at=NOON))
            case ("DELETE", "students", version) if version == VERSION:
                return httpx.Response(204)
            case ("GET", "students", version, "comparison"):
                return _json(comparison_of(version))
            case ("PUT", "traffic"):
                policy = TrafficPolicy.model_validate_json(request.content)
                return _json(TrafficView(policy=policy, revision=1, changed_at=NOON))
            case ("GET", "datasets"):
                return _json(DatasetList(datasets=self.datasets))
            case ("POST", "datasets"):
                return _json(DatasetView(name="mine", builtin=False, available=True, description="mine"))
            case ("GET", "teachers"):
                return _json(TeacherDescriptions(teachers=(TEACHER,)))
            case ("GET", "teachers", name) if name == TEACHER.name:
                return _json(TEACHER)
            case ("POST", "teachers"):
                self.brought = Brought.of(request)
                return self._check_job(TeacherImportSpec.model_validate_json(self.brought.order))
            case ("POST", "teachers", name, "check"):
                asked = json.loads(request.content)
                return self._check_job(TeacherCheckSpec(name=name, **asked))
        return self.problem(404, "not-found", request.url.path)

    def _submit(self, request: httpx.Request) -> httpx.Response:
        spec = json.loads(request.content)
        if "name" not in spec:
            return self.problem(422, "request-invalid", "body.name: Field required", "Correct the fields.")
        if spec.get("objective", {}).get("temperature", 1) <= 0:
            return self.problem(422, "invalid-temperature", "temperature must be above 0", "Give one.")
        job = self.add_job(**spec)
        return httpx.Response(201, content=job.model_dump_json(), headers={"Location": f"/v1/jobs/{job.id}"})

    def _check_job(self, spec: TeacherImportSpec | TeacherCheckSpec) -> httpx.Response:
        job = JobView(id="j-check", state=JobState.QUEUED, spec=spec, created_at=NOON)
        self.jobs[job.id] = job
        self.events = job_events(self.ends_as)
        return httpx.Response(201, content=job.model_dump_json())

    def add_job(self, **spec: Any) -> JobView:
        """Put a job on record, queued."""
        made = TeacherSpec(**spec) if spec.get("kind") == "teacher" else DistillationSpec(**spec)
        job = JobView(id=f"j-{len(self.jobs)}", state=JobState.QUEUED, spec=made, created_at=NOON)
        self.jobs[job.id] = job
        self.events = job_events(self.ends_as)
        return job

    def _stream(self, job_id: str, request: httpx.Request) -> httpx.Response:
        after = int(request.headers.get("Last-Event-ID", "0"))
        rest = [event for event in self.events if int(event.id) > after]
        cut = self.cut_after.pop(0) if self.cut_after else None
        if isinstance(cut, Exception):
            raise cut

        def end() -> None:
            failure = Failure(code="diverged", detail="the loss is nan in epoch 3", remedy="Lower the rate.")
            result = JobResult(teacher="mnist-teacher", student=VERSION, verdict="BEATS")
            self.jobs[job_id] = self.jobs[job_id].model_copy(
                update={
                    "state": self.ends_as,
                    "started_at": NOON,
                    "finished_at": NOON + timedelta(seconds=75),
                    "failure": failure if self.ends_as is JobState.FAILED else None,
                    "result": result if self.ends_as is JobState.SUCCEEDED else None,
                }
            )

        return httpx.Response(
            200, headers={"Content-Type": "text/event-stream"}, stream=_Stream(rest, cut, self.pause_s, end)
        )


class _Stream(httpx.SyncByteStream, httpx.AsyncByteStream):
    def __init__(
        self, events: list[JobEvent], cut: int | None, pause_s: float, end: Callable[[], None]
    ) -> None:
        self.events, self.cut, self.pause_s, self.end = events, cut, pause_s, end

    def __iter__(self) -> Iterator[bytes]:
        yield b"retry: 1000\n\n: keep-alive\n\n"
        for index, event in enumerate(self.events):
            if index == self.cut:
                raise httpx.ReadError("cut")
            if event is self.events[-1]:
                time.sleep(self.pause_s)
                self.end()
            yield f"id: {event.id}\nevent: {event.kind}\ndata: {event.model_dump_json()}\n\n".encode()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece


def job_events(ends_as: JobState) -> list[JobEvent]:
    """Return what happens to a job: it starts, trains for 60 epochs, ends."""
    told: list[tuple[JobEventKind, dict[str, Any]]] = [
        (JobEventKind.STATE, {"state": "queued", "epoch": 0, "attempts": 0}),
        (JobEventKind.STATE, {"state": "running", "epoch": 1, "attempts": 1}),
        (JobEventKind.PROGRESS, _progress(Stage.CHECK, 1, 1, "checks")),
        *((JobEventKind.PROGRESS, _progress(Stage.TRAIN, done, 60, "epochs")) for done in range(61)),
        (JobEventKind.NOTE, {"text": "the best epoch was 57"}),
        (JobEventKind.STATE, {"state": ends_as.value, "epoch": 1, "attempts": 1}),
    ]
    return [
        JobEvent(id=str(i), kind=kind, at=NOON + timedelta(seconds=i), data=data)
        for i, (kind, data) in enumerate(told, start=1)
    ]


def _progress(stage: Stage, done: int, total: int, unit: str) -> dict[str, Any]:
    progress = Progress(
        stage=stage, done=done, total=total, unit=unit, eta_s=float(total - done), metrics={"loss": 0.25}
    )
    return progress.model_dump(mode="json")


def _json(answer: Contract) -> httpx.Response:
    return httpx.Response(200, content=answer.model_dump_json(), headers={"Content-Type": "application/json"})


def prediction(images: int) -> PredictionAnswer:
    """Return an answer for so many images."""
    one = Prediction(
        predicted="7",
        classes=(
            ClassProbability(name="7", probability=0.9),
            ClassProbability(name="9", probability=0.1),
        ),
    )
    timing = Timing(decode_ms=0.1, model_ms=0.2, total_ms=0.4)
    return PredictionAnswer(student=VERSION, predictions=(one,) * images, timing=timing)


def evaluation(errors: int) -> Evaluation:
    """Return an evaluation on 1,000 images."""
    accuracy = 1 - errors / 1000
    return Evaluation(
        examples=1000, errors=errors, accuracy=accuracy, accuracy_interval=(accuracy - 0.01, accuracy + 0.01),
        nll=0.1, brier=0.05, ece=0.01, reliability=(), errors_by_class={}, confusion=(),
    )  # fmt: skip


def report_of(job: JobView) -> TeacherReport | DistillationReport:
    """Return the report of a job."""
    cost = Cost(seconds={"train": 1.0}, teacher_rows=3500, device="cpu", threads=2, torch="2", imago="0")
    common: dict[str, Any] = {
        "job_id": job.id, "created_at": NOON, "dataset_digest": DIGEST, "teacher_digest": DIGEST,
        "curves": (), "cost": cost, "plots": (Plot(name="curves", title="Training"),),
    }  # fmt: skip
    if isinstance(job.spec, TeacherSpec):
        return TeacherReport(spec=job.spec, parameters=2_395_210, evaluation=evaluation(30), **common)
    comparison = Comparison(
        verdict=Verdict.BEATS, gain=0.012, interval=(0.004, 0.02), p_value=0.01, degrees_of_freedom=2,
        margin=0.001, method="paired t",
        seeds=(
            SeedComparison(seed=0, taught_accuracy=0.962, untaught_accuracy=0.95, taught_agreement=0.98),
            SeedComparison(seed=1, taught_accuracy=0.961, untaught_accuracy=0.949, taught_agreement=0.97),
        ),
    )  # fmt: skip
    return DistillationReport(
        spec=job.spec, transfer_set_digest=DIGEST, student_version=VERSION, teacher_parameters=2_395_210,
        student_parameters=1_276_810, teacher=evaluation(30), taught=evaluation(38), untaught=evaluation(50),
        agreement=0.98, comparison=comparison, latency=(), **common,
    )  # fmt: skip


def comparison_of(version: str) -> StudentComparison:
    """Return how a candidate does on a little traffic."""
    latency = LatencyBounds(
        p50=Bounds(above_ms=0.1, at_most_ms=0.2), p99=Bounds(above_ms=1000, at_most_ms=None), count=9
    )
    return StudentComparison(
        version=version, role="canary", live="mnist-student-ffffff", since=NOON, answered_images=1000,
        shadowed_images=0, against_teacher=None, live_latency=None,
        against_live=Disagreement(
            reference="mnist-student-ffffff", compared=1000, disagreed=15, share=0.015,
            interval=(0.009, 0.025),
        ),
        latency=TrafficLatency(version=version, call=latency, images_per_call=1.5, request=None),
        drift=CalibrationDrift(
            images=1000, mean_confidence=0.91, test_mean_confidence=0.95, confidence_drift=-0.04,
            class_distance=0.12, class_distance_by_chance=0.03,
        ),
    )  # fmt: skip


def check_report(job: JobView, findings: tuple[Finding, ...]) -> TeacherCheckReport:
    """Return what the check of a teacher found."""
    assert isinstance(job.spec, TeacherImportSpec | TeacherCheckSpec)
    return TeacherCheckReport(
        job_id=job.id, created_at=NOON, spec=job.spec, teacher=job.spec.name, teacher_digest=DIGEST,
        dataset_digest=DIGEST, findings=findings, images=500, accuracy=0.964, suggested_temperature=4.0,
        cost=Cost(seconds={"check": 1.0}, teacher_rows=500, device="cpu", threads=2, torch="2", imago="0"),
    )  # fmt: skip


FINDINGS = (
    Finding(check="class names", outcome="ok", detail="the same ten classes in the same order"),
    Finding(
        check="confidence", outcome="warning", detail="the mean probability of the largest is 0.999",
        advice="Take T = 4 or more.",
    ),
)  # fmt: skip

STUDENT = StudentView(
    version=VERSION, name="mnist-student", live=False, created_at=NOON, job_id="j-0", accuracy=0.962,
    verdict="BEATS", parameters=1_276_810,
)  # fmt: skip

TEACHER = TeacherDescription(
    name="mnist-teacher", digest=DIGEST, model=Nets(architecture=Mlp(hidden_units=(1200, 1200))),
    classes=DIGITS,
    preprocessing=Preprocessing(input=ImageInput(height=28, width=28, channels=1), mean=(0.1,), std=(0.3,)),
    test_accuracy=0.97, created_at=NOON,
)  # fmt: skip

SPEC = DistillationSpec(
    name="mnist-student", teacher="mnist-teacher", dataset="mnist-5k", budget=Budget(epochs=1)
)
