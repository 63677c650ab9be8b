"""The combination of generalist and specialists; arXiv:1503.02531, section 5.5."""

import numpy as np
import pytest
from numpy.typing import NDArray

from shared.models.combine import Covered, active, combined_logits, solve

Matrix = NDArray[np.float64]


def softmax(logits: Matrix) -> Matrix:
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(-1, keepdims=True))


def answers(seed: int, rows: int, classes: int, spread: float = 2.0) -> Matrix:
    return np.random.default_rng(seed).normal(0, spread, (rows, classes))


def kl_sum(q: Matrix, generalist: Matrix, specialists: list[Covered], asked: dict[int, Matrix]) -> np.float64:
    """The paper's eq. 5 for one image, by the letter."""
    total = (generalist * np.log(generalist / q)).sum()
    for number, p in asked.items():
        covered = list(specialists[number].classes)
        merged = q
        if specialists[number].dustbin:
            merged = np.append(q[covered], np.delete(q, covered).sum())
        total += (p * np.log(p / merged)).sum()
    return np.float64(total)


def descended(
    generalist: Matrix, specialists: list[Covered], asked: dict[int, Matrix], steps: int = 3000
) -> Matrix:
    """The paper's way for one image: gradient descent on the logits z of q = softmax(z), in float64."""
    z = np.log(generalist)
    for _ in range(steps):
        q = softmax(z)
        slope = q - generalist
        for number, p in asked.items():
            covered = list(specialists[number].classes)
            target = p
            if specialists[number].dustbin:
                outside = np.ones(len(q), dtype=bool)
                outside[covered] = False
                target = np.zeros(len(q))
                target[covered] = p[:-1]
                target[outside] = p[-1] * q[outside] / q[outside].sum()
            slope = slope + q - target
        z = z - 2.0 / (1 + len(asked)) * slope
    return softmax(z)


def probabilities_of(logits: NDArray[np.float32]) -> Matrix:
    return softmax(logits.astype(np.float64))


SETS = {
    "disjoint": [Covered((0, 1, 2)), Covered((3, 4)), Covered((5, 6, 7))],
    "overlapping": [Covered((0, 1, 2, 3)), Covered((2, 3, 4)), Covered((3, 5, 6)), Covered((0, 3, 6))],
    "one without a dustbin": [Covered((0, 1, 2), dustbin=False), Covered((0, 1, 4))],
    "of one class": [Covered((0,)), Covered((1,)), Covered((0, 1))],
}


@pytest.mark.parametrize("specialists", SETS.values(), ids=SETS.keys())
@pytest.mark.parametrize("top_n", [1, 3])
def test_q_is_what_slow_gradient_descent_on_the_sum_of_kls_finds(specialists: list[Covered], top_n: int):
    rows, classes = 4, 8
    generalist = answers(11, rows, classes)
    logits = [
        answers(1 + n, rows, len(s.classes) + 1 if s.dustbin else classes) for n, s in enumerate(specialists)
    ]
    asked = active(generalist, specialists, top_n=top_n)
    assert asked.any()

    found = probabilities_of(
        combined_logits(generalist, specialists, lambda n, own: logits[n][own], top_n=top_n)
    )

    for row in range(rows):
        p_g = softmax(generalist[row])
        p_m = {n: softmax(logits[n][row]) for n in np.flatnonzero(asked[row])}
        slow = descended(p_g, specialists, p_m)
        np.testing.assert_allclose(found[row], slow, atol=1e-5)
        assert kl_sum(found[row], p_g, specialists, p_m) <= kl_sum(slow, p_g, specialists, p_m) + 1e-8


def test_the_mean_of_probabilities_is_the_answer_where_every_model_covers_all_classes():
    """arXiv:1503.02531, section 5.5: the arithmetic mean is the one solution in closed form for KL(p, q)."""
    generalist, first, second = (answers(seed, 5, 4) for seed in range(3))
    whole = Covered((0, 1, 2, 3), dustbin=False)
    found = combined_logits(generalist, [whole, whole], lambda n, own: (first, second)[n][own], top_n=1)
    mean = (softmax(generalist) + softmax(first) + softmax(second)) / 3
    np.testing.assert_allclose(probabilities_of(found), mean, atol=1e-6)


