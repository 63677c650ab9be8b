"""The page of a job of kind `specialists`."""

from datetime import UTC, datetime

import numpy as np
import torch

from shared.contracts.reports import (
    Cost,
    CoverageRow,
    EpochPoint,
    SpecialistFigures,
    SpecialistsReport,
    TrainingCurve,
)
from shared.contracts.specs import SpecialistPlan, SpecialistsSpec, SpecialistTraining
from shared.contracts.students import Latency
from shared.distillation.evaluation import evaluate
from shared.distillation.reports.files import markdown, report_files
from shared.distillation.verdict import compare

CLASSES = ("ant", "bee|wasp", "cat", "dog")


def evaluation(errors: int):
    labels = torch.arange(80) % 4
    logits = 3.0 * torch.nn.functional.one_hot(labels, 4)
    logits[:errors] = logits[:errors].roll(1, dims=1)
    return evaluate(logits, labels, CLASSES)


def report(**training: object) -> SpecialistsReport:
    before = np.ones((2, 80), dtype=bool)
    before[:, :30] = False
    after = before.copy()
    after[:, 5:30] = True
    latency = Latency(batch=1, p50_ms=0.2, p99_ms=0.4, calls=200, threads=1)
    point = EpochPoint(epoch=1, loss=0.5, validation_accuracy=0.75, seconds=2.0)
    return SpecialistsReport(
        job_id="j-1",
        created_at=datetime(2026, 3, 4, tzinfo=UTC),
        cost=Cost(seconds={"train": 8.0}, teacher_rows=100, device="cpu", threads=1, torch="2", imago="0"),
        spec=SpecialistsSpec(
            name="experts",
            generalist="owl",
            dataset="zoo",
            plan=SpecialistPlan(sets=1, size=2),
            training=SpecialistTraining(**training),
            seeds=(0, 1),
        ),
        dataset_digest="1" * 64,
        generalist_digest="2" * 64,
        transfer_set_digest="3" * 64,
        teacher_digest="4" * 64,
        student_version="experts-1",
        generalist_parameters=1000,
        parameters=1900,
        seed=1,
        generalist=evaluation(30),
        combined=evaluation(5),
        comparison=compare(after, before, seeds=(0, 1), agreements=[0.7, 0.7]),
        coverage=(
            CoverageRow(covering=0, examples=40, generalist_correct=20, changes=(0, 0)),
            CoverageRow(covering=1, examples=40, generalist_correct=30, changes=(25, 24)),
        ),
        specialists=(
            SpecialistFigures(
                classes=("bee|wasp", "dog"),
                share=0.1,
                correction=2.197,
                jobs=("j-1-000", "j-1-001"),
                validation_accuracies=(0.8, None),
                best_epochs=(1, 1),
                asked=33,
            ),
        ),
        latency=(latency,),
        generalist_latency=(latency,),
        curves=(TrainingCurve(arm="specialist-00", seed=1, best_epoch=1, points=(point,)),),
    )


def test_the_page_says_what_the_specialists_changed_and_where():
    page = markdown(report())
    assert "**BEATS**: with specialists minus the generalist alone, accuracy is +31.25 points" in page
    assert "+50.0% relative" in page
    assert "| 1 | 40 | 30 | +24.5 | +81.7% | +25, +24 |" in page
    assert "| 0 | 40 | 20 | +0.0 | +0.0% | +0, +0 |" in page
    assert r"| 0 | bee\|wasp, dog | 10.00% | +2.197 | 33 | 80.00%,  |" in page
    assert "all other classes in one dustbin" in page
    assert "over all classes" in markdown(report(rest="soft_targets"))


def test_the_page_has_errors_by_class_before_and_with_specialists():
    page = markdown(report())
    _, below = page.split("## Errors by class\n\n")
    assert below.splitlines()[:4] == [
        "| class | images | generalist | with specialists |",
        "| --- | --- | --- | --- |",
        "| ant | 20 | 8 | 2 |",
        r"| bee\|wasp | 20 | 8 | 1 |",
    ]


def test_the_plot_by_coverage_is_among_the_files():
    files = report_files(report())
    assert files["coverage.png"].startswith(b"\x89PNG")
    assert b"(coverage.png)" in files["report.md"]
    stored = SpecialistsReport.model_validate_json(files["report.json"])
    assert {plot.name for plot in stored.plots} == {"reliability", "confusion", "curves", "coverage"}
