"""Which images are chosen by what a teacher, or a teacher and a student, say of them."""

import numpy as np
import pytest

from shared.transfer_set.choice import choose_rows


def logits_of(probabilities: list[list[float]]) -> np.ndarray:
    z = np.log(np.array(probabilities))
    return (z - z.mean(axis=1, keepdims=True)).astype(np.float32)


ROWS = np.array([3, 5, 8, 13])
SURE_TO_UNSURE = logits_of([[0.98, 0.01, 0.01], [0.4, 0.3, 0.3], [0.5, 0.49, 0.01], [0.9, 0.05, 0.05]])


@pytest.mark.parametrize(("share", "taken"), [(0.25, [5]), (0.5, [5, 8]), (0.75, [5, 8, 13])])
def test_the_rows_of_the_most_entropy_are_chosen(share: float, taken: list[int]) -> None:
    chosen = choose_rows(ROWS, share, lambda block: SURE_TO_UNSURE[block])
    assert chosen.tolist() == taken


def test_the_rows_on_which_the_student_is_furthest_from_the_teacher_are_chosen() -> None:
    """KL(teacher, student) by hand: 0; log 2 and less; and 0.9 log(0.9 / 0.05) + ... for row 13."""
    student = SURE_TO_UNSURE.copy()
    student[3] = logits_of([[0.05, 0.05, 0.9]])[0]
    student[1] = logits_of([[0.3, 0.3, 0.4]])[0]
    teacher = SURE_TO_UNSURE
    for share, taken in ((0.25, [13]), (0.5, [5, 13])):
        chosen = choose_rows(ROWS, share, lambda block: teacher[block], lambda block: student[block])
        assert chosen.tolist() == taken


def test_of_equal_scores_the_first_rows_are_chosen_and_large_sets_are_looked_at_in_blocks() -> None:
    rows = np.arange(20_000)
    blocks: list[int] = []

    def alike(block: slice) -> np.ndarray:
        blocks.append(block.stop - block.start)
        return np.zeros((block.stop - block.start, 4), np.float16)

    assert choose_rows(rows, 0.01, alike).tolist() == list(range(200))
    assert sum(blocks) == 20_000
    assert max(blocks) <= 8_192
