"""A student's bundle, ready to answer: ONNX Runtime on the CPU, checked and warmed before it is used.

The graph takes uint8 pixels (`images`, N x H x W x C) and gives `logits` and `probabilities` (N x classes) at
T = 1, so that nothing about the normalisation is left to whoever serves it. A student that is a generalist
with specialists has a graph for each net.
"""

import logging
import time
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from shared.artefacts.files import sha256_bytes
from shared.artefacts.tensors import Array, tensors_of_bytes
from shared.contracts.served_graphs import MOST_BATCH_DIFFERENCE, REFERENCE
from shared.contracts.specialists import GENERALIST, specialist_name
from shared.contracts.students import SAMPLES, StudentCard
from shared.errors import Corrupt, InputMismatch, StudentUnusable
from shared.serving.ensemble import EnsembleGraph
from shared.serving.graph import Graph
from shared.serving.png import PlainPng

log = logging.getLogger(__name__)

CARD = "card.json"

_WARM_UP_CALLS = 20
_WARM_UP_BATCHES = 3
_WARM_UP_IMAGES = 8
_SAMPLE_TOLERANCE = 1e-3
"""Of probabilities: another runtime, perhaps on another processor."""
_SAMPLE_TOLERANCE_OF_CHOSEN = 1e-2
"""Of a graph that was chosen in place of the float32 one: where a hidden value lies between two of 256 steps,
another processor may take the other."""


class StudentSession:
    """One student in memory. `run` and `probabilities` may be called from several threads at once."""

    def __init__(self, card: StudentCard, model: Graph | EnsembleGraph) -> None:
        self.card = card
        self.version = card.version
        self.classes = card.classes
        self.input = card.preprocessing.input
        self.call_s = 0.0
        """CPU time of a call with one image, in seconds, measured when the student was loaded.

        The least of several: what a call costs where nothing else runs on the machine."""
        self.seconds_per_image = 0.0
        """The same of a call with several images, by their number."""
        self.plain_png = PlainPng(self.input)
        """Decodes images that come as this student takes them."""
        self._model = model

    @classmethod
    def load(cls, directory: Path, *, threads: int = 1) -> Self:
        """Load, check and warm the bundle in `directory`.

        Args:
            directory: holds `card.json` and the files that it lists.
            threads: of ONNX Runtime for one call. One is right where requests come side by side.

        Raises:
            StudentUnusable: a file is missing or damaged, the graph does not load, or it does not answer as
                the card says. Where that befalls a whole graph that was chosen in place of `model.onnx`, on
                another machine, `model.onnx` is loaded.
        """
        try:
            card = StudentCard.model_validate_json((directory / CARD).read_bytes())
        except (OSError, ValidationError) as error:
            raise StudentUnusable(directory.name, f"its {CARD} cannot be read") from error
        samples = _samples(directory, card)
        if card.graphs is None or card.graphs.file == REFERENCE:
            return cls._ready(card, _model(directory, card, threads), samples, "probabilities")
        content = _content(directory, card, card.graphs.file)
        try:
            graph = Graph(card.version, card.graphs.file, content, threads=threads)
            return cls._ready(card, graph, samples, "probabilities", _SAMPLE_TOLERANCE_OF_CHOSEN)
        except StudentUnusable as error:
            # The file is whole, so it is this machine: another runtime, or a processor that rounds otherwise.
            log.warning(
                "served graph not usable here, float32 answers in its place",
                extra={"version": card.version, "graph": card.graphs.file, "reason": error.reason},
            )
        return cls._ready(card, _model(directory, card, threads), samples, "reference")

    @classmethod
    def _ready(
        cls,
        card: StudentCard,
        model: Graph | EnsembleGraph,
        samples: dict[str, Array] | None,
        expected: str,
        tolerance: float = _SAMPLE_TOLERANCE,
    ) -> Self:
        student = cls(card, model)
        student._check()
        if samples is not None:
            if expected not in samples:
                raise StudentUnusable(card.version, f"its {SAMPLES} cannot be read")
            student._check_samples(samples["images"], samples[expected], tolerance)
        student._warm_up(samples["images"] if samples is not None else None)
        return student

    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return logits and probabilities at T = 1, both float32 N x classes, of uint8 N x H x W x C.

        Raises:
            InputMismatch: the images have another type, size or number of channels.
        """
        self._check_input(images)
        return self._model.run(images)

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the probabilities alone, as `run` does."""
        self._check_input(images)
        return self._model.probabilities(images)

    def _check_input(self, images: NDArray[np.uint8]) -> None:
        size = (self.input.height, self.input.width, self.input.channels)
        if images.dtype != np.uint8 or images.shape[1:] != size:
            raise InputMismatch(
                f"student {self.version} takes uint8 N x {' x '.join(map(str, size))}, "
                f"got {images.dtype} {' x '.join(map(str, images.shape))}"
            )

    def _check(self) -> None:
        """Compare what the graph answers with what the card says, on noise."""
        shape = (3, self.input.height, self.input.width, self.input.channels)
        images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        try:
            logits, together = self.run(images)
            alone = np.concatenate([self.probabilities(image[None]) for image in images])
        except Exception as error:  # ONNX Runtime has no common error: whatever it is, the graph does not run
            raise StudentUnusable(self.version, "its graph does not run") from error
        expected = (len(images), len(self.classes))
        if logits.shape != expected or together.shape != expected:
            raise StudentUnusable(
                self.version, f"its graph answers {logits.shape[1:]} for {len(self.classes)} classes"
            )
        if not np.isfinite(logits).all():
            raise StudentUnusable(self.version, "its logits are not finite")
        raised = np.exp(logits - logits.max(axis=1, keepdims=True))
        if not np.allclose(together, raised / raised.sum(axis=1, keepdims=True), atol=MOST_BATCH_DIFFERENCE):
            raise StudentUnusable(self.version, "its probabilities are not softmax(logits) at T = 1")
        if not np.allclose(together, alone, atol=MOST_BATCH_DIFFERENCE):
            raise StudentUnusable(self.version, "its answer to an image depends on the batch")

    def _check_samples(
        self, images: NDArray[np.uint8], expected: NDArray[np.float32], tolerance: float
    ) -> None:
        """Compare the answers to some images with those of the export."""
        try:
            found = self.probabilities(images)
        except InputMismatch as error:
            raise StudentUnusable(self.version, f"its {SAMPLES} are no images for it") from error
        # NaN is no agreement either.
        if found.shape != expected.shape or not np.abs(found - expected).max() <= tolerance:
            raise StudentUnusable(self.version, f"it does not answer its {SAMPLES} as it did at export")

    def _warm_up(self, images: NDArray[np.uint8] | None) -> None:
        if images is None:
            images = np.zeros((1, self.input.height, self.input.width, self.input.channels), dtype=np.uint8)
        calls = [images[one : one + 1] for one in range(len(images))]
        self.call_s = min(self._used_s(calls[call % len(calls)]) for call in range(_WARM_UP_CALLS))
        several = np.repeat(images[:1], _WARM_UP_IMAGES, axis=0)
        self.seconds_per_image = min(self._used_s(several) for _ in range(_WARM_UP_BATCHES)) / _WARM_UP_IMAGES

    def _used_s(self, images: NDArray[np.uint8]) -> float:
        began = time.thread_time()
        self.probabilities(images)
        return time.thread_time() - began


