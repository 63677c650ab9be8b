"""The combination of generalist and specialists; arXiv:1503.02531, section 5.5."""

import numpy as np
import pytest
from numpy.typing import NDArray

from shared.models import combine
from shared.models.combine import TOLERANCE, Covered, active, combined_logits, solve

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


# --- the guarantee of `solve`, on rows that are hard for it ------------------------------------------------

Inputs = tuple[Matrix, Matrix, Matrix, Matrix]
"""known, unknown, outside and the generalist's probabilities."""


def inputs(generalist: Matrix, sets: list[tuple[int, ...]], logits: list[Matrix], asked: Matrix) -> Inputs:
    p = softmax(generalist)
    known, unknown = p.copy(), np.zeros((len(p), len(sets)))
    outside = np.ones((len(sets), p.shape[1]))
    for number, (classes, own) in enumerate(zip(sets, map(softmax, logits), strict=True)):
        known[:, list(classes)] += own[:, :-1] * asked[:, [number]]
        unknown[:, number] = own[:, -1] * asked[:, number]
        outside[number, list(classes)] = 0
    return known, unknown, outside, p


def drawn(seed: int, sets: list[tuple[int, ...]], *, classes: int, spread: float, rows: int = 12) -> Inputs:
    """Return rows on which about one specialist in three finds its own dustbin as likely as can be."""
    generator = np.random.default_rng(seed)
    logits = [generator.normal(0, spread, (rows, len(one) + 1)) for one in sets]
    for own in logits:
        own[:, -1] += generator.choice([0, 3 * spread, -3 * spread], rows)
    asked = (generator.random((rows, len(sets))) < 0.7).astype(float)
    return inputs(generator.normal(0, spread, (rows, classes)), sets, logits, asked)


def subsets(seed: int, *, classes: int, sets: int) -> list[tuple[int, ...]]:
    generator = np.random.default_rng(seed)
    sizes = generator.integers(1, classes, sets)
    return [tuple(generator.choice(classes, size, replace=False).tolist()) for size in sizes]


def lost(q: Matrix, given: Inputs) -> Matrix:
    """Return the sum of KLs of each row, but for what does not depend on q."""
    known, unknown, outside, _ = given
    return np.asarray(-(known * np.log(q)).sum(1) - (unknown * np.log(q @ outside.T)).sum(1))


def slowly(given: Inputs, start: Matrix, steps: int = 20_000) -> Matrix:
    """Return q after many plain steps of the fixed point, in float64."""
    known, unknown, outside, _ = given
    q = start
    for _ in range(steps):
        q = known + q * ((unknown / (q @ outside.T)) @ outside)
        q = np.maximum(q / q.sum(1, keepdims=True), 1e-250)
    return q


HARD = {
    "almost one-hot": drawn(0, subsets(0, classes=6, sets=4), classes=6, spread=20.0),
    "one-hot in floating point": drawn(1, subsets(1, classes=6, sets=4), classes=6, spread=1000.0),
    "sure, each of one class": drawn(2, [(0,), (1,), (2,), (0,)], classes=3, spread=20.0),
    "nearly equal": drawn(3, subsets(3, classes=8, sets=5), classes=8, spread=1e-6),
    "disjoint": drawn(4, [(0, 1), (2, 3), (4, 5), (6,)], classes=8, spread=20.0),
    "disjoint and one-hot": drawn(5, [(0, 1, 2, 3), (4, 5, 6, 7)], classes=8, spread=1000.0),
    "covering no class": drawn(6, [(), (0, 1), (1, 2), ()], classes=5, spread=10.0),
    "covering all but one": drawn(
        7, [tuple({*range(5)} - {left}) for left in range(5)], classes=5, spread=20.0
    ),
    "forty sets": drawn(8, subsets(8, classes=30, sets=40), classes=30, spread=20.0),
}


@pytest.mark.parametrize("given", HARD.values(), ids=HARD.keys())
def test_no_q_is_better_than_the_one_found_by_more_than_the_gap_told_and_the_gap_is_small(given: Inputs):
    known, unknown, outside, p = given
    q, gap = solve(known, unknown, outside, start=p)
    np.testing.assert_allclose(q.sum(1), 1, atol=1e-9)
    assert (gap <= TOLERANCE).all()
    even = np.full_like(p, 1 / p.shape[1])
    for start in (0.999 * p + 0.001 * even, 0.999 * q + 0.001 * even):
        better_by = lost(q, given) - lost(slowly(given, start), given)
        assert (better_by <= np.maximum(gap, 0) + 1e-11).all()


