"""Which graph of a student is served: the quickest of those that answer as the float32 one does.

Measured on the machine that exports; another processor may rank them otherwise. The same 8-bit net was 1.5
times as quick as float32 on one processor and slower on another.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from jaxtyping import Float, Float32, Int64, UInt8

from shared.contracts.served_graphs import (
    MOST_BATCH_DIFFERENCE,
    REFERENCE,
    GraphChoice,
    GraphFigures,
    GraphName,
    GraphTiming,
)
from shared.distillation.serving_graphs import Made, candidates
from shared.processor import processor, session_entries

LEAST_SAME_CLASS = 0.995
"""Share of held-out images on which a candidate must name the float32 graph's class. Students of two seeds
differ on about one image in a hundred: half of that changes less than what chance already did."""
MOST_LOST = 0.001
"""Share of the labelled images by which a candidate may be right less often: the margin of the verdict. One
image may be lost where there are fewer than a thousand."""
LEAST_SPEEDUP = 1.15
"""Geometric mean over the batch sizes: on a busy machine a graph may seem a tenth quicker than itself."""
LEAST_SPEEDUP_OF_A_BATCH = 0.95
"""A candidate may not win at one batch size by losing at another."""
LEAST_IMAGES = 200
"""With fewer held-out images a share of 99.5 % cannot be told from 99 %: float32 is served unmeasured."""
BATCHES = (1, 8)

_MOST_IMAGES = 2048
_CALIBRATION_IMAGES = 128
_ANSWER_S = 10.0
"""Of answering the held-out images, for one graph; `LEAST_IMAGES` are answered however long it takes."""
_TIMING_S = 2.5
"""Of timing all graphs; `_LEAST_ROUNDS` are timed however long they take."""
_LEAST_ROUNDS, _MOST_ROUNDS = 5, 40
_BLOCK_S = 0.002
"""A turn of a graph in a round is as many calls as fit, one at least: a clock needs some time to show."""
_AT_ONCE = 32
_ALONE = 64
"""Images that are answered alone, too, and among noise: a client may send anything."""


@dataclass
class _Candidate:
    name: GraphName
    content: bytes
    session: onnxruntime.InferenceSession
    figures: GraphFigures
    seconds: dict[int, list[float]] = field(default_factory=lambda: {batch: [] for batch in BATCHES})


def choose_graph(
    directory: Path,
    folded: onnx.ModelProto | None,
    images: UInt8[np.ndarray, "rows height width channels"],
    labels: Int64[np.ndarray, " rows"] | None,
) -> GraphChoice:
    """Make, check and time the graphs of a student; write the one that is served beside `model.onnx`.

    Args:
        directory: holds `model.onnx`, the float32 graph.
        folded: the same graph with its normalisation folded, where that can be.
        images: held-out ones, of the validation split, never of the test split. Some of them calibrate the
            8-bit graph; it is checked on others.
        labels: of the images.

    Returns:
        The choice; its `file` is `model.onnx` where no other graph was quicker and agreed.
    """
    began = time.perf_counter()
    reference = _loaded("float32", (directory / REFERENCE).read_bytes())
    if len(images) - _for_calibration(len(images)) < LEAST_IMAGES:
        reason = f"{len(images)} validation images are too few to tell whether another graph agrees"
        only = reference.figures.model_copy(update={"served": True, "reason": reason})
        return _choice(REFERENCE, began, (only,), images=0, calibration_images=0)

    calibration, held_out = _shared_out(len(images), _seconds_an_image(reference, images))
    asked, truth = np.array(images[held_out]), None if labels is None else np.array(labels[held_out])
    expected = _logits(reference, asked)
    _check(reference, asked, expected, truth, expected)
    refused: list[GraphFigures] = []
    others: list[_Candidate] = []
    model = onnx.load_from_string(reference.content)
    for name, made in candidates(model, folded, np.array(images[calibration])).items():
        candidate = _prepared(name, made)
        if isinstance(candidate, GraphFigures):
            refused.append(candidate)
            continue
        found = _answered(candidate, asked)
        if isinstance(found, GraphFigures):
            refused.append(found)
            continue
        _check(candidate, asked, found, truth, expected)
        others.append(candidate)

    _time([reference, *others], asked)
    served = _served(reference, others)
    figures = [one.figures for one in (reference, *others)]
    file = REFERENCE
    if served is not reference:
        file = f"model-{served.name}.onnx"
        (directory / file).write_bytes(served.content)
    return _choice(
        file,
        began,
        (*figures, *refused),
        images=len(held_out),
        calibration_images=len(calibration),
    )


def _choice(
    file: str, began: float, figures: tuple[GraphFigures, ...], *, images: int, calibration_images: int
) -> GraphChoice:
    return GraphChoice(
        file=file,
        cpu=processor(),
        runtime=f"ONNX Runtime {onnxruntime.__version__}",
        images=images,
        calibration_images=calibration_images,
        seconds=round(time.perf_counter() - began, 2),
        candidates=figures,
    )


# --- images and sessions ---------------------------------------------------------------------------------


def _for_calibration(rows: int) -> int:
    return min(_CALIBRATION_IMAGES, rows // 4)


def _shared_out(
    rows: int, seconds_an_image: float
) -> tuple[Int64[np.ndarray, " calibration"], Int64[np.ndarray, " held_out"]]:
    """Return rows to calibrate with and rows to check on, both from all over the split, none in both."""
    shuffled = np.random.default_rng(0).permutation(rows)
    calibration = _for_calibration(rows)
    affordable = max(LEAST_IMAGES, min(_MOST_IMAGES, int(_ANSWER_S / seconds_an_image)))
    return np.sort(shuffled[:calibration]), np.sort(shuffled[calibration:][:affordable])


def _seconds_an_image(
    candidate: _Candidate, images: UInt8[np.ndarray, "rows height width channels"]
) -> float:
    one = np.array(images[:1])
    _block(candidate, one, 1)  # the first call allocates
    return _block(candidate, one, 3)


def _loaded(name: GraphName, content: bytes) -> _Candidate:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    for key, value in session_entries().items():
        options.add_session_config_entry(key, value)
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return _Candidate(name, content, session, GraphFigures(name=name, size_bytes=len(content), reason=""))


def _prepared(name: GraphName, made: Made) -> _Candidate | GraphFigures:
    if isinstance(made, str):
        return GraphFigures(name=name, reason=made)
    content = made.SerializeToString(deterministic=True)
    try:
        return _loaded(name, content)
    except Exception as error:  # noqa: BLE001 - ONNX Runtime has no common error; the card tells of it
        return GraphFigures(name=name, size_bytes=len(content), reason=f"does not load: {_words(error)}")


def _answered(
    candidate: _Candidate, images: UInt8[np.ndarray, "rows height width channels"]
) -> Float32[np.ndarray, "rows classes"] | GraphFigures:
    try:
        return _logits(candidate, images)
    except Exception as error:  # noqa: BLE001 - ONNX Runtime has no common error; the card tells of it
        return candidate.figures.model_copy(update={"reason": f"does not run: {_words(error)}"})


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip()[:200]}"


def _logits(
    candidate: _Candidate, images: UInt8[np.ndarray, "rows height width channels"], at_once: int = _AT_ONCE
) -> Float32[np.ndarray, "rows classes"]:
    parts = [
        candidate.session.run(["logits"], {"images": images[start : start + at_once]})[0]
        for start in range(0, len(images), at_once)
    ]
    joined: Float32[np.ndarray, "rows classes"] = np.concatenate(parts)
    return joined


# --- agreement -------------------------------------------------------------------------------------------


def _check(
    candidate: _Candidate,
    images: UInt8[np.ndarray, "rows height width channels"],
    found: Float32[np.ndarray, "rows classes"],
    labels: Int64[np.ndarray, " rows"] | None,
    expected: Float32[np.ndarray, "rows classes"],
) -> None:
    """Put into the candidate's figures how its answers compare, and into `reason` what speaks against it."""
    if not np.isfinite(found).all():
        candidate.figures = candidate.figures.model_copy(update={"reason": "its logits are not finite"})
        return
    named, theirs = found.argmax(1), expected.argmax(1)
    same_class = float((named == theirs).mean())
    log_p, log_q = _log_softmax(expected), _log_softmax(found)
    probabilities = candidate.session.run(["probabilities"], {"images": images[:_ALONE]})[0]
    softmax = np.exp(_log_softmax(_logits(candidate, images[:_ALONE], at_once=_ALONE)))
    alone = np.exp(_log_softmax(_logits(candidate, images[:_ALONE], at_once=1)))
    among_noise = np.exp(_log_softmax(_among_noise(candidate, images[:_ALONE])))
    batch_difference = float(np.abs(np.stack([softmax, among_noise]) - alone).max())
    lost = 0 if labels is None else int((theirs == labels).sum()) - int((named == labels).sum())
    reason = ""
    if np.abs(probabilities - softmax).max() > MOST_BATCH_DIFFERENCE:
        reason = "its probabilities are not softmax(logits)"
    if batch_difference > MOST_BATCH_DIFFERENCE:
        reason = "its answer to an image depends on the others in the batch"
    if lost > max(1.0, MOST_LOST * len(images)):
        reason = f"right on {lost} images fewer than float32, more than {MOST_LOST:.1%} of {len(images)}"
    if same_class < LEAST_SAME_CLASS:
        reason = f"another class than float32 on more than {1 - LEAST_SAME_CLASS:.1%} of the images"
    candidate.figures = candidate.figures.model_copy(
        update={
            "same_class": same_class,
            "accuracy": None if labels is None else float((named == labels).mean()),
            # Rounding may bring a divergence of zero below it.
            "kl_nats": max(0.0, float((np.exp(log_p) * (log_p - log_q)).sum(1).mean())),
            "batch_difference": batch_difference,
            "reason": reason,
        }
    )


