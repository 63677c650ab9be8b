from datetime import UTC, datetime

import pytest

from shared.contracts.findings import Finding
from shared.contracts.reports import Cost, TeacherCheckReport
from shared.contracts.specs import TeacherCheckSpec
from shared.distillation.reports.files import markdown, report_files

COST = Cost(seconds={"check": 1.0}, teacher_rows=20, device="cpu", threads=1, torch="2", imago="0")


def report(*outcomes: str, **changes: object) -> TeacherCheckReport:
    return TeacherCheckReport(
        job_id="j-1",
        created_at=datetime(2026, 11, 21, tzinfo=UTC),
        cost=COST,
        spec=TeacherCheckSpec(name="owl", dataset="digits"),
        teacher="owl",
        teacher_digest="a" * 64,
        dataset_digest="b" * 64,
        findings=tuple(
            Finding(check=f"check {place}", outcome=outcome, detail="a | b", advice="Mend it.")
            for place, outcome in enumerate(outcomes)
        ),
        images=20,
    ).model_copy(update=changes)


@pytest.mark.parametrize(
    ("outcomes", "sentence"),
    [
        (("ok", "skipped"), "No check of 2 found anything against this teacher."),
        (("ok", "warning"), "No check failed; 1 of 2 warn."),
        (("failed", "warning", "ok"), "1 of 3 checks failed, 1 warn."),
    ],
)
def test_the_page_begins_with_how_it_ended(outcomes, sentence):
    assert sentence in markdown(report(*outcomes))


def test_each_finding_is_a_row_in_its_order_with_its_advice():
    page = markdown(report("ok", "failed"))
    rows = [line for line in page.splitlines() if line.startswith("| check ") and "Mend" in line]
    assert rows == [
        "| check 0 | ok | a \\| b | Mend it. |",
        "| check 1 | failed | a \\| b | Mend it. |",
    ]


def test_figures_that_there_are_none_of_are_left_out():
    assert "Suggested T" not in markdown(report("ok"))
    page = markdown(report("ok", suggested_temperature=4.6, accuracy=0.9))
    assert "- Suggested T to begin with: 4.6" in page
    assert "- Accuracy on validation images: 90.00%" in page


def test_the_report_is_read_back_from_its_file():
    made = report("ok")
    files = report_files(made)
    assert set(files) == {"report.json", "report.md"}
    assert TeacherCheckReport.model_validate_json(files["report.json"]) == made