def test_many_contradictory_rows_are_all_within_the_tolerance():
    for seed in range(36):
        given = drawn(
            seed,
            subsets(seed, classes=3 + seed % 20, sets=1 + seed % 13),
            classes=3 + seed % 20,
            spread=10.0 ** (seed % 6 - 1),
            rows=30,
        )
        q, gap = solve(given[0], given[1], given[2], start=given[3])
        assert (gap <= TOLERANCE).all()
        np.testing.assert_allclose(q.sum(1), 1, atol=1e-9)


def test_what_a_dustbin_holds_goes_to_its_classes_even_if_the_generalist_rules_them_out():
    """By hand: q of class 0 is the mean of 1 and 0.2; the rest has to be somewhere among the others."""
    known = np.array([[1.2, 0.0, 0.0]])
    unknown = np.array([[0.8]])
    q, gap = solve(known, unknown, np.array([[0.0, 1, 1]]), start=np.array([[1.0, 0, 0]]))
    assert q[0, 0] == pytest.approx(0.6)
    assert q[0, 1:].sum() == pytest.approx(0.4)
    assert gap[0] <= TOLERANCE


def test_two_specialists_that_contradict_a_sure_generalist_are_weighed_by_hand():
    """Each of two specialists has one class and rules it out; the generalist gives the third class e.

    With q = (a, a, 1 - 2a) by symmetry, (1 - e) log a + 2 log(1 - a) + e log(1 - 2a) is to be greatest:
    for e = 0, where its slope is 0, a = 1/3; a is at most 1/2, so that is it. The step is slow as e nears 0.
    """
    for e in (0.0, 1e-12, 1e-9, 1e-6):
        p = np.array([[(1 - e) / 2, (1 - e) / 2, e]])
        outside = np.array([[0.0, 1, 1], [1, 0, 1]])
        q, gap = solve(p, np.ones((1, 2)), outside, start=p)
        assert gap[0] <= TOLERANCE
        np.testing.assert_allclose(q, 1 / 3, atol=1e-3)
        grid = np.linspace(1e-4, 0.5 - 1e-7, 200_001)
        value = (1 - e) * np.log(grid) + 2 * np.log(1 - grid) + e * np.log(1 - 2 * grid)
        assert lost(q, (p, np.ones((1, 2)), outside, p))[0] <= -value.max() + TOLERANCE


def test_the_two_ways_to_solve_agree(monkeypatch: pytest.MonkeyPatch):
    known, unknown, outside, p = drawn(9, subsets(9, classes=8, sets=5), classes=8, spread=2.0)
    stepped, _ = solve(known, unknown, outside, start=p)
    monkeypatch.setattr(combine, "_STEPS", 0)
    q, _ = solve(known, unknown, outside, start=p)
    np.testing.assert_allclose(q, stepped, atol=1e-4)  # 1e-8 nats are 1e-4 of q


def test_the_share_of_classes_in_the_same_dustbins_stays_as_they_are_known_on_slow_rows(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(combine, "_STEPS", 0)
    known, unknown, outside, _ = HARD["disjoint"]
    wide = np.concatenate([known, known[:, [7]] * 1e-3], axis=1)  # a ninth class, where the eighth is
    wide[:, 7] += 1e-30
    wide[:, 8] += 1e-33
    q, _ = solve(wide, unknown, np.concatenate([outside, outside[:, [7]]], axis=1), start=wide / 2)
    np.testing.assert_allclose(q[:, 8] / q[:, 7], 1e-3, rtol=1e-6)


def test_mass_in_a_dustbin_without_classes_is_left_out():
    p = np.array([[0.5, 0.3, 0.2]])
    q, gap = solve(p, np.array([[0.4]]), np.zeros((1, 3)), start=p)
    np.testing.assert_allclose(q, p, atol=1e-12)
    assert gap[0] <= TOLERANCE


def test_a_tolerance_that_floating_point_cannot_reach_is_told():
    known, unknown, outside, p = HARD["almost one-hot"]
    with pytest.raises(ArithmeticError, match="not 1e-30"):
        solve(known, unknown, outside, start=p, tolerance=1e-30)


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
