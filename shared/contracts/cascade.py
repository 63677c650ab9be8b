"""What a student and its teacher are worth together: the teacher asked where the student is not sure."""

from typing import Self

from pydantic import Field, model_validator

from shared.contracts.base import Contract


class CascadePoint(Contract):
    """A threshold of confidence, chosen on the validation split, and what it does on the test split."""

    chosen_share: float = Field(ge=0, le=1)
    """Of the validation images: so many the threshold was chosen to escalate."""
    threshold: float = Field(ge=0, le=1)
    """Of the student's largest probability at T = 1; below it the teacher is asked."""
    share: float = Field(ge=0, le=1)
    """Of the test images: so many it escalates. Fewer than chosen where the student is sure of many images to
    the last digit of float32: at a probability of exactly 1 nobody is asked."""
    accuracy: float = Field(ge=0, le=1)
    """On the test split, of the teacher's answers where it is asked and the student's where it is not."""


class CascadeCurve(Contract):
    """Accuracy against share escalated, by the probabilities of the graph that gateways serve."""

    validation_images: int
    """That the thresholds were chosen on; their labels were not read."""
    test_images: int
    student_accuracy: float
    """Of the served graph alone, on the test split."""
    teacher_accuracy: float
    """Of the teacher alone, on the same images."""
    points: tuple[CascadePoint, ...]
    """From no image to all of them."""

    @model_validator(mode="after")
    def _rises(self) -> Self:
        for before, after in zip(self.points, self.points[1:], strict=False):
            if after.chosen_share <= before.chosen_share or after.threshold < before.threshold:
                raise ValueError("points must go from few images and a low threshold to many and a high one")
        if not self.points:
            raise ValueError("a curve has a point")
        return self
