"""The list as a whole: its order, and what is left out where it cannot be looked at."""

import numpy as np
import pytest

from shared.contracts.images import ImageInput, Preprocessing
from shared.contracts.teachers import MemberTeacher, MixedEnsemble, OnnxModel
from shared.distillation.teacher_trial import judge_answers, judge_description, other_normalisations
from tests.support.jobs import DIGITS, GREY, dataset_manifest, teacher_description

LABELS = np.arange(60, dtype=np.int64) % 10


def logits() -> np.ndarray:
    made = np.random.default_rng(0).normal(0, 1, (60, 10))
    made[np.arange(60), LABELS] += 5
    return made


def checks(found) -> list[str]:
    return [one.check for one in found]


def test_the_list_goes_from_what_the_teacher_is_to_what_its_targets_are_worth():
    before = judge_description(teacher_description(), dataset_manifest())
    assert checks(before) == ["class names", "input size", "normalisation"]
    judged = judge_answers(logits(), LABELS, DIGITS, centred=False)
    assert checks(judged.findings) == [
        "logits are finite", "accuracy", "logits, not probabilities", "answers follow the images",
        "classes that are named", "soft targets", "label smoothing", "calibration",
    ]  # fmt: skip
    assert judged.accuracy == (logits().argmax(1) == LABELS).mean()
    assert judged.suggested_temperature is not None


def test_nothing_is_judged_of_answers_that_are_not_finite():
    made = logits()
    made[7, 3] = np.nan
    judged = judge_answers(made, LABELS, DIGITS, centred=False)
    assert checks(judged.findings) == ["logits are finite"]
    assert (judged.accuracy, judged.suggested_temperature) == (None, None)


def test_of_probabilities_no_temperature_is_advised():
    exponentials = np.exp(logits())
    judged = judge_answers(exponentials / exponentials.sum(1, keepdims=True), LABELS, DIGITS, centred=False)
    assert "soft targets" not in checks(judged.findings)
    assert judged.suggested_temperature is None
    assert judged.accuracy is not None


def test_without_labels_the_rest_is_judged_all_the_same():
    judged = judge_answers(logits(), None, DIGITS, centred=False)
    (accuracy,) = (one for one in judged.findings if one.check == "accuracy")
    assert accuracy.outcome == "skipped"
    assert "soft targets" in checks(judged.findings)
    assert "calibration" not in checks(judged.findings)


def test_where_no_temperature_matters_targets_are_not_judged():
    assert "soft targets" not in checks(
        judge_answers(logits(), LABELS, DIGITS, centred=False, temperature=None).findings
    )


@pytest.mark.parametrize(
    "model",
    [
        OnnxModel(input="x", output="y", datatype="uint8"),
        MixedEnsemble(members=tuple(MemberTeacher(name=name, digest="0" * 64) for name in ("a", "b"))),
    ],
)
def test_a_model_that_normalises_by_itself_is_not_judged_by_mean_and_std(model):
    wild = Preprocessing(input=GREY, mean=(120.0,), std=(60.0,))
    found = judge_description(teacher_description(model=model, preprocessing=wild), dataset_manifest())
    assert {one.check: one.outcome for one in found}["normalisation"] == "skipped"
    nets = judge_description(teacher_description(preprocessing=wild), dataset_manifest())
    assert {one.check: one.outcome for one in nets}["normalisation"] == "failed"


def test_without_a_dataset_or_its_classes_there_is_nothing_to_compare_with():
    assert judge_description(teacher_description(), None)[0].outcome == "skipped"
    nameless = dataset_manifest(classes=(), labelled=False)
    assert judge_description(teacher_description(), nameless)[0].outcome == "skipped"


def test_the_usual_normalisations_but_the_teachers_own_are_tried():
    own = Preprocessing(input=GREY, mean=(0.5,), std=(0.5,))
    tried = other_normalisations(own, dataset_manifest(pixel_mean=(0.1,), pixel_std=(0.0,)))
    assert set(tried) == {"pixels from 0 to 1", "pixels from 0 to 255", "the dataset's mean and std"}
    assert tried["the dataset's mean and std"].std[0] > 0
    colours = ImageInput(height=28, width=28, channels=3)
    wide = Preprocessing(input=GREY, net=colours, mean=(0.5,) * 3, std=(0.5,) * 3)
    tried = other_normalisations(wide, dataset_manifest())
    assert "ImageNet's mean and std" in tried
    assert tried["the dataset's mean and std"].mean == (0.1,) * 3
