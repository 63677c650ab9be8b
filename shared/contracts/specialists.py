"""How a generalist and its specialists answer together (arXiv:1503.02531, section 5.4)."""

from typing import Annotated, Final

from pydantic import Field

from shared.contracts.base import Classes, Contract

GENERALIST: Final = "generalist"
"""What the generalist's file in a student's bundle is called, and what its tensors' names begin with."""


def specialist_name(number: int) -> str:
    """Return what the same of a specialist are called; they count from 0."""
    return f"specialist-{number:02d}"


class SpecialistPart(Contract):
    """One specialist of an ensemble."""

    classes: Annotated[Classes, Field(min_length=1)]
    """Its special classes, in the order of its logits."""
    dustbin: bool = True
    """Whether one more logit, its last, stands for all other classes. Without it the specialist answers about
    all classes in the generalist's order, and the special ones say when it is asked."""

    def answers(self, classes: int) -> int:
        """Return how many logits it has, where the generalist has so many."""
        return len(self.classes) + 1 if self.dustbin else classes


class Combination(Contract):
    """What is combined, and how: the q that minimises the sum of KLs from the generalist and those asked."""

    top_n: int = Field(ge=1)
    """Specialists that cover any of the generalist's top n classes are asked."""
    specialists: tuple[SpecialistPart, ...] = Field(min_length=1)


def need_classes(known: Classes, combination: Combination | None) -> None:
    """Raise `ValueError` where a specialist is for a class that is not among the known ones."""
    for part in combination.specialists if combination is not None else ():
        unknown = set(part.classes) - set(known)
        if unknown:
            raise ValueError(f"a specialist is for classes that there are not: {', '.join(sorted(unknown))}")
