"""Asks again about a few rows whose answers are in the store, and compares, before anything else is asked.

A digest says that weights, preprocessing and precision are the same. It does not say that a server behind
another protocol tells the truth about itself, or that no stored answer was ever wrong.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from services.worker.stages.transfer_sets.filling import Questioner, gather
from shared.artefacts.files import sha256_bytes
from shared.contracts.teachers import Precision
from shared.errors import CachedAnswersDiffer, NotFound, TeacherChanged, TeacherUnavailable
from shared.transfer_set.answers import zero_mean
from shared.transfer_set.writer import TransferSetWriter

_FP16_ROUNDING: Final = 4 * 2.0**-11
"""Of a number between two 16-bit floats half their distance is lost, 2^-11 of it: when it is answered, and
when it is stored without its mean, each time on both sides."""
_ROUNDING: Final[Mapping[Precision, float]] = {"float32": 2.0**-11, "float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Of one product. float32 is that of TF32, as which GPUs compute convolutions of float32: a teacher that
moved from a CPU to a GPU is still the same."""
_GROWTH: Final = 8
"""Rounding errors of the layers of a deep net, which partly cancel, on the scale of its largest logit."""
_PATIENCE_S: Final = 10.0
"""How long a teacher is waited for that nothing else has to be asked."""


class Rescored(BaseModel):
    """What came of it."""

    rows: int = 0
    """Asked again; all agreed."""
    skipped: str = ""
    """Why none was, where some should have been."""


def tolerance(z: NDArray[np.float64], precision: Precision) -> NDArray[np.float64]:
    """Return by how much zero-mean logits z may differ from what is stored, a row: n x classes to n.

    It is a share of the row's largest logit: 4 x 2^-11 for two roundings to 16-bit floats on either side, and
    8 roundings of the precision of the products. Where all logits are below 1 it is that share of 1, which
    changes no probability by more than as much.
    """
    scale: NDArray[np.float64] = np.maximum(np.abs(z).max(axis=1), 1.0)
    return scale * (_FP16_ROUNDING + _GROWTH * _ROUNDING[precision])


def rescore(
    writer: TransferSetWriter,
    missing: Iterable[int],
    questioner: Questioner,
    *,
    wanted: int,
    seed: str,
    nothing_else: bool,
) -> Rescored:
    """Ask again about so many cached rows, drawn at random.

    Args:
        writer: of the set.
        missing: shards that are not written; of those, rows count whose answer other sets know.
        questioner: whom to ask.
        wanted: how many rows; fewer where fewer are cached.
        seed: what they are drawn by, such as a job's id.
        nothing_else: whether the set lacks no answer at all. Then a teacher that cannot be reached, or is
            another by now, is no reason to stop: what is stored was said by the one that the job means.

    Raises:
        CachedAnswersDiffer: it says something else now.
        TeacherChanged, TeacherNotFound, TeacherUnavailable, TeacherAnswerInvalid: the teacher cannot be
            asked, and has to be.
    """
    sample = _draw(writer, frozenset(missing), wanted, seed)
    rows = sum(map(len, sample.values()))
    if not rows:
        return Rescored()
    recalled = [(number, places, writer.recall(number, places)) for number, places in sample.items()]
    images = np.concatenate([one.images for _, _, one in recalled])
    stored = np.concatenate([one.logits for _, _, one in recalled]).astype(np.float32)
    kept = np.concatenate([one.kept for _, _, one in recalled])
    patient = _patient(questioner) if nothing_else else questioner
    asked = patient.ask(lambda begin, end: images[begin:end], rows, temperature=writer.inputs.temperature)
    try:
        answers = gather(asked, (rows, len(questioner.teacher.classes)))
    except (NotFound, TeacherChanged, TeacherUnavailable) as error:
        if not nothing_else:
            raise
        return Rescored(skipped=str(error))
    if answers is None:
        stopped = questioner.should_stop()
        return Rescored(skipped="the job was stopped" if stopped else "the teacher does not answer")
    numbers = np.concatenate([writer.first_row(number) + places for number, places, _ in recalled])
    compare(stored, zero_mean(answers, writer.inputs), kept, numbers, questioner.teacher.precision)
    return Rescored(rows=rows)


def compare(
    stored: NDArray[np.float32],
    z: NDArray[np.float64],
    kept: NDArray[np.bool_],
    numbers: NDArray[np.int64],
    precision: Precision,
) -> None:
    """Raise where answers differ from what is stored by more than rounding does.

    Args:
        stored: zero-mean logits, n x classes.
        z: the same as answered now.
        kept: which of the stored ones are there, n x classes: of a set with `top_k` not all.
        numbers: of the rows in the transfer set, n.
        precision: of the teacher's products.

    Raises:
        CachedAnswersDiffer: the rows are named, in rising order.
    """
    allowed = tolerance(z, precision)
    off = np.where(kept, np.abs(z - stored), 0.0).max(axis=1)
    # Not finite is no agreement either.
    wrong = np.flatnonzero(~(off <= allowed))
    if len(wrong):
        worst = wrong[np.argmax(off[wrong] / allowed[wrong])]
        rows = tuple(sorted(int(number) for number in numbers[wrong]))
        raise CachedAnswersDiffer(len(stored), rows, float(off[worst]), float(allowed[worst]))


def _draw(
    writer: TransferSetWriter, missing: frozenset[int], wanted: int, seed: str
) -> dict[int, NDArray[np.int64]]:
    """Return the places of the drawn rows by shard; every cached row is equally likely."""
    if not wanted:
        return {}
    cached = [
        writer.rows_in(number) - (writer.rows_to_ask(number) if number in missing else 0)
        for number in range(writer.shards)
    ]
    ends = np.cumsum(cached)
    total = int(ends[-1])
    rng = np.random.default_rng(int(sha256_bytes(seed.encode())[:16], 16))
    drawn = np.sort(rng.choice(total, size=min(wanted, total), replace=False))
    shards = np.searchsorted(ends, drawn, side="right")
    sample = {}
    for number in map(int, np.unique(shards)):
        within = drawn[shards == number] - (ends[number] - cached[number])
        sample[number] = writer.known_places(number)[within] if number in missing else within
    return sample


def _patient(questioner: Questioner) -> Questioner:
    until = time.monotonic() + _PATIENCE_S
    return replace(questioner, should_stop=lambda: questioner.should_stop() or time.monotonic() > until)
