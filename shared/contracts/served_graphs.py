"""Which of several ONNX graphs of one net is served, and what each of them was measured to do."""

from typing import Final, Literal

from shared.contracts.base import Contract

REFERENCE: Final = "model.onnx"
"""The float32 graph, node for node what was trained. Every bundle of one net has it."""

GraphName = Literal["float32", "folded", "float16", "int8-dynamic", "int8-static", "int8-weights"]

MOST_BATCH_DIFFERENCE: Final = 1e-4
"""How much a probability may depend on what else is in the batch, and differ from softmax(logits): float32
sums in another order do as much. A gateway puts images of different clients into one call."""


class GraphTiming(Contract):
    """One in-process call on one thread, timed in turns with the float32 graph."""

    batch: int
    cpu_ms: float
    """Median over the rounds of the calling thread's own time: what others did meanwhile counts little."""
    speedup: float
    """Median over the rounds of the float32 graph's time by this one's."""


class GraphFigures(Contract):
    """What became of one candidate. A figure that could not be had is None; `reason` says why."""

    name: GraphName
    size_bytes: int | None = None
    same_class: float | None = None
    """Share of the held-out images where it names the class that the float32 graph names."""
    accuracy: float | None = None
    """On the same images; None where they have no labels."""
    kl_nats: float | None = None
    """Mean KL divergence from the float32 graph's probabilities to its own, at T = 1."""
    batch_difference: float | None = None
    """Largest difference of a probability between an image alone and among others."""
    timings: tuple[GraphTiming, ...] = ()
    served: bool = False
    reason: str
    """Why it is served, or why not."""


class GraphChoice(Contract):
    """The graph that is served and those that are not, measured on the machine that exported."""

    file: str
    """Of the bundle; what gateways load."""
    cpu: str
    """The processor, with the instructions that matter to 8-bit products."""
    runtime: str
    images: int
    """Held-out ones (validation split) that agreement and accuracy are of."""
    calibration_images: int
    """Other ones of the same split, from which the ranges of 8-bit numbers were taken."""
    seconds: float
    """That all this took."""
    candidates: tuple[GraphFigures, ...]