def _among_noise(
    candidate: _Candidate, images: UInt8[np.ndarray, "rows height width channels"]
) -> Float32[np.ndarray, "rows classes"]:
    noise = np.random.default_rng(0).integers(0, 256, images.shape, dtype=np.uint8)
    together = candidate.session.run(["logits"], {"images": np.concatenate([images, noise])})[0]
    logits: Float32[np.ndarray, "rows classes"] = together[: len(images)]
    return logits


def _log_softmax(logits: Float32[np.ndarray, "rows classes"]) -> Float[np.ndarray, "rows classes"]:
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    log_probabilities: Float[np.ndarray, "rows classes"] = shifted - np.log(
        np.exp(shifted).sum(1, keepdims=True)
    )
    return log_probabilities


# --- time ------------------------------------------------------------------------------------------------


def _time(candidates: Sequence[_Candidate], images: UInt8[np.ndarray, "rows height width channels"]) -> None:
    """Time all candidates in turns, the reference first, and put the medians into their figures."""
    calls: dict[int, int] = {}
    round_s = 0.0
    for batch in BATCHES:
        once = [_block(one, images[:batch], 2) for one in candidates]  # the first calls allocate
        once = [_block(one, images[:batch], 1) for one in candidates]
        calls[batch] = max(1, int(_BLOCK_S / max(once[0], 1e-7)))
        round_s += sum(once) * calls[batch]
    rounds = max(_LEAST_ROUNDS, min(_MOST_ROUNDS, int(_TIMING_S / round_s)))
    for _ in range(rounds):
        for batch in BATCHES:
            for one in candidates:
                one.seconds[batch].append(_block(one, images[:batch], calls[batch]))
    reference = candidates[0]
    for one in candidates:
        timings = tuple(_timing(batch, reference.seconds[batch], one.seconds[batch]) for batch in BATCHES)
        one.figures = one.figures.model_copy(update={"timings": timings})


