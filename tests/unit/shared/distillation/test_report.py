from datetime import UTC, datetime

import numpy as np
import pytest
import torch

from shared.contracts.evaluation import Verdict
from shared.contracts.reports import Cost, DistillationReport, EpochPoint, TeacherReport, TrainingCurve
from shared.contracts.specs import DistillationSpec, TeacherSpec
from shared.contracts.students import Latency
from shared.distillation.evaluation import evaluate
from shared.distillation.report import markdown, verdict_sentence
from shared.distillation.verdict import compare

CLASSES = ("ant", "bee|wasp", "<b>")
AT = datetime(2026, 3, 4, 5, 6, tzinfo=UTC)


def evaluation(errors: int):
    labels = torch.arange(60) % 3
    logits = 3.0 * torch.nn.functional.one_hot(labels, 3)
    logits[:errors] = logits[:errors].roll(1, dims=1)
    return evaluate(logits, labels, CLASSES)


def comparison():
    right = np.ones((2, 60), dtype=bool)
    untaught = right.copy()
    untaught[:, :20] = False
    untaught[1, 20] = False
    return compare(right, untaught, seeds=[0, 1], agreements=[0.95, 0.9])


def curve(arm: str, epochs: int = 30) -> TrainingCurve:
    points = tuple(
        EpochPoint(epoch=e, loss=1 / e, validation_accuracy=e / 40, seconds=e * 2.0)
        for e in range(1, epochs + 1)
    )
    return TrainingCurve(arm=arm, seed=0, best_epoch=epochs, points=points)


COST = Cost(
    seconds={"train": 12.34}, teacher_rows=3500, device="cpu (x)", threads=2, torch="2.13", imago="0.1"
)


@pytest.fixture
def distillation():
    return DistillationReport(
        job_id="j-1",
        created_at=AT,
        spec=DistillationSpec(name="wren", teacher="owl", dataset="birds", seeds=(0, 1)),
        dataset_digest="d" * 64,
        teacher_digest="e" * 64,
        transfer_set_digest="f" * 64,
        student_version="wren-1",
        teacher_parameters=2_395_210,
        student_parameters=1_276_810,
        teacher=evaluation(1),
        taught=evaluation(2),
        untaught=evaluation(5),
        agreement=0.95,
        comparison=comparison(),
        latency=(Latency(batch=1, p50_ms=0.1234, p99_ms=0.5, calls=300, threads=1),),
        teacher_latency_ms=4.5,
        curves=(curve("taught"), curve("untaught", 1)),
        cost=COST,
    )


def table_below(page: str, heading: str) -> list[list[str]]:
    lines = page.split(f"## {heading}\n", 1)[1].strip().split("\n\n", 1)[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_the_page_says_verdict_gain_interval_and_p_first(distillation):
    page = markdown(distillation)
    assert page.startswith("# Student wren-1\n\n**BEATS**: taught minus untaught accuracy is +34.17 points")
    assert "95 % interval" in page
    assert "p = below 0.001" in page


@pytest.mark.parametrize("verdict", Verdict)
def test_every_verdict_is_explained(verdict):
    sentence = verdict_sentence(comparison().model_copy(update={"verdict": verdict, "p_value": 0.0432}))
    assert sentence.startswith(f"**{verdict.value}**")
    assert "p = 0.043" in sentence


def test_teacher_untaught_and_distilled_stand_side_by_side(distillation):
    header, _, *rows = table_below(markdown(distillation), "On the test split, at T = 1")
    assert header == ["", "errors", "accuracy", "95 % interval", "NLL (nats)", "Brier", "ECE", "parameters"]
    assert [(row[0], row[1], row[-1]) for row in rows] == [
        ("teacher", "1 of 60", "2,395,210"),
        ("untaught", "5 of 60", "1,276,810"),
        ("distilled", "2 of 60", "1,276,810"),
    ]
    assert rows[2][2] == "96.67%"


def test_each_seed_and_each_class_has_its_row(distillation):
    page = markdown(distillation)
    assert [row[0] for row in table_below(page, "The verdict, seed by seed")[2:]] == ["0", "1"]
    assert table_below(page, "Errors by class")[2] == ["ant", "1", "2", "1"]


def test_class_names_cannot_break_the_page(distillation):
    page = markdown(distillation)
    assert "| bee\\|wasp |" in page
    assert "\\<b\\>" in page


def test_a_long_curve_is_shortened_and_keeps_both_ends(distillation):
    row = table_below(markdown(distillation), "Training")[2]
    shown = row[3].split(", ")
    assert len(shown) == 6
    assert (shown[0], shown[-1]) == ("1: 2.50%", "30: 75.00%")
    assert table_below(markdown(distillation), "Training")[3][3] == "1: 2.50%"


def test_all_rows_of_a_table_have_the_same_number_of_cells(distillation):
    for block in markdown(distillation).split("\n\n"):
        if block.startswith("|"):
            assert len({line.replace("\\|", "").count("|") for line in block.splitlines()}) == 1


def test_latency_and_cost_are_stated(distillation):
    page = markdown(distillation)
    assert "| student, in process | 1 | 0.123 | 0.500 |" in page
    assert "| teacher, over HTTP | 1 | 4.500 |" in page
    assert "3,500 rows asked of a teacher" in page


@pytest.mark.parametrize(
    ("seeds", "words"), [((0,), "one net"), ((0, 1), "2 nets, merged by the geometric mean")]
)
def test_a_teachers_page_says_what_it_is_and_how_good(seeds, words):
    report = TeacherReport(
        job_id="j-2",
        created_at=AT,
        spec=TeacherSpec(name="owl", dataset="birds", seeds=seeds),
        dataset_digest="d" * 64,
        teacher_digest="e" * 64,
        parameters=10,
        evaluation=evaluation(3),
        curves=(curve("teacher"),),
        cost=COST,
    )
    page = markdown(report)
    assert page.startswith("# Teacher owl\n")
    assert words in page
    assert table_below(page, "On the test split")[2][1] == "3 of 60"