def test_an_image_without_an_active_specialist_gets_the_generalists_answer():
    generalist = answers(3, 20, 6)
    specialists = [Covered((4, 5))]
    own = active(generalist, specialists, top_n=1)[:, 0]
    assert own.any()
    assert not own.all()
    found = combined_logits(generalist, specialists, lambda n, rows: answers(4, len(rows), 3), top_n=1)
    expected = generalist - generalist.mean(1, keepdims=True)
    np.testing.assert_allclose(found[~own], expected[~own], atol=1e-6)
    assert np.abs(found[own] - expected[own]).max() > 0.1


def test_specialists_that_agree_with_the_generalist_change_nothing():
    generalist = answers(5, 10, 6)
    p = softmax(generalist)
    specialists = [Covered((0, 1, 2)), Covered((2, 4))]

    def agree(number: int, own: NDArray[np.int64]) -> Matrix:
        covered = list(specialists[number].classes)
        inside = p[own][:, covered]
        return np.log(np.column_stack([inside, 1 - inside.sum(1)]))

    found = combined_logits(generalist, specialists, agree, top_n=6)
    np.testing.assert_allclose(probabilities_of(found), p, atol=1e-6)


def test_only_specialists_that_cover_one_of_the_top_classes_are_asked_and_only_about_those_images():
    generalist = np.array([[5.0, 1, 0, 0], [0, 5, 1, 0], [0, 0, 5, 4], [1, 0, 0, 5]])
    specialists = [Covered((0, 1)), Covered((3,)), Covered((1, 3))]
    questions: dict[int, list[int]] = {}

    def ask(number: int, own: NDArray[np.int64]) -> Matrix:
        questions[number] = own.tolist()
        return np.zeros((len(own), len(specialists[number].classes) + 1))

    combined_logits(generalist, specialists, ask, top_n=1)
    assert questions == {0: [0, 1], 1: [3], 2: [1, 3]}
    questions.clear()
    combined_logits(generalist, specialists, ask, top_n=2)
    assert questions == {0: [0, 1, 3], 1: [2, 3], 2: [0, 1, 2, 3]}
    questions.clear()
    combined_logits(generalist, specialists, ask, top_n=100)
    assert all(rows == [0, 1, 2, 3] for rows in questions.values())


def test_an_image_is_answered_alike_alone_and_in_company():
    generalist = answers(6, 30, 8)
    specialists = SETS["overlapping"]
    logits = [answers(7 + n, 30, len(s.classes) + 1) for n, s in enumerate(specialists)]
    together = combined_logits(generalist, specialists, lambda n, own: logits[n][own], top_n=2)
    for row in range(30):
        alone = combined_logits(
            generalist[[row]], specialists, lambda n, own, row=row: logits[n][[row]][own], top_n=2
        )
        np.testing.assert_allclose(alone[0], together[row], atol=1e-6)


def test_the_gap_that_is_reported_is_above_the_true_one_and_within_the_tolerance():
    generalist = answers(8, 1, 8)
    p_g = softmax(generalist)
    outside = np.array([[0.0, 0, 0, 0, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0, 1, 1]])
    first, second = softmax(answers(9, 1, 5)), softmax(answers(10, 1, 5))
    known = p_g.copy()
    known[:, :4] += first[:, :4]
    known[:, 2:6] += second[:, :4]
    unknown = np.array([[first[0, 4], second[0, 4]]])
    specialists = [Covered((0, 1, 2, 3)), Covered((2, 3, 4, 5))]
    asked = {0: first[0], 1: second[0]}
    best = kl_sum(descended(p_g[0], specialists, asked), p_g[0], specialists, asked)
    for tolerance in (1e-1, 1e-3, 1e-6):
        q, gap = solve(known, unknown, outside, start=p_g, tolerance=tolerance)
        true_gap = kl_sum(q[0], p_g[0], specialists, asked) - best
        assert true_gap - 1e-12 <= gap[0] <= tolerance


def test_nets_that_are_sure_beyond_floating_point_still_get_finite_logits():
    generalist = np.array([[1e5, 0.0, -1e5], [0.0, 1e5, 0.0]])
    specialists = [Covered((0,)), Covered((1, 2))]
    found = combined_logits(
        generalist.astype(np.float32),
        specialists,
        lambda n, own: np.array([[-1e5, 1e5], [1e5, 0.0, -1e5]][n])[None, :],
        top_n=1,
    )
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found.mean(1), 0, atol=1e-3)
    assert probabilities_of(found)[1].argmax() == 1
