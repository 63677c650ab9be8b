"""Each check of a teacher on made answers, at both sides of what it looks for."""

import numpy as np
import pytest

from shared.contracts.images import ImageInput, Preprocessing
from shared.distillation import teacher_checks as checks

CLASSES = ("ant", "bee", "cat", "dog")
SMALL = ImageInput(height=8, width=8, channels=1)
GREY = Preprocessing(input=SMALL, mean=(0.3,), std=(0.25,))


def answers(rows: int = 40, *, seed: int = 0, scale: float = 4.0) -> np.ndarray:
    """Return logits in which each class leads in as many rows as the others."""
    logits = np.random.default_rng(seed).normal(0, 1, (rows, 4))
    logits[np.arange(rows), np.arange(rows) % 4] += scale
    return logits.astype(np.float32)


def labels(rows: int = 40) -> np.ndarray:
    return np.arange(rows, dtype=np.int64) % 4


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


# --- names and numbers -------------------------------------------------------------------------------------


def test_the_same_classes_in_the_same_order_pass():
    assert checks.check_classes(CLASSES, CLASSES).outcome == "ok"


def test_the_same_classes_in_another_order_fail_with_the_permutation():
    found = checks.check_classes(("bee", "ant", "dog", "cat"), CLASSES)
    assert found.outcome == "failed"
    assert "the teacher's outputs 1, 0, 3, 2" in found.detail


def test_another_number_of_classes_fails_with_both_numbers_and_the_names():
    found = checks.check_classes(CLASSES[:3], CLASSES)
    assert found.outcome == "failed"
    assert "3 classes, the dataset 4; only the dataset has dog" in found.detail


def test_names_that_differ_fail_and_those_that_differ_by_case_alone_are_told():
    assert (
        "1 of 4 names differ; only the teacher has eel"
        in checks.check_classes(("ant", "bee", "cat", "eel"), CLASSES).detail
    )
    found = checks.check_classes(("Ant", "bee", "cat ", "dog"), CLASSES)
    assert found.outcome == "failed"
    assert "by case or blanks alone" in found.detail


def test_images_of_another_size_than_the_teacher_takes_fail():
    assert checks.check_input(GREY, SMALL).outcome == "ok"
    found = checks.check_input(GREY, ImageInput(height=32, width=32, channels=3))
    assert found.outcome == "failed"
    assert "8 x 8 x 1, the dataset's are 32 x 32 x 3" in found.detail


@pytest.mark.parametrize(
    ("height", "width", "outcome", "words"),
    [
        (16, 16, "ok", "brought to 16 x 16 x 1"),
        (4, 4, "warning", "smaller"),
        (16, 12, "warning", "stretches"),
    ],
)
def test_what_the_net_sees_is_told_and_lost_detail_and_stretching_are_warned_of(
    height: int, width: int, outcome: str, words: str
):
    net = ImageInput(height=height, width=width, channels=1)
    found = checks.check_input(GREY.model_copy(update={"net": net}), SMALL)
    assert (found.outcome, words in found.detail) == (outcome, True)


@pytest.mark.parametrize(
    ("mean", "std", "outcome"),
    [
        ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "ok"),
        ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "failed"),
        ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "ok"),
        ((0.0, 0.0, 0.0), (1.01, 1.0, 1.0), "failed"),
        ((1.01, 0.5, 0.5), (0.5, 0.5, 0.5), "failed"),
        ((-0.01, 0.5, 0.5), (0.5, 0.5, 0.5), "failed"),
    ],
)
def test_mean_and_std_must_be_those_of_pixels_from_0_to_1(mean, std, outcome: str):
    seen = ImageInput(height=8, width=8, channels=3)
    assert checks.check_normalisation(Preprocessing(input=seen, mean=mean, std=std)).outcome == outcome


