"""What the verdict on distilled specialists says: the share of the gain, and the control beside it."""

import pytest

from experiments.experiment import Form, Outcomes
from experiments.result import Finding
from experiments.specialists_distilled import summarise
from shared.contracts.evaluation import Comparison, Evaluation, NetFigures, SeedComparison
from shared.contracts.reports import DistillationReport, SpecialistsReport

SEEDS = (0, 1, 2)
GENERALIST, TOGETHER = 0.80, 0.82


def net(arm: str, seed: int, accuracy: float) -> NetFigures:
    return NetFigures.model_construct(arm=arm, seed=seed, accuracy=accuracy, errors=0)


def distillation(*accuracies: float) -> DistillationReport:
    taught = [net("taught", seed, accuracy) for seed, accuracy in zip(SEEDS, accuracies, strict=True)]
    untaught = [net("untaught", seed, 0.79) for seed in SEEDS]
    return DistillationReport.model_construct(nets=(*untaught, *reversed(taught)))


def finding(student: tuple[float, ...], control: tuple[float, ...], *, together: float = TOGETHER) -> Finding:
    compared = [
        SeedComparison(seed=seed, taught_accuracy=together, untaught_accuracy=GENERALIST) for seed in SEEDS
    ]
    reports = {
        "tiny-imagenet-specialists": SpecialistsReport.model_construct(
            generalist=Evaluation.model_construct(accuracy=GENERALIST),
            combined=Evaluation.model_construct(accuracy=together),
            comparison=Comparison.model_construct(seeds=tuple(compared)),
        ),
        "tiny-imagenet-student": distillation(*student),
        "tiny-imagenet-of-generalist": distillation(*control),
    }
    return summarise(Outcomes(Form(reduced=True), reports))


def test_a_student_that_beats_the_control_is_said_to():
    found = finding((0.817, 0.818, 0.819), (0.805, 0.807, 0.806))
    assert found.reached is True
    assert "keeps 90 % (81.80 %)" in found.verdict
    assert "it beats the student taught by the generalist alone (80.60 %, 30 % of that gain)" in found.verdict
    assert "as well" not in found.verdict


def test_the_difference_to_the_control_is_paired_by_seed():
    """By hand: differences 1.2, 1.1 and 1.3 points; t(0.975, 2) = 4.30265 times 0.1 / sqrt(3) is 0.248."""
    found = finding((0.817, 0.818, 0.819), (0.805, 0.807, 0.806))
    assert "+1.20 points (95 % interval +0.95 to +1.45, 3 seeds)" in found.verdict
    assert found.tables[0].rows[1] == ("Tiny ImageNet, 100 classes", "1", "81.80 %", "80.70 %", "+1.10")


def test_it_is_said_plainly_that_the_control_does_as_well():
    found = finding((0.817, 0.818, 0.819), (0.819, 0.818, 0.816))
    assert found.reached is True, "the bar is the share that is kept"
    assert "it does not beat the student taught by the generalist alone (81.77 %, 88 %" in found.verdict
    assert "the control does as well" in found.verdict


def test_a_student_worse_than_the_control_is_said_to_be():
    found = finding((0.805, 0.807, 0.806), (0.817, 0.818, 0.819))
    assert found.reached is False
    assert "it is worse than the student taught by the generalist alone" in found.verdict
    assert found.verdict.endswith("80 % of the gain not reached.")


@pytest.mark.parametrize("together", [0.80, 0.79])
def test_of_no_gain_no_share_is_kept_but_the_control_is_compared(together: float):
    found = finding((0.817, 0.818, 0.819), (0.805, 0.807, 0.806), together=together)
    assert found.reached is False
    assert "the specialists gained nothing that could be kept" in found.verdict
    assert "it beats the student taught by the generalist alone (80.60 %), paired" in found.verdict
