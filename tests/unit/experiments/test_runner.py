"""Running an experiment against an API in memory: what is found again, what is asked for anew."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from experiments.experiment import Action, Computation, Experiment, Form, JobStep, Outcomes, Step
from experiments.result import Figure, Finding
from experiments.runner import datasets_of, run
from shared.contracts.architectures import Mlp
from shared.contracts.evaluation import Evaluation
from shared.contracts.images import ImageInput, Preprocessing
from shared.contracts.jobs import JobPage, JobResult, JobState, JobView
from shared.contracts.reports import Cost, JobReport, TeacherReport
from shared.contracts.specs import DistillationSpec, JobSpec, TeacherSpec
from shared.contracts.teachers import Nets, TeacherDescription, TeacherDescriptions

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
TEACHER = TeacherSpec(name="exp-teacher-a", dataset="mnist-5k")
STUDENT = DistillationSpec(name="exp-a-student", teacher="exp-teacher-a", dataset="mnist-5k")


class MemoryApi:
    """Every job that is submitted succeeds at once; a minute passes with each."""

    def __init__(self) -> None:
        self.views: list[JobView] = []
        self.submitted: list[JobSpec] = []
        self.watched: list[str] = []
        self.held: dict[str, str] = {}

    def add(self, spec: JobSpec, state: JobState = JobState.SUCCEEDED) -> JobView:
        number = len(self.views) + 1
        begun = NOON + timedelta(minutes=number)
        ended = state is JobState.SUCCEEDED
        result = None
        if ended:
            result = JobResult()
            if isinstance(spec, TeacherSpec):
                self.held[spec.name] = f"{number:064x}"
                result = JobResult(teacher=spec.name, teacher_digest=self.held[spec.name])
        view = JobView(
            id=f"j-{number}",
            state=state,
            spec=spec,
            created_at=begun,
            started_at=begun,
            finished_at=begun + timedelta(seconds=30) if ended else None,
            result=result,
        )
        self.views.append(view)
        return view

    def submit(self, spec: JobSpec) -> JobView:
        self.submitted.append(spec)
        return self.add(spec, JobState.QUEUED)

    def jobs(
        self, *, kind: str | None = None, limit: int | None = None, cursor: str | None = None
    ) -> JobPage:
        # Pages of one job: whoever reads the first only finds the newest only.
        of_kind = [view for view in reversed(self.views) if view.spec.kind == kind]
        at = int(cursor or 0)
        more = str(at + 1) if at + 1 < len(of_kind) else None
        return JobPage(jobs=tuple(of_kind[at : at + 1]), next_cursor=more)

    def report(self, job_id: str) -> JobReport:
        spec = next(view.spec for view in self.views if view.id == job_id)
        cost = Cost(seconds={}, teacher_rows=11, device="cpu", threads=2, torch="2", imago="0")
        if not isinstance(spec, TeacherSpec):
            return JobReport(kind="distillation", job_id=job_id, created_at=NOON, cost=cost)
        return TeacherReport(
            job_id=job_id,
            created_at=NOON,
            cost=cost,
            spec=spec,
            dataset_digest="0" * 64,
            teacher_digest="0" * 64,
            parameters=1,
            evaluation=EVALUATION,
            curves=(),
        )

    def teachers(self) -> TeacherDescriptions:
        return TeacherDescriptions(
            teachers=tuple(
                DESCRIPTION.model_copy(update={"name": name, "digest": digest})
                for name, digest in self.held.items()
            )
        )

    # --- the teller ---

    def step(self, step: Step, number: int, steps: int) -> None:
        pass

    def found(self, job: JobView) -> None:
        pass

    def watch(self, job: JobView) -> JobView:
        self.watched.append(job.id)
        self.views.remove(job)
        at = len(self.views)
        ended = self.add(job.spec).model_copy(update={"id": job.id})
        self.views[at] = ended
        return ended


DESCRIPTION = TeacherDescription(
    name="any",
    digest="0" * 64,
    model=Nets(architecture=Mlp()),
    classes=("a", "b"),
    preprocessing=Preprocessing(input=ImageInput(height=1, width=1, channels=1), mean=(0.0,), std=(1.0,)),
    created_at=NOON,
)
EVALUATION = Evaluation(
    examples=10,
    errors=1,
    accuracy=0.9,
    accuracy_interval=(0.6, 1.0),
    nll=0.1,
    brier=0.1,
    ece=0.1,
    reliability=(),
    errors_by_class={},
    confusion=(),
)


def steps(_form: Form) -> list[Step]:
    return [JobStep("teacher", TEACHER), JobStep("student", STUDENT, after=("teacher",))]


def summarise(outcomes: Outcomes) -> Finding:
    value = float(outcomes.teacher("teacher").evaluation.errors)
    figure = Figure(label="teacher", unit="errors", values=(value,))
    return Finding(figures=(figure,), headline="one", reached=True, verdict="Reached.")


def experiment(made: Callable[[Form], list[Step]] = steps, **other: object) -> Experiment:
    facts: dict[str, object] = {
        "name": "a",
        "title": "A",
        "source": "nobody",
        "published": (),
        "to_reach": "1",
        "reduced": "half of it",
        "minutes": (2, 1),
        "steps": made,
        "summarise": summarise,
    }
    return Experiment(**(facts | other))  # type: ignore[arg-type]


@pytest.fixture
def api() -> MemoryApi:
    return MemoryApi()


def test_a_first_run_asks_for_every_step_in_order(api: MemoryApi):
    result = run(experiment(), Form(), api, api, command="imago")
    assert api.submitted == [TEACHER, STUDENT]
    assert [(one.step, one.seconds, one.teacher_rows) for one in result.steps] == [
        ("teacher", 30.0, 11),
        ("student", 30.0, 11),
    ]
    assert result.wall_s == 60.0
    assert result.finding.figures[0].values == (1.0,)


def test_a_second_run_finds_everything_again(api: MemoryApi):
    first = run(experiment(), Form(), api, api, command="imago")
    api.submitted.clear()
    second = run(experiment(), Form(), api, api, command="imago")
    assert api.submitted == []
    assert [one.model_copy(update={"found": False}) for one in second.steps] == list(first.steps)


def test_a_job_that_is_still_running_is_waited_for_and_not_asked_for_twice(api: MemoryApi):
    running = api.add(TEACHER, JobState.RUNNING)
    run(experiment(), Form(), api, api, command="imago")
    assert api.submitted == [STUDENT]
    assert api.watched[0] == running.id


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED])
def test_a_job_that_did_not_succeed_is_run_anew(api: MemoryApi, state: JobState):
    api.add(TEACHER, state)
    run(experiment(), Form(), api, api, command="imago")
    assert api.submitted == [TEACHER, STUDENT]


def test_a_job_with_another_spec_is_not_taken_for_ours(api: MemoryApi):
    api.add(TEACHER.model_copy(update={"architecture": Mlp(hidden_units=(3,))}))
    run(experiment(), Form(), api, api, command="imago")
    assert api.submitted == [TEACHER, STUDENT]


def test_an_older_job_of_the_spec_is_found_behind_newer_ones(api: MemoryApi):
    api.add(TEACHER)
    api.add(TEACHER.model_copy(update={"name": "another"}))
    run(experiment(), Form(), api, api, command="imago")
    assert api.submitted == [STUDENT]


def test_a_student_of_an_earlier_teacher_of_this_name_does_not_count(api: MemoryApi):
    api.add(STUDENT)
    run(experiment(), Form(), api, api, command="imago")
    assert api.submitted == [TEACHER, STUDENT]


def test_a_teacher_that_the_store_no_longer_holds_under_its_name_is_trained_anew(api: MemoryApi):
    api.add(TEACHER)
    api.held[TEACHER.name] = "f" * 64
    run(experiment(), Form(), api, api, command="imago")
    assert api.submitted == [TEACHER, STUDENT]


def test_what_was_found_again_is_told_from_what_was_run_and_each_says_when_it_ended(api: MemoryApi):
    earlier = api.add(TEACHER)
    teacher, student = run(experiment(), Form(), api, api, command="imago").steps
    assert (teacher.found, teacher.ended_at) == (True, earlier.finished_at)
    assert (student.found, student.ended_at) == (False, api.views[-1].finished_at)


def test_a_job_that_another_run_has_under_way_counts_as_found(api: MemoryApi):
    api.add(TEACHER, JobState.RUNNING)
    teacher, _ = run(experiment(), Form(), api, api, command="imago").steps
    assert teacher.found is True
    assert teacher.ended_at == api.views[0].finished_at is not None


def test_only_the_reduced_form_says_what_was_left_out(api: MemoryApi):
    full = run(experiment(), Form(), api, api, command="imago")
    reduced = run(experiment(), Form(reduced=True), api, api, command="imago")
    assert (full.form, full.left_out) == ("full", "")
    assert (reduced.form, reduced.left_out) == ("reduced", "half of it")


def test_a_computation_runs_here_and_asks_for_no_job(api: MemoryApi):
    computed = experiment(
        lambda _form: [Computation("numbers", "tests.unit.experiments.numbers")],
        summarise=lambda outcomes: Finding(
            figures=(Figure(label="n", unit="", values=outcomes.computed["numbers"]["n"]),),
            headline="",
            reached=None,
            verdict="",
        ),
    )
    result = run(computed, Form(), api, api, command="imago")
    assert result.finding.figures[0].values == (4.0, 5.0)
    assert api.views == []
    assert result.steps[0].job_id is None
    assert result.steps[0].found is False


def test_an_action_is_told_the_running_stack_and_what_the_steps_before_it_came_to(api: MemoryApi):
    def acted(_form: Form) -> list[Step]:
        return [
            JobStep("teacher", TEACHER),
            Action("count", "tests.unit.experiments.numbers", "jobs_so_far", makes=("exp-digits",)),
            JobStep("student", STUDENT.model_copy(update={"dataset": "exp-digits"}), after=("teacher",)),
        ]

    found = experiment(
        acted,
        summarise=lambda outcomes: Finding(
            figures=(Figure(label="n", unit="", values=outcomes.computed["count"]["jobs"]),),
            headline="",
            reached=None,
            verdict="",
        ),
    )
    result = run(found, Form(), api, api, command="imago")
    assert result.finding.figures[0].values == (1.0, 1.0)
    assert [one.kind for one in result.steps] == ["teacher", "action", "distillation"]
    assert datasets_of(found, Form()) == {"mnist-5k"}