@pytest.mark.parametrize(
    ("mean", "std", "outcome"),
    [
        (0.3, 0.25, "ok"),
        (0.0, 1 / 255, "warning"),  # pixels from 0 to 255: right for few nets, and told
        (0.3, 0.026, "ok"),
        (0.3, 0.024, "warning"),
        (0.95, 0.229, "ok"),
        (0.95, 0.2, "warning"),
    ],
)
def test_what_the_net_sees_of_the_dataset_is_expected_near_mean_0_and_deviation_1(mean, std, outcome: str):
    of_teacher = Preprocessing(input=SMALL, mean=(mean,), std=(std,))
    # Of the second the deviation is far from 1, of the last the mean is far from 0.
    found = checks.check_normalisation(of_teacher, (0.3,), (0.25,) if mean != 0.95 else (0.2,))
    assert found.outcome == outcome, found.detail


def test_a_grey_dataset_is_compared_with_each_channel_of_a_net_for_colours():
    seen = ImageInput(height=8, width=8, channels=3)
    wide = Preprocessing(input=SMALL, net=seen, mean=(0.3, 0.3, 0.9), std=(0.25, 0.25, 0.02))
    assert checks.check_normalisation(wide, (0.3,), (0.25,)).outcome == "warning"


# --- answers -----------------------------------------------------------------------------------------------


def test_rows_that_are_not_finite_are_named():
    logits = answers()
    assert checks.check_finite(logits).outcome == "ok"
    logits[3, 1], logits[17, 2] = np.nan, np.inf
    found = checks.check_finite(logits, first_row=100)
    assert found.outcome == "failed"
    assert "2 of 40 rows: 103, 117" in found.detail


def test_of_many_bad_rows_the_first_are_named():
    found = checks.check_finite(np.full((30, 4), np.nan, np.float32))
    assert "30 of 30 rows: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, …" in found.detail


@pytest.mark.parametrize(("change", "outcome"), [(0.9e-3, "ok"), (1.2e-3, "failed")])
def test_a_teacher_that_answers_otherwise_the_second_time_is_not_in_evaluation_mode(change, outcome: str):
    logits = answers()
    other = logits + change * np.ptp(logits, axis=1, keepdims=True)
    found = checks.check_repeatable(logits, other, logits, precision="float32")
    assert found.outcome == outcome
    batch = checks.check_repeatable(logits, logits, other, precision="float32")
    assert batch.outcome == outcome
    if outcome == "failed":
        assert "asked twice" in found.detail
        assert "batch of 40" in batch.detail


def test_rounding_of_half_precision_is_no_other_answer():
    logits = answers()
    other = logits * 1.005
    assert checks.check_repeatable(logits, other, other, precision="float16").outcome == "ok"
    assert checks.check_repeatable(logits, other, other, precision="float32").outcome == "failed"


def test_probabilities_in_place_of_logits_fail():
    found = checks.check_logits(softmax(answers()).astype(np.float16).astype(np.float32))
    assert found.outcome == "failed"
    assert "answers: probabilities" in found.advice


def test_logits_in_0_to_1_that_do_not_sum_to_1_are_logits():
    probabilities = softmax(answers())
    assert checks.check_logits(probabilities * 1.02).outcome == "ok"
    assert checks.check_logits(probabilities * 1.005).outcome == "failed"
    one_row_else = probabilities.copy()
    one_row_else[7] = (-0.5, 0.5, 0.5, 0.5)
    assert checks.check_logits(one_row_else).outcome == "ok"


def test_probabilities_are_known_behind_a_service_that_moves_rows_to_zero_mean():
    probabilities = softmax(answers())
    centred = probabilities - probabilities.mean(1, keepdims=True)
    assert checks.check_centred_logits(centred).outcome == "failed"
    logits = answers()
    assert checks.check_centred_logits(logits - logits.mean(1, keepdims=True)).outcome == "ok"


def test_small_logits_of_an_untrained_net_are_not_taken_for_probabilities():
    small = np.random.default_rng(0).normal(0, 0.02, (40, 4))
    assert checks.check_centred_logits(small - small.mean(1, keepdims=True)).outcome == "ok"


