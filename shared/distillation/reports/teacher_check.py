"""The page of jobs of the kinds `teacher_import` and `teacher_check`: a list to read from top to bottom."""

from typing import Final

from shared.contracts.reports import TeacherCheckReport
from shared.distillation.findings import with_outcome
from shared.distillation.plots import Drawing
from shared.distillation.reports import sections, words

_SENTENCES: Final = {
    "failed": "{failed} of {all} checks failed, {warning} warn.",
    "warning": "No check failed; {warning} of {all} warn.",
    "ok": "No check of {all} found anything against this teacher.",
}


def page(report: TeacherCheckReport) -> list[str]:
    """Return the sections of the page."""
    spec = report.spec
    dataset = f"{spec.dataset}, `{report.dataset_digest[:12]}`" if report.dataset_digest else ""
    accuracy = f"{report.accuracy:.2%}" if report.accuracy is not None else ""
    temperature = f"{report.suggested_temperature:g}" if report.suggested_temperature is not None else ""
    return [
        f"# Teacher {report.teacher}, checked",
        _sentence(report),
        *sections.warnings(report),
        words.facts(
            sections.job(report),
            ("Teacher", f"`{report.teacher_digest[:12]}`"),
            ("Dataset", dataset),
            ("Images asked about", f"{report.images:,}"),
            ("Accuracy on validation images", accuracy),
            ("Suggested T to begin with", temperature),
        ),
        "## Findings",
        sections.findings(report.findings),
        "## Cost",
        sections.cost(report.cost),
    ]


def drawings(report: TeacherCheckReport) -> list[Drawing]:
    """Return the plots: none, a list says all."""
    del report
    return []


def _sentence(report: TeacherCheckReport) -> str:
    counts = {name: len(with_outcome(report.findings, name)) for name in ("failed", "warning")}
    worst = next((name for name in ("failed", "warning") if counts[name]), "ok")
    return _SENTENCES[worst].format(all=len(report.findings), **counts)