def _block(
    candidate: _Candidate, images: UInt8[np.ndarray, "rows height width channels"], calls: int
) -> float:
    """Return the seconds a call: of this thread, which ONNX Runtime works on where it has one."""
    began = time.thread_time()
    for _ in range(calls):
        candidate.session.run(["probabilities"], {"images": images})
    return (time.thread_time() - began) / calls


def _timing(batch: int, reference: Sequence[float], seconds: Sequence[float]) -> GraphTiming:
    speedup = np.median(np.array(reference) / np.array(seconds))
    return GraphTiming(
        batch=batch,
        cpu_ms=round(float(np.median(seconds)) * 1000, 4),
        speedup=round(float(speedup), 3),
    )


# --- choice ----------------------------------------------------------------------------------------------


def _served(reference: _Candidate, others: Sequence[_Candidate]) -> _Candidate:
    """Return who is served, and write into each candidate's figures why it is or is not."""
    quick: dict[GraphName, float] = {}
    for one in others:
        if one.figures.reason:
            continue
        speedups = [timing.speedup for timing in one.figures.timings]
        mean = float(np.exp(np.mean(np.log(speedups))))
        if mean < LEAST_SPEEDUP or min(speedups) < LEAST_SPEEDUP_OF_A_BATCH:
            needed = f"{LEAST_SPEEDUP:g} is needed, and {LEAST_SPEEDUP_OF_A_BATCH:g} at each batch size"
            _say(one, f"{mean:.2f} times as quick as float32: {needed}")
        else:
            quick[one.name] = mean
    agreeing = {one.name: one for one in others if one.name in quick}
    best = max(quick, key=lambda name: quick[name], default=None)
    if best is None:
        _say(reference, "no other graph was quicker and agreed", served=True)
        return reference
    _say(reference, f"{best} is quicker and agrees with it")
    for name, one in agreeing.items():
        if name == best:
            _say(one, f"{quick[best]:.2f} times as quick as float32, and agrees with it", served=True)
        else:
            _say(one, f"{quick[name]:.2f} times as quick as float32, but {best} {quick[best]:.2f} times")
    return agreeing[best]


def _say(candidate: _Candidate, reason: str, *, served: bool = False) -> None:
    candidate.figures = candidate.figures.model_copy(update={"reason": reason, "served": served})
