"""A report as files: JSON for programs, Markdown for people, each plot as PNG and SVG."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from shared.artefacts.files import write_atomic
from shared.contracts.reports import REPORT_JSON, REPORT_MD, JobReport
from shared.distillation.plots import Drawing
from shared.distillation.reports import (
    distillation,
    peers,
    specialists,
    sweep,
    teacher,
    teacher_check,
    transfer_set,
)

Pages = Callable[[Any], Sequence[str]]
Drawings = Callable[[Any], Sequence[Drawing]]

KINDS: Final[dict[str, tuple[Pages, Drawings]]] = {
    "teacher": (teacher.page, teacher.drawings),
    "teacher_check": (teacher_check.page, teacher_check.drawings),
    "distillation": (distillation.page, distillation.drawings),
    "sweep": (sweep.page, sweep.drawings),
    "self_distillation": (peers.page, peers.drawings),
    "mutual": (peers.page, peers.drawings),
    "codistillation": (peers.page, peers.drawings),
    "specialists": (specialists.page, specialists.drawings),
    "transfer_set": (transfer_set.page, transfer_set.drawings),
}
"""By the report's `kind`: the sections of its page, and its plots."""


def markdown(report: JobReport) -> str:
    """Return the report as a Markdown page, ending in a newline; it shows the plots that the report lists."""
    page, _ = KINDS[report.kind]
    return "\n\n".join(page(report)) + "\n"


def report_files(report: JobReport) -> dict[str, bytes]:
    """Return the content of all files of a report by name, its plots drawn and listed."""
    _, drawings = KINDS[report.kind]
    drawn = drawings(report)
    report = report.model_copy(update={"plots": tuple(one.plot for one in drawn)})
    files = {f"{one.name}.png": one.png for one in drawn} | {f"{one.name}.svg": one.svg for one in drawn}
    files[REPORT_MD] = markdown(report).encode()
    files[REPORT_JSON] = report.model_dump_json(indent=2).encode()
    return files


def write_files(directory: Path, files: Mapping[str, bytes]) -> None:
    """Write a report's files into its job's folder, the JSON last: who sees it finds all that it lists."""
    for name in sorted(files, key=lambda name: name == REPORT_JSON):
        write_atomic(directory / name, files[name])
