"""A generalist and its specialists that answer as one student; see `shared.models.combine`."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from shared.contracts.specialists import Combination
from shared.models.combine import combined_logits, covered
from shared.serving.graph import Graph, Images


class EnsembleGraph:
    """Loaded graphs that answer like one: all images of a call together, a specialist only those it is for.

    Args:
        generalist: over all classes.
        specialists: in the order of the combination.
        combination: what each is for, and how many classes of the generalist decide.
        classes: all of them, in order.
    """

    def __init__(
        self,
        generalist: Graph,
        specialists: Sequence[Graph],
        combination: Combination,
        classes: Sequence[str],
    ) -> None:
        self._generalist = generalist
        self._specialists = tuple(specialists)
        self._covered = covered(combination, classes)
        self._top_n = combination.top_n

    def run(
        self, images: Images
    ) -> tuple[Float32[np.ndarray, "rows classes"], Float32[np.ndarray, "rows classes"]]:
        """Return logits (log q, with zero mean in each row) and probabilities at T = 1."""
        logits = combined_logits(
            self._generalist.logits(images),
            self._covered,
            lambda number, rows: self._specialists[number].logits(images[rows]),
            top_n=self._top_n,
        )
        raised = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities: Float32[np.ndarray, "rows classes"] = raised / raised.sum(axis=1, keepdims=True)
        return logits, probabilities

    def probabilities(self, images: Images) -> Float32[np.ndarray, "rows classes"]:
        """Return the probabilities alone."""
        return self.run(images)[1]
