"""Findings by their outcome, so that each check reads as what it looks for."""

from collections.abc import Sequence

from shared.contracts.findings import Finding
from shared.errors import TeacherUnfit


def ok(check: str, detail: str, advice: str = "") -> Finding:
    """Return that nothing speaks against the teacher here."""
    return Finding(check=check, outcome="ok", detail=detail, advice=advice)


def warning(check: str, detail: str, advice: str = "") -> Finding:
    """Return what ought to be known, and keeps nobody from going on."""
    return Finding(check=check, outcome="warning", detail=detail, advice=advice)


def failed(check: str, detail: str, advice: str) -> Finding:
    """Return what has to be mended first, and how."""
    return Finding(check=check, outcome="failed", detail=detail, advice=advice)


def skipped(check: str, detail: str) -> Finding:
    """Return that it could not be looked at, and why."""
    return Finding(check=check, outcome="skipped", detail=detail)


def in_words(finding: Finding) -> str:
    """Return what was found and what follows from it, as sentences."""
    return f"{finding.detail}. {finding.advice}" if finding.advice else finding.detail


def with_outcome(findings: Sequence[Finding], outcome: str) -> tuple[Finding, ...]:
    """Return the findings of one outcome, in their order."""
    return tuple(one for one in findings if one.outcome == outcome)


def unfit(teacher: str, findings: Sequence[Finding]) -> TeacherUnfit:
    """Return the error that the failed ones among the findings stand for."""
    bad = with_outcome(findings, "failed")
    return TeacherUnfit(
        teacher, tuple(f"{one.check}: {one.detail}" for one in bad), tuple(one.advice for one in bad)
    )
