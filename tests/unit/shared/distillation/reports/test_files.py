from datetime import UTC, datetime

import numpy as np
import pytest
import torch

from shared.contracts.cascade import CascadeCurve, CascadePoint
from shared.contracts.evaluation import NetFigures, Verdict
from shared.contracts.reports import (
    Cost,
    DistillationReport,
    EpochPoint,
    RepairedNet,
    RepairReport,
    TeacherReport,
    TrainingCurve,
)
from shared.contracts.served_graphs import GraphChoice, GraphFigures, GraphTiming
from shared.contracts.specs import DistillationSpec, TeacherSpec
from shared.contracts.students import Latency
from shared.distillation.evaluation import evaluate
from shared.distillation.reports.files import markdown, report_files, write_files
from shared.distillation.reports.sections import errors_by_class, verdict_sentence
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
    seconds={"train": 12.34},
    teacher_rows=3500,
    cached_rows=7000,
    device="cpu (x)",
    threads=2,
    torch="2.13",
    imago="0.1",
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
        student_bytes=5_110_123,
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


def test_the_page_shows_what_student_and_teacher_are_worth_together(distillation):
    points = (
        CascadePoint(chosen_share=0.0, threshold=0.0, share=0.0, accuracy=0.98),
        CascadePoint(chosen_share=0.05, threshold=0.9125, share=0.048, accuracy=0.989),
    )
    curve = CascadeCurve(
        validation_images=500, test_images=1000, student_accuracy=0.98, teacher_accuracy=0.985, points=points
    )
    page = markdown(distillation.model_copy(update={"cascade": curve}))
    below = page.split("## With the teacher behind it\n", 1)[1]
    assert "| 5.0% | 0.9125 | 4.80% | 98.90% | +0.90 |" in below
    assert "cascade.png" in report_files(distillation.model_copy(update={"cascade": curve}))
    assert "With the teacher behind it" not in markdown(distillation)


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
    assert table_below(page, "Errors by class")[2] == ["ant", "20", "1", "2", "1"]


def test_the_graphs_that_serving_was_chosen_from_stand_with_their_figures(distillation):
    timings = (GraphTiming(batch=1, cpu_ms=0.04, speedup=2.5), GraphTiming(batch=8, cpu_ms=0.1, speedup=2.0))
    figures = GraphFigures(
        name="int8-static", size_bytes=1_300_000, same_class=0.998, accuracy=0.99, kl_nats=1.2e-5,
        timings=timings, served=True, reason="2.24 times as quick",
    )  # fmt: skip
    choice = GraphChoice(
        file="model-int8-static.onnx", cpu="Abacus 9", runtime="ONNX Runtime 1", images=2048,
        calibration_images=128, seconds=1.5,
        candidates=(
            GraphFigures(name="float32", timings=timings, reason="slower"),
            figures,
            GraphFigures(name="float16", reason="could not be made"),
        ),
    )  # fmt: skip
    page = markdown(distillation.model_copy(update={"graphs": choice}))
    assert "`model-int8-static.onnx` is served. Agreement with float32 on 2,048 validation images" in page
    row = "| **int8-static** | 1.30 MB | 0.040, 2.50 | 0.100, 2.00 | 99.80% | 99.00% | 1.2e-05 | 2.24 times"
    assert row in page
    assert "| float16 |  |  |  |  |  |  | could not be made |" in page
    assert "is served." not in markdown(distillation)


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
    assert "3,500 rows asked of a teacher, 7,000 rows from the cache" in page
    assert "1,276,810 parameters, 5.11 MB as ONNX; the teacher has 2,395,210, 1.9 times as many" in page


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


@pytest.mark.parametrize(
    ("seeds", "size"),
    [
        ((0,), "2,395,210 parameters; 9.58 MB as float32"),
        ((0, 1), "2,395,210 parameters, 1,197,605 in each of 2 nets; 9.58 MB as float32"),
    ],
)
def test_a_teachers_page_says_how_large_it_is_and_where_its_latency_stands(seeds, size):
    report = TeacherReport(
        job_id="j-2",
        created_at=AT,
        spec=TeacherSpec(name="owl", dataset="birds", seeds=seeds),
        dataset_digest="d" * 64,
        teacher_digest="e" * 64,
        parameters=2_395_210,
        evaluation=evaluation(3),
        curves=(curve("teacher"),),
        cost=COST,
    )
    ((said,),) = table_below(markdown(report), "Size")
    assert said.startswith(size)
    assert "Latency is not measured here" in said