def _model(directory: Path, card: StudentCard, threads: int) -> Graph | EnsembleGraph:
    def graph(name: str) -> Graph:
        return Graph(card.version, name, _content(directory, card, name), threads=threads)

    if card.specialists is None:
        return graph(REFERENCE)
    specialists = []
    for number, part in enumerate(card.specialists.specialists):
        name = f"{specialist_name(number)}.onnx"
        specialists.append(graph(name))
        # Here, as images that reach it may be rare; its first call allocates, too.
        _check_answers(card, name, specialists[-1], part.answers(len(card.classes)))
    return EnsembleGraph(graph(f"{GENERALIST}.onnx"), specialists, card.specialists, card.classes)


def _check_answers(card: StudentCard, name: str, graph: Graph, answers: int) -> None:
    size = card.preprocessing.input
    image = np.zeros((1, size.height, size.width, size.channels), dtype=np.uint8)
    try:
        logits = graph.logits(image)
    except Exception as error:  # ONNX Runtime has no common error
        raise StudentUnusable(card.version, f"its {name} does not run") from error
    if logits.shape != (1, answers) or not np.isfinite(logits).all():
        raise StudentUnusable(card.version, f"its {name} does not answer {answers} finite logits")


def _samples(directory: Path, card: StudentCard) -> dict[str, Array] | None:
    """Return images and what was made of them at export, or None where the bundle has none."""
    if SAMPLES not in card.files:
        return None
    try:
        tensors = tensors_of_bytes(_content(directory, card, SAMPLES))
        images, _ = tensors["images"], tensors["probabilities"]
    except (Corrupt, KeyError) as error:
        raise StudentUnusable(card.version, f"its {SAMPLES} cannot be read") from error
    if images.ndim != 4 or not len(images):
        raise StudentUnusable(card.version, f"its {SAMPLES} holds no images")
    return tensors


def _content(directory: Path, card: StudentCard, name: str) -> bytes:
    """Return a file that the card lists, compared with its digest: what was checked is what is loaded."""
    try:
        content = (directory / name).read_bytes()
    except OSError as error:
        raise StudentUnusable(card.version, f"its {name} cannot be read") from error
    listed = card.files.get(name)
    if listed is None or sha256_bytes(content) != listed.sha256:
        raise StudentUnusable(card.version, f"its {name} does not have the digest on its card")
    return content
