"""Shows what a check of a teacher found, as a list to read from top to bottom."""

from typing import Final

from rich.table import Table
from rich.text import Text

from shared.contracts.reports import TeacherCheckReport

_WORDS: Final = {"ok": "ok", "warning": "warning", "failed": "FAILED", "skipped": "skipped"}
_STYLES: Final = {"ok": "green", "warning": "yellow", "failed": "bold red", "skipped": "dim"}


def findings_table(report: TeacherCheckReport) -> Table:
    """Return the list: how it went, what was looked at, what was found, and what follows from it."""
    made = Table(box=None, show_header=False, pad_edge=False)
    made.add_column(no_wrap=True)
    made.add_column(no_wrap=True)
    made.add_column(overflow="fold")
    for finding in report.findings:
        detail = Text(finding.detail)
        if finding.advice:
            detail.append(f"\n→ {finding.advice}")
        outcome = Text(_WORDS[finding.outcome], style=_STYLES[finding.outcome])
        made.add_row(outcome, Text(finding.check), detail)
    return made


def summary(report: TeacherCheckReport) -> str:
    """Return the figures below the list in one line."""
    parts = [f"{report.teacher} ({report.teacher_digest[:12]}), asked about {report.images:,} images"]
    if report.accuracy is not None:
        parts.append(f"{report.accuracy:.2%} right")
    if report.suggested_temperature is not None:
        parts.append(f"suggested T {report.suggested_temperature:g}")
    return "; ".join(parts)


def failed(report: TeacherCheckReport) -> list[str]:
    """Return the names of the checks that failed."""
    return [finding.check for finding in report.findings if finding.outcome == "failed"]
