"""A job of kind `redistillation`: a student is distilled again, on images that gateways have kept since.

Stages: check, freeze (kept images become a dataset), those of a distillation on that dataset, succession (the
new student against the old one). The report is that of the distillation, with a section on the succession.
"""

from pathlib import Path

from pydantic import BaseModel

from services.worker.kinds.distillation import distil
from services.worker.stages import outcomes
from services.worker.stages.check import check_device
from services.worker.stages.context import JobContext
from services.worker.stages.freezing import freeze
from services.worker.stages.succession import settle
from shared.contracts.datasets import DatasetManifest
from shared.contracts.jobs import JobResult, Stage
from shared.contracts.reports import REPORT_JSON, DistillationReport
from shared.contracts.specs import DistillationSpec, RedistillationSpec
from shared.distillation.reports.files import report_files, write_files
from shared.errors import CannotRedistil, NoLiveStudent
from shared.jobs.checks.redistillation import order_of


class _Pinned(BaseModel):
    """The student that the job began with: another may be live by the next attempt."""

    version: str


def redistil(context: JobContext, spec: RedistillationSpec) -> JobResult:
    """Run the job; every stage that was done by an earlier attempt is used as it is."""
    check_device(context)
    base = _pinned(context, spec.student)
    order, manifest = _order(context, base)
    frozen, freezing_s = freeze(context, spec, order.dataset, manifest)
    changes: dict[str, object] = {"name": spec.name, "dataset": spec.dataset}
    changes |= {} if spec.budget is None else {"budget": spec.budget}
    changes |= {} if spec.seeds is None else {"seeds": spec.seeds}
    distilled = distil(context, order.model_copy(update=changes))
    assert distilled.student is not None, "a distillation makes one"
    succession, settling_s = settle(context, spec, frozen, base=base, version=distilled.student)
    report = DistillationReport.model_validate_json(context.files.report_json.read_bytes())
    seconds = {Stage.FREEZE.value: freezing_s, **report.cost.seconds, Stage.SUCCESSION.value: settling_s}
    cost = report.cost.model_copy(update={"seconds": seconds})
    report = report.model_copy(update={"succession": succession, "cost": cost})
    write_files(context.files.directory, report_files(report))
    decisive = succession.incumbent or succession.base
    return distilled.model_copy(update={"verdict": decisive.validation.verdict.value})


def _pinned(context: JobContext, student: str | None) -> str:
    """Return the version that was named, or that was live at the first attempt."""
    if student is not None:
        return student

    def pin(directory: Path) -> None:
        live = context.store.students.live()
        if live is None:
            raise NoLiveStudent
        outcomes.save(directory / "student.json", _Pinned(version=live.version))

    path = context.once(Stage.CHECK, {"pinned_student": "live"}, pin)
    return outcomes.load(path / "student.json", _Pinned).version


def _order(context: JobContext, base: str) -> tuple[DistillationSpec, DatasetManifest]:
    """Return the order that made the student, and the manifest of the dataset that it is of."""
    students = context.store.students
    card = students.card(base)
    order = order_of(card, students.file(base, REPORT_JSON, verify=True).read_bytes())
    manifest = context.store.datasets.get(order.dataset)
    if manifest.digest != card.dataset_digest:
        raise CannotRedistil(base, f"dataset {order.dataset!r} is not the one that it learned from")
    return order, manifest