def test_logits_that_do_not_depend_on_the_image_fail():
    same = np.tile(np.float32([3.0, 1.0, 0.0, -1.0]), (40, 1))
    noise = np.random.default_rng(0).normal(0, 1, same.shape)
    assert checks.check_alike(same + 1e-5 * noise).outcome == "failed"
    assert checks.check_alike(same + 1e-3 * noise).outcome == "ok"
    assert checks.check_alike(np.zeros((40, 4), np.float32)).outcome == "failed"


@pytest.mark.parametrize(("others", "words"), [(2, "'ant' is named for 97.5 %"), (3, "never names")])
def test_a_teacher_that_names_one_class_for_nearly_all_images_is_warned_of(others: int, words: str):
    logits = answers()
    logits[others:, 0] += 100
    found = checks.check_named(logits, CLASSES, labels())
    assert found.outcome == "warning"
    assert words in found.detail


def test_one_class_for_nearly_all_images_is_right_where_nearly_all_images_are_of_it():
    logits = answers()
    logits[4:, 0] += 100
    truth = labels()
    truth[4:] = 0
    assert checks.check_named(logits, CLASSES, truth).outcome == "ok"


def test_a_class_that_is_never_named_is_told_where_there_are_images_of_it():
    logits = answers()
    logits[:, 3] -= 100
    assert "never names 1 of the classes: dog" in checks.check_named(logits, CLASSES, labels()).detail
    truth = labels()
    truth[truth == 3] = 0
    assert checks.check_named(logits, CLASSES, truth).outcome == "ok"


# --- accuracy ----------------------------------------------------------------------------------------------


def right_on(count: int, of: int = 100):
    """Return the figures of a teacher that is right on so many images."""
    truth = labels(of)
    logits = np.zeros((of, 4), np.float32)
    logits[np.arange(of), (truth + (np.arange(of) >= count)) % 4] = 5
    return checks.evaluation_of(logits, truth, CLASSES)


@pytest.mark.parametrize(
    ("claimed", "outcome"), [(None, "ok"), (0.9, "ok"), (0.944, "ok"), (0.945, "failed"), (0.5, "ok")]
)
def test_a_claim_above_the_interval_of_the_accuracy_fails(claimed: float | None, outcome: str):
    """Wilson's 95 % interval of 90 of 100 ends at 0.9448."""
    found = checks.check_accuracy(right_on(90), claimed)
    assert found.outcome == outcome
    assert "right on 90.0 % of 100 images (95 % interval 82.6 % to 94.5 %)" in found.detail


@pytest.mark.parametrize(("right", "outcome"), [(33, "warning"), (36, "ok")])
def test_an_accuracy_that_may_be_that_of_the_commonest_class_is_near_chance(right: int, outcome: str):
    """Wilson's interval of 33 of 100 begins at 0.246, of 36 at 0.273; each class has a quarter."""
    assert checks.check_accuracy(right_on(right), None).outcome == outcome


def test_another_way_of_showing_the_images_is_told_where_the_intervals_do_not_meet():
    """Of 100, 50 end at 0.597; 69 begin at 0.594 and 70 at 0.604."""
    assert checks.check_alternatives(50, 100, {"red and blue swapped": 69}).outcome == "ok"
    found = checks.check_alternatives(50, 100, {"red and blue swapped": 70, "inverted pixels": 20})
    assert found.outcome == "warning"
    assert "with red and blue swapped it is right on 70 of 100 images" in found.detail


def test_nothing_else_need_be_tried_where_nothing_could_be_much_better():
    """All of 100 right begin at 0.963; 91 end at 0.952 and 93 at 0.966."""
    assert checks.may_be_beaten(91, 100)
    assert not checks.may_be_beaten(93, 100)
    assert checks.check_alternatives(93, 100, {}).outcome == "ok"


def test_the_calibration_error_is_told_as_a_figure():
    found = checks.check_calibration(right_on(90))
    assert found.outcome == "ok"
    assert f"{right_on(90).ece:.3f} apart" in found.detail
