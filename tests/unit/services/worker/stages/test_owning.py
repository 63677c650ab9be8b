"""Whose it is what jobs make; the teacher that is asked is a stand-in."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.worker.kinds import teacher
from services.worker.stages import asking
from services.worker.stages.bundle import Exported, ExportOutcome, publish_bundle
from services.worker.stages.ensemble_bundle import publish_ensemble
from services.worker.stages.freezing import freeze
from services.worker.stages.owning import owned_teacher
from services.worker.stages.transfer_sets import summaries
from shared.artefacts.owners import Owners
from shared.artefacts.students import StudentStore
from shared.artefacts.teachers import TeacherStore
from shared.contracts.architectures import Mlp
from shared.contracts.specs import RedistillationSpec, TeacherSpec, TransferSetJobSpec
from shared.contracts.training import Asking, Budget
from shared.distillation.reports import transfer_set as report
from shared.errors import DatasetExists, TeacherExists
from tests.support.asking import PLOT
from tests.support.kinds import Bench, SharpTeacher, one_thread

WORKER = Path(teacher.__file__).resolve().parents[1]
BUDGET = Budget(epochs=1, batch_size=50, learning_rate=1e-2)
BIG = TeacherSpec(name="grown", dataset="quarters", architecture=Mlp(hidden_units=(4,)), budget=BUDGET)
ASKED = TransferSetJobSpec(name="asked", teacher="big", dataset="quarters")


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(asking, "TeacherClient", SharpTeacher)
    for drawing in (summaries, report):
        monkeypatch.setattr(drawing, "plot_entropy", lambda *_, **__: PLOT)
    monkeypatch.setattr(teacher, "report_files", lambda _: {})
    bench = Bench(tmp_path, monkeypatch)
    bench.publish_teacher()
    bench.owner = "ann"
    with one_thread():
        yield bench


@pytest.fixture
def owners(bench: Bench) -> Owners:
    return bench.store.owners


def noting(monkeypatch: pytest.MonkeyPatch, where: type, method: str, look: Any) -> list[Any]:
    """Let `look` see the arguments of a call before it is made; return what it saw."""
    seen: list[Any] = []
    before = getattr(where, method)

    def called(self: Any, *given: Any, **named: Any) -> Any:
        seen.append(look(*given, **named))
        return before(self, *given, **named)

    monkeypatch.setattr(where, method, called)
    return seen


def test_a_student_belongs_to_the_jobs_owner_before_anybody_can_see_it(bench, owners, monkeypatch, tmp_path):
    seen: dict[str, frozenset[str]] = {}

    def publish(_: StudentStore, version: str, _build: Any) -> None:
        seen[version] = owners.of("students", version)

    monkeypatch.setattr(StudentStore, "publish", publish)
    context = bench.context("j-1", ASKED)
    publish_bundle(context, "small-1", {}, Exported(tmp_path, ExportOutcome.model_construct()), card=card)
    publish_ensemble(context, "many-1", tmp_path, {}, card=card)
    assert seen == {"small-1": {"ann"}, "many-1": {"ann"}}


def card(_: Any) -> Any:
    raise AssertionError("nothing is written here")


def test_a_teacher_belongs_to_the_jobs_owner_before_anybody_can_see_it(bench, owners, monkeypatch):
    seen = noting(monkeypatch, TeacherStore, "publish_nets", lambda name, **_: owners.of("teachers", name))
    bench.run("j-1", BIG)
    assert seen == [{"ann"}]
    assert owners.of("teachers", "grown") == {"ann"}


def test_a_transfer_set_belongs_to_the_jobs_owner_before_its_first_row_is_asked_for(
    bench, owners, monkeypatch
):
    folder = bench.store.root / "owners" / "transfer_sets"
    seen = noting(
        monkeypatch, SharpTeacher, "soft_targets", lambda *_, **__: {one.name for one in folder.glob("[!.]*")}
    )
    result = bench.run("j-1", ASKED)
    assert seen[0] == {result.transfer_set}
    assert owners.of("transfer_sets", result.transfer_set) == {"ann"}


def test_the_parts_that_children_ask_for_are_their_parents_owners(bench, owners, monkeypatch):
    monkeypatch.setattr("shared.transfer_set.writer.default_shard_rows", lambda _: 70)
    result = bench.run("j-1", ASKED.model_copy(update={"asking": Asking(tasks=2)}))
    assert len(bench.runs) > 3
    assert owners.of("transfer_sets", result.transfer_set) == {"ann"}


def test_whoever_asks_the_same_of_the_same_has_the_set_as_well(bench, owners):
    first = bench.run("j-1", ASKED)
    asked = SharpTeacher.asked
    bench.owner = "bob"
    second = bench.run("j-2", ASKED)
    assert second.transfer_set == first.transfer_set
    assert SharpTeacher.asked - asked < asked  # what is stored is only looked at again, here and there
    assert owners.of("transfer_sets", first.transfer_set) == {"ann", "bob"}


def test_the_name_of_anothers_teacher_that_appeared_meanwhile_is_refused(bench, owners):
    bench.run("j-1", BIG)
    anns = bench.store.teachers.current("grown")
    bench.owner = "bob"
    with pytest.raises(TeacherExists):
        bench.run("j-2", BIG.model_copy(update={"seeds": (5,)}))
    assert bench.store.teachers.current("grown") == anns
    assert owners.of("teachers", "grown") == {"ann"}


def test_a_name_without_an_owner_is_refused_and_ones_own_is_taken_again(bench):
    with pytest.raises(TeacherExists), owned_teacher(bench.context("j-1", BIG), "big"):
        raise AssertionError("the teacher of the time before keys is not replaced")
    for job_id in ("j-2", "j-3"):
        with owned_teacher(bench.context(job_id, BIG), "grown"):
            bench.publish_teacher("grown")


def test_a_job_that_died_after_it_took_the_name_goes_on(bench, owners):
    with pytest.raises(OSError, match="power"), owned_teacher(bench.context("j-1", BIG), "grown"):
        raise OSError("the power is gone")
    assert owners.of("teachers", "grown") == {"ann"}
    with owned_teacher(bench.context("j-1", BIG), "grown"):
        bench.publish_teacher("grown")
    assert owners.of("teachers", "grown") == {"ann"}


def test_where_keys_are_off_nothing_has_an_owner(bench, owners):
    bench.owner = None
    asked = bench.run("j-1", ASKED)
    with owned_teacher(bench.context("j-2", BIG), "big"):
        pass
    assert owners.of("teachers", "big") == owners.of("transfer_sets", asked.transfer_set) == frozenset()


def test_every_kind_of_job_notes_the_owner_of_what_it_publishes():
    """Teachers and datasets within the hold on their name, students right behind their note."""
    holding = {"teachers.publish_nets": "owned_teacher", "teachers.publish": "owned_teacher"}
    holding |= {"datasets.put": "owners.taking", "students.publish": "own_student"}
    found = [
        (path.name, what)
        for path in WORKER.rglob("*.py")
        for function in ast.walk(ast.parse(path.read_text()))
        if isinstance(function, ast.FunctionDef)
        for what, held in holding.items()
        if f"{what}(" in (text := ast.unparse(function)) and f"{held}(" not in text.split(f"{what}(")[0]
    ]
    assert found == []
    assert "teachers.publish_nets(" in (WORKER / "kinds" / "specialists.py").read_text()


def test_every_kind_of_job_asks_whether_it_is_still_its_own_right_before_anything_goes_live():
    """With at most the condition in between on which it goes live at all."""
    asking = {"make_current": "need_lease", "students.publish": "own_student"}
    asking |= {"datasets.put": "need_lease", "students.succeed": "need_lease"}
    found = []
    for path in WORKER.rglob("*.py"):
        if path.name == "draft.py":  # of a store of the job's own
            continue
        lines = path.read_text().splitlines()
        for number, line in enumerate(lines):
            for what, asked in asking.items():
                if f"{what}(" in line:
                    before = lines[number - 2 : number]
                    found.append((path.name, any(f"{asked}(" in one for one in before)))
    assert sorted(found) == [
        ("bundle.py", True),
        ("ensemble_bundle.py", True),
        ("freezing.py", True),
        ("specialists.py", True),
        ("succession.py", True),
        ("teacher.py", True),
        ("teacher_import.py", True),
    ]
    owning = (WORKER / "stages" / "owning.py").read_text()
    assert owning.count("context.need_lease()") == 2


def test_a_frozen_dataset_is_the_jobs_owners_and_replaces_nobodys(bench, owners, monkeypatch):
    spec = RedistillationSpec(name="next", collection="unsure", dataset="frozen")
    kept = bench.store.datasets.load("quarters", "train").images[:5] ^ 255
    monkeypatch.setattr(bench.store.kept, "load", lambda *_: kept)
    freeze(bench.context("j-1", spec), spec, "quarters", bench.manifest)
    assert owners.of("datasets", "frozen") == {"ann"}
    bench.owner = "bob"
    with pytest.raises(DatasetExists):
        freeze(bench.context("j-2", spec), spec, "quarters", bench.manifest)
