"""Successions: whether a student that was distilled again may take the place of the one before it."""

from shared.contracts.base import Contract
from shared.contracts.evaluation import Verdict
from shared.contracts.kept import Frozen


class PairedComparison(Contract):
    """Two finished students on the same labelled images: new minus old accuracy."""

    verdict: Verdict
    gain: float
    """Difference in accuracy (0.01 is one point)."""
    interval: tuple[float, float]
    """95 % confidence interval of the gain over new images of the same kind."""
    p_value: float
    margin: float
    """A gain below this is not worth a change: DOES NOT BEAT says the interval excludes more."""
    method: str
    images: int
    old_accuracy: float
    new_accuracy: float
    only_old: int
    """Images that the old student alone has right."""
    only_new: int


class Rival(Contract):
    """A student that the new one was compared with, as both answer at the gateway."""

    version: str
    validation: PairedComparison
    """Decides."""
    test: PairedComparison
    """Reports; nothing follows from it."""


class Succession(Contract):
    """What became of a student that was distilled again on kept images."""

    frozen: Frozen
    """The kept images that it learned from."""
    base: Rival
    """The student whose order was repeated."""
    incumbent: Rival | None
    """The one that was live at the end, where it is another than `base` and could be compared."""
    promoted: bool
    reason: str
    """Why, or why not, in words."""
    live: str | None
    """Who was live afterwards."""
