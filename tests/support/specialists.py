"""A random generalist with random specialists as a teacher in a store, and its answer by the formula."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared.artefacts.store import ArtefactStore
from shared.contracts.specialists import Combination, SpecialistPart
from shared.contracts.teachers import TeacherDescription
from tests.support.teachers import CLASSES, Tensors, expected_logits, publish, random_tensors, softmax

COMBINATION = Combination(
    top_n=1,
    specialists=(
        SpecialistPart(classes=("circle", "square")),
        SpecialistPart(classes=("star", "square"), dustbin=False),
        SpecialistPart(classes=("cross",)),
    ),
)


def random_parts(seed: int = 0) -> dict[str, Tensors]:
    """Return the weights of every net by its name; large last layers, so that the nets disagree."""
    parts = {"generalist": random_tensors(seed=seed)}
    for number, part in enumerate(COMBINATION.specialists):
        classes = part.answers(len(CLASSES))
        parts[f"specialist-{number:02d}"] = random_tensors(seed=seed + 1 + number, classes=classes)
    for tensors in parts.values():
        tensors["layers.1.weight"] = tensors["layers.1.weight"] * 3
    return parts


def publish_ensemble(store: Path, name: str = "experts", *, seed: int = 0) -> TeacherDescription:
    """Publish the ensemble in the store under `store` and let it answer under its name."""
    tensors = {
        f"{part}/{key}": tensor for part, own in random_parts(seed).items() for key, tensor in own.items()
    }
    return publish(store, name, tensors=tensors, specialists=COMBINATION)


def stored(store: Path, description: TeacherDescription) -> Tensors:
    """Return the ensemble's tensors as the store has them."""
    return dict(ArtefactStore(store).teachers.load(description))


def expected_q(images: NDArray[np.uint8], *, seed: int = 0) -> NDArray[np.float64]:
    """Return q of each image, by plain repetition of the fixed point for one image after another."""
    parts = random_parts(seed)
    p = {name: softmax(expected_logits(tensors, images, temperature=1)) for name, tensors in parts.items()}
    answers = []
    for row, generalist in enumerate(p["generalist"]):
        top = CLASSES[generalist.argmax()]
        q = generalist
        for _ in range(2000):
            shares = [generalist]
            for number, part in enumerate(COMBINATION.specialists):
                own = p[f"specialist-{number:02d}"][row]
                if top not in part.classes:
                    continue
                if not part.dustbin:
                    shares.append(own)
                    continue
                inside = np.array([name in part.classes for name in CLASSES])
                share = np.zeros(len(CLASSES))
                for at, name in enumerate(part.classes):
                    share[CLASSES.index(name)] = own[at]
                share[~inside] = own[-1] * q[~inside] / q[~inside].sum()
                shares.append(share)
            q = np.mean(shares, axis=0)
        answers.append(q)
    return np.stack(answers)
