"""What a teacher answered, checked and brought into the form in which a transfer set stores it."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shared.artefacts.tensors import Array
from shared.errors import TeacherAnswerInvalid
from shared.transfer_set.format import TransferSetInputs, answer_columns
from shared.transfer_set.topk import SparseLogits, divergence, keep_top

LARGEST_LOGIT: Final = float(np.finfo(np.float16).max)
_NAMED: Final = 5
"""Rows that an error names."""
_NUMBERS_AT_ONCE: Final = 1 << 18
"""Logits that are worked on in float64 at a time, so that many classes do not cost memory."""


def encode(
    logits: Array, inputs: TransferSetInputs, *, rows: NDArray[np.int64], views: NDArray[np.int32]
) -> dict[str, Array]:
    """Return the columns that store a teacher's answers.

    Args:
        logits: softened logits z/T as answered at `inputs.temperature`, n x classes, float16 or wider.
        inputs: of the set.
        rows: the training image of each answer, to name it in an error.
        views: the view of each.

    Raises:
        TeacherAnswerInvalid: another shape, a number that is not finite, or one beyond 16-bit floats.
    """
    expected = (len(rows), len(inputs.classes))
    if logits.shape != expected:
        raise TeacherAnswerInvalid(f"expected {expected} logits, the teacher answered {logits.shape}")
    infinite: NDArray[np.bool_] = np.logical_or.reduce(~np.isfinite(logits), axis=1)
    _need(~infinite, "logits that are not finite", rows, views)
    columns = empty_answers(inputs, len(rows))
    at_once = max(1, _NUMBERS_AT_ONCE // len(inputs.classes))
    for begin in range(0, len(rows), at_once):
        part = slice(begin, begin + at_once)
        z = zero_mean(logits[part], inputs)
        largest = np.abs(z).max(axis=1)
        _need(
            largest <= LARGEST_LOGIT,
            f"logits (their mean taken off) of up to {largest.max():.3g}, and 16-bit floats reach to "
            f"{LARGEST_LOGIT:.0f}",
            rows[part],
            views[part],
            remedy="Such a teacher is broken or needs its logits scaled: train it anew.",
        )
        for name, column in _stored(z, inputs).items():
            columns[name][part] = column
    return columns


def thin_out(logits: NDArray[np.float16], inputs: TransferSetInputs) -> dict[str, Array]:
    """Return the columns that store zero-mean logits which another set keeps whole, n x classes."""
    columns = empty_answers(inputs, len(logits))
    at_once = max(1, _NUMBERS_AT_ONCE // len(inputs.classes))
    for begin in range(0, len(logits), at_once):
        part = slice(begin, begin + at_once)
        for name, column in _stored(logits[part].astype(np.float64), inputs).items():
            columns[name][part] = column
    return columns


def empty_answers(inputs: TransferSetInputs, rows: int) -> dict[str, Array]:
    """Return columns for so many answers, all 0."""
    return {name: np.zeros((rows, *n), dtype) for name, (dtype, n) in answer_columns(inputs).items()}


def zero_mean(logits: Array, inputs: TransferSetInputs) -> NDArray[np.float64]:
    """Return z = logits x temperature with the mean of each row taken off.

    16-bit logits of a teacher that tempers come with zero mean but for what rounding left of it, at most
    2^-11 of the largest. To take that off and round again would only move them: they stay, bit for bit.
    """
    z = logits.astype(np.float64) * inputs.temperature
    mean = z.mean(axis=1, keepdims=True)
    if logits.dtype == np.float16 and inputs.tempers:
        mean[np.abs(mean) <= np.abs(z).max(axis=1, keepdims=True) * 2**-11 + 2**-24] = 0
    z -= mean
    return z


def _stored(z: NDArray[np.float64], inputs: TransferSetInputs) -> dict[str, Array]:
    if inputs.kept is None:
        return {"logits": z.astype(np.float16)}
    sparse = keep_top(z, inputs.kept, temperature=inputs.temperature)
    return {
        "classes": sparse.classes,
        "logits": sparse.logits,
        "rest": sparse.rest,
        "error": _errors(z, sparse, inputs.error_temperatures),
    }


def _errors(
    z: NDArray[np.float64], sparse: SparseLogits, temperatures: tuple[float, ...]
) -> NDArray[np.float16]:
    stored = sparse.dense()
    return np.stack([divergence(z, stored, temperature=t) for t in temperatures], axis=1).astype(np.float16)


def _need(
    good: NDArray[np.bool_],
    what: str,
    rows: NDArray[np.int64],
    views: NDArray[np.int32],
    **error: Any,
) -> None:
    """Raise an error that names the rows that are not good."""
    if good.all():
        return
    bad = np.flatnonzero(~good)
    named = ", ".join(f"image {rows[place]} in view {views[place]}" for place in bad[:_NAMED])
    more = ", …" if len(bad) > _NAMED else ""
    raise TeacherAnswerInvalid(
        f"the teacher answered {what}: {len(bad)} of {len(good)} rows ({named}{more})", **error
    )
