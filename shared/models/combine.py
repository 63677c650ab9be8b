"""How a generalist and its specialists answer together; numpy only, so that a server without torch can do it.

For each image the q over all classes is wanted that minimises KL(p_g, q) plus the sum of KL(p_m, q) over the
active specialists m, where q is summed over the classes that m calls its dustbin (Hinton, Vinyals, Dean 2015,
arXiv:1503.02531, section 5.4, eq. 5). The paper takes gradient steps on logits. But up to a constant the
objective is the likelihood of 1 + |active| observations of a class, some of which only say "none of these",
and for that there is a fixed point without a step size (EM: Dempster, Laird, Rubin 1977): share each dustbin
out among its classes as q has them, average, repeat. On 512 images of 100 classes and 8 specialists that is a
few milliseconds. Where nets are almost certain and contradict each other a few rows would take thousands of
steps; those are solved by an interior-point method, so that `solve` keeps what it promises.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64

from shared.contracts.specialists import Combination

TOLERANCE = 1e-8
"""How far in nats the sum of KLs may lie above its minimum."""
_STEPS = 100
"""Of the fixed point; rows that need more are solved otherwise."""
_NEWTON_STEPS = 100
"""Of the interior-point method; it needs some 30."""
_MARGIN = 1e-12
"""By which share dual weights stay inside their bounds: more than rounding, less than any tolerance."""
_SMALLEST = 1e-280
"""In place of probabilities that are 0 in floating point; its inverse and its logarithm are finite."""
_TINY = 1e-38
"""Keeps log q finite where a net is so sure that a probability is 0 in floating point."""

Ask = Callable[[int, Int64[np.ndarray, " asked"]], Float[np.ndarray, "asked answers"]]


@dataclass(frozen=True)
class Covered:
    """What a specialist answers about.

    Attributes:
        classes: indices of its classes among the generalist's, in the order of its logits.
        dustbin: whether one more logit, the last, stands for all classes that are not among them. Without it
            a specialist answers about all classes; `classes` are then those for which it is asked.
    """

    classes: tuple[int, ...]
    dustbin: bool = True


def covered(combination: Combination, classes: Sequence[str]) -> tuple[Covered, ...]:
    """Return what each specialist of an ensemble answers about, `classes` being all of them in order."""
    place = {name: index for index, name in enumerate(classes)}
    return tuple(
        Covered(tuple(place[name] for name in part.classes), part.dustbin) for part in combination.specialists
    )


def active(
    generalist_logits: Float[np.ndarray, "rows classes"], specialists: Sequence[Covered], *, top_n: int
) -> Bool[np.ndarray, "rows specialists"]:
    """Return which specialists are asked about which image: those that cover any of the top n classes.

    Args:
        generalist_logits: its scores at T = 1.
        specialists: what each covers.
        top_n: how many of the generalist's most probable classes count, 1 or more.
    """
    classes = generalist_logits.shape[1]
    covers = np.zeros((len(specialists), classes), dtype=bool)
    for number, specialist in enumerate(specialists):
        covers[number, list(specialist.classes)] = True
    if top_n == 1:
        top = generalist_logits.argmax(1)[:, None]
    else:
        top = np.argpartition(-generalist_logits, min(top_n, classes) - 1, axis=1)[:, :top_n]
    asked: Bool[np.ndarray, "rows specialists"] = covers.T[top].any(1)
    return asked


def combined_logits(
    generalist_logits: Float[np.ndarray, "rows classes"],
    specialists: Sequence[Covered],
    ask: Ask,
    *,
    top_n: int,
) -> Float32[np.ndarray, "rows classes"]:
    """Return log q, the logits of generalist and specialists together at T = 1, with zero mean in each row.

    Args:
        generalist_logits: its scores at T = 1.
        specialists: what each covers.
        ask: given a specialist's number and the rows on which it is active, returns its logits on them.
            Called once for each specialist that is active on any row.
        top_n: how many of the generalist's most probable classes decide who is asked.

    Returns:
        float32. A row on which no specialist is active is the generalist's.
    """
    asked = active(generalist_logits, specialists, top_n=top_n)
    log_q = _log_softmax(generalist_logits)
    rows = np.flatnonzero(asked.any(1))
    if len(rows):
        place = np.full(len(asked), -1)
        place[rows] = np.arange(len(rows))
        known = np.exp(log_q[rows])
        unknown = np.zeros((len(rows), len(specialists)))
        outside = np.zeros((len(specialists), known.shape[1]))
        for number, specialist in enumerate(specialists):
            own = np.flatnonzero(asked[:, number])
            if not len(own):
                continue
            probabilities = np.exp(_log_softmax(ask(number, own)))
            at = place[own]
            if specialist.dustbin:
                inside = np.array(specialist.classes)
                known[at[:, None], inside] += probabilities[:, :-1]
                unknown[at, number] = probabilities[:, -1]
                outside[number] = 1
                outside[number, inside] = 0
            else:
                known[at] += probabilities
        q, _ = solve(known, unknown, outside, start=np.exp(log_q[rows]))
        log_q[rows] = np.log(np.maximum(q, _TINY))
    zero_mean: Float32[np.ndarray, "rows classes"] = (log_q - log_q.mean(1, keepdims=True)).astype(np.float32)
    return zero_mean


def solve(
    known: Float64[np.ndarray, "rows classes"],
    unknown: Float64[np.ndarray, "rows specialists"],
    outside: Float64[np.ndarray, "specialists classes"],
    *,
    start: Float64[np.ndarray, "rows classes"],
    tolerance: float = TOLERANCE,
) -> tuple[Float64[np.ndarray, "rows classes"], Float64[np.ndarray, " rows"]]:
    """Return the q of each row that minimises the sum of KLs, and how far in nats it is from that at most.

    Guarantee: no distribution has a sum of KLs that is lower than that of the returned q by more than the
    returned number of nats, and that number is at most `tolerance`. It is proven row by row (by Jensen's
    inequality, or by a feasible point of the dual problem), not inferred from steps that have become small.
    It holds for the objective: where two classes have next to no known mass, q may differ between them.

    Args:
        known: mass that the models give to each class by name: the generalist's probability plus those of the
            active specialists that cover it.
        unknown: mass that each active specialist gives to its dustbin, 0 where it is not active. What is
            given to a dustbin without classes is impossible, whatever q is, and left out.
        outside: 1 where a class belongs to a specialist's dustbin, else 0.
        start: where to begin, such as the generalist's probabilities.
        tolerance: rows are done when the objective is proven to lie within this of its minimum, in nats.
            Below about 1e-11 float64 does not reach.

    Raises:
        ArithmeticError: the tolerance was not reached.

    Where nothing is unknown, one step gives the arithmetic mean of the models, which is the answer. Rows on
    which the fixed point is slow, such as those of nets that are almost certain and contradict each other,
    leave it after some steps and are solved by an interior-point method.
    """
    unknown = unknown * outside.any(1)
    models = known.sum(1) + unknown.sum(1)
    # A class at 0 would stay there, even where a dustbin has nowhere else to go.
    q = np.maximum(start, _SMALLEST)
    gap = np.full(len(q), np.inf)
    left = np.arange(len(q))
    for _ in range(_STEPS):
        before = q[left]
        inside = before @ outside.T
        per_mass = np.divide(unknown[left], inside, out=np.zeros_like(inside), where=unknown[left] > 0)
        spread = per_mass @ outside
        by_name = known[left] / before
        q[left] = np.maximum((known[left] + before * spread) / models[left, None], _SMALLEST)
        # The objective is convex in q, and this is minus its gradient; so by Jensen no q is better than
        # `before` by more than this, and the q that follows is no worse than `before`.
        gap[left] = models[left] * np.log((by_name + spread).max(1) / models[left])
        left = left[gap[left] > tolerance]
        if not len(left):
            return q, gap
    q[left], gap[left] = _solve_slow_rows(known[left], unknown[left], outside, tolerance)
    if (gap > tolerance).any():
        raise ArithmeticError(
            f"the sum of KLs is known to be within {gap.max():.1e} nats of its minimum, not {tolerance:g}"
        )
    return q, gap


def _solve_slow_rows(
    known: Float64[np.ndarray, "rows classes"],
    unknown: Float64[np.ndarray, "rows specialists"],
    outside: Float64[np.ndarray, "specialists classes"],
    tolerance: float,
) -> tuple[Float64[np.ndarray, "rows classes"], Float64[np.ndarray, " rows"]]:
    """Return what `solve` does; rows of the same active specialists are solved together.

    Classes that lie in the same dustbins are one unknown: the objective shares it out among them as they are
    known, whatever the rest of q is.
    """
    q = np.empty_like(known)
    gap = np.empty(len(known))
    companies, company = np.unique(unknown > 0, axis=0, return_inverse=True)
    for number, asked in enumerate(companies):
        rows = np.flatnonzero(company.reshape(-1) == number)
        dustbins, group = np.unique(outside[asked], axis=1, return_inverse=True)
        group = group.reshape(-1)
        members = np.eye(dustbins.shape[1])[group]
        mass = known[rows] @ members
        of_group, gap[rows] = _interior_point(mass, unknown[np.ix_(rows, asked)], dustbins, tolerance)
        equal = np.broadcast_to(1 / members.sum(0)[group], known[rows].shape)
        share = np.divide(known[rows], mass[:, group], out=equal.copy(), where=mass[:, group] > 0)
        q[rows] = np.maximum(of_group[:, group] * share, _SMALLEST)
    return q, gap


def _interior_point(
    known: Float64[np.ndarray, "rows groups"],
    unknown: Float64[np.ndarray, "rows specialists"],
    outside: Float64[np.ndarray, "specialists groups"],
    tolerance: float,
) -> tuple[Float64[np.ndarray, "rows groups"], Float64[np.ndarray, " rows"]]:
    """Return what `solve` does, by a primal-dual interior-point method (Wright 1997, chapters 1 and 5).

    With N models, weights w of the dustbins and slacks s = N - w outside >= 0, the best q has q s = known
    and (mass of q in each dustbin) w = unknown. Newton's method is applied to both, with every right-hand
    side raised to `floor` at least; `floor` then falls, so that weights near 0 do not block the way. Any
    feasible w bounds the minimum from below, which gives the gap.
    """
    models = known.sum(1, keepdims=True) + unknown.sum(1, keepdims=True)
    rows, groups = known.shape
    best = np.full_like(known, 1 / groups)
    gap = np.full(rows, np.inf)
    left = np.arange(rows)
    q = best.copy()
    w = np.repeat(models / (2 * outside.sum(0).max()), len(outside), axis=1)
    s = models - w @ outside
    floor = models.copy()
    last = tolerance / (100 * (groups + len(outside)))
    for _ in range(_NEWTON_STEPS):
        by_name, by_dustbin = np.maximum(known[left], floor), np.maximum(unknown[left], floor)
        inside = q @ outside.T
        matrix = (outside * (q / s)[:, None, :]) @ outside.T
        matrix[:, range(len(outside)), range(len(outside))] += inside / w
        dw = np.linalg.solve(matrix, (by_dustbin / w - (by_name / s) @ outside.T)[..., None])[..., 0]
        ds = -dw @ outside
        dq = (by_name - q * ds) / s - q
        shrinks = np.concatenate([-dq / q, -dw / w, -ds / s], axis=1).max(1, keepdims=True)
        step = np.minimum(1, 0.95 / np.maximum(shrinks, 0.1))
        q, w, s = q + step * dq, w + step * dw, s + step * ds
        floor = np.where(step > 0.5, np.maximum(floor / 5, last), floor)
        whole = q / q.sum(1, keepdims=True)
        now = _duality_gap(whole, w, known[left], unknown[left], outside, models[left])
        better = now < gap[left]
        best[left[better]], gap[left[better]] = whole[better], now[better]
        going = gap[left] > tolerance
        if not going.any():
            break
        left, q, w, s, floor = left[going], q[going], w[going], s[going], floor[going]
    return best, gap


def _duality_gap(
    q: Float64[np.ndarray, "rows groups"],
    w: Float64[np.ndarray, "rows specialists"],
    known: Float64[np.ndarray, "rows groups"],
    unknown: Float64[np.ndarray, "rows specialists"],
    outside: Float64[np.ndarray, "specialists groups"],
    models: Float64[np.ndarray, "rows 1"],
) -> Float64[np.ndarray, " rows"]:
    """Return by how much at most the sum of KLs at q lies above its minimum, in nats.

    The dual of the minimum over q is the maximum over w >= 0 with w outside <= N of
    sum known log((N - w outside) / known) + sum unknown log(w / unknown), up to what both have in common.
    """
    w = w * (1 - _MARGIN) / np.maximum(1, (w @ outside / models).max(1, keepdims=True))
    slack = models - w @ outside
    # Weights near 0 say nothing, but their logarithm has to be finite.
    of_names = np.log(np.maximum(known, _SMALLEST) / (slack * q))
    of_dustbins = np.log(np.maximum(unknown, _SMALLEST) / (w * (q @ outside.T)))
    gap: Float64[np.ndarray, " rows"] = (known * of_names).sum(1) + (unknown * of_dustbins).sum(1)
    return gap


def _log_softmax(logits: Float[np.ndarray, "rows answers"]) -> Float64[np.ndarray, "rows answers"]:
    wide = logits.astype(np.float64)
    wide -= wide.max(1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(1, keepdims=True))
    return wide