def test_warnings_stand_above_the_figures(distillation):
    warned = distillation.model_copy(update={"warnings": ("the teacher is no better than <b>",)})
    page = markdown(warned)
    assert "> **Warning:** the teacher is no better than \\<b\\>" in page
    assert page.index("Warning") < page.index("## On the test split")
    assert "Warning" not in markdown(distillation)


def test_confusions_are_listed_with_the_most_frequent_first(distillation):
    rows = table_below(markdown(distillation), "Confusions of the distilled student")[2:]
    assert rows == [["ant", "bee\\|wasp", "1"], ["bee\\|wasp", "\\<b\\>", "1"]]


def test_of_two_hundred_classes_the_worst_twenty_are_shown():
    names = [f"class {number}" for number in range(200)]
    labels = torch.arange(200).repeat_interleave(30)
    logits = 5.0 * torch.nn.functional.one_hot(labels, 200)
    for place in range(30):  # class 10 + n has n errors
        wrong = (labels == 10 + place).nonzero().flatten()[:place]
        logits[wrong] = logits[wrong].roll(1, dims=1)
    text = errors_by_class([("distilled", evaluate(logits, labels, names))])
    rows = [line for line in text.splitlines() if line.startswith("| class ")][1:]
    assert len(rows) == 20
    assert rows[0] == "| class 39 | 30 | 29 |"
    assert "The 20 of 200 classes with the most errors of distilled, which has none in 171." in text


def test_repaired_biases_are_shown_with_the_errors_before_and_after(distillation):
    def figures(arm: str, seed: int, errors: int) -> NetFigures:
        return NetFigures(
            arm=arm, seed=seed, errors=errors, accuracy=1 - errors / 60, nll=0.1, brier=0.1, ece=0.1,
            errors_by_class=dict.fromkeys(CLASSES, 0),
        )  # fmt: skip

    repair = RepairReport(
        source="unlabelled",
        images=3500,
        shares=(0.25, 0.25, 0.5),
        nets=(RepairedNet(arm="taught", seed=0, biases=(-1.0, -1.5, 2.5), before=figures("taught", 0, 8)),),
        comparison_before=comparison(),
    )
    nets = (figures("taught", 0, 2),)
    page = markdown(distillation.model_copy(update={"repair": repair, "nets": nets}))
    assert "mean softmax mass on 3,500 training images, whose labels were not read" in page
    assert table_below(page, "Class biases repaired")[0][0].startswith("To each net's last layer")
    assert "| taught | 0 | 8 | 2 | +10.00 | \\<b\\>: +2.50 |" in page


def test_the_files_are_those_that_the_report_lists_and_the_page_shows_its_plots(distillation, tmp_path):
    files = report_files(distillation)
    stored = DistillationReport.model_validate_json(files["report.json"])
    assert set(files) == set(stored.files)
    assert {"reliability.png", "reliability.svg", "confusion.png", "curves.svg"} <= set(files)
    page = files["report.md"].decode()
    for plot in stored.plots:
        assert f"![{plot.title}]({plot.name}.png)" in page
    write_files(tmp_path, files)
    assert {path.name for path in tmp_path.iterdir()} == set(files)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_an_ensembles_page_shows_each_net_alone():
    def member(seed: int) -> NetFigures:
        return NetFigures(
            arm="teacher",
            seed=seed,
            errors=seed,
            accuracy=0.9,
            nll=0.1,
            brier=0.1,
            ece=0.1,
            errors_by_class={},
        )

    report = TeacherReport(
        job_id="j-2",
        created_at=AT,
        spec=TeacherSpec(name="owl", dataset="birds", seeds=(3, 4)),
        dataset_digest="d" * 64,
        teacher_digest="e" * 64,
        parameters=10,
        evaluation=evaluation(2),
        members=(member(3), member(4)),
        curves=(curve("teacher"),),
        cost=COST,
    )
    assert [row[:2] for row in table_below(markdown(report), "Each net alone")[2:]] == [
        ["3", "3"],
        ["4", "4"],
    ]
