"""The part of a report on student and teacher together: the teacher asked where the student is not sure."""

from collections.abc import Sequence

from shared.contracts.cascade import CascadeCurve
from shared.contracts.reports import Plot
from shared.distillation.plots import Drawing, Line, plot_lines
from shared.distillation.reports import sections, words

_PLOT = "cascade"


def section(curve: CascadeCurve | None, plots: Sequence[Plot]) -> list[str]:
    """Return the curve as a table and its plot, or nothing where it was not measured."""
    if curve is None:
        return []
    return [
        "## With the teacher behind it",
        "Accuracy where the teacher answers the images of which the student's largest probability is below a "
        f"threshold. Each threshold was chosen on {curve.validation_images:,} validation images, without "
        f"their labels; share and accuracy are of {curve.test_images:,} test images, by the graph that is "
        f"served. Alone, the student is right on {curve.student_accuracy:.2%} and the teacher on "
        f"{curve.teacher_accuracy:.2%}.",
        words.table(
            ("chosen to escalate", "threshold", "escalated", "accuracy", "gain (points)"),
            (
                (
                    f"{one.chosen_share:.1%}",
                    f"{one.threshold:.4f}",
                    f"{one.share:.2%}",
                    f"{one.accuracy:.2%}",
                    words.points(one.accuracy - curve.student_accuracy),
                )
                for one in curve.points
            ),
        ),
        *sections.drawing(_PLOT, plots),
    ]


def drawings(curve: CascadeCurve | None) -> list[Drawing]:
    """Return the plot of accuracy against share escalated, with the teacher alone as a dashed line."""
    if curve is None:
        return []
    shares = [100 * one.share for one in curve.points]
    alone = 100 * curve.teacher_accuracy
    return [
        plot_lines(
            _PLOT,
            "Accuracy against share escalated",
            [
                Line("student and teacher", shares, [100 * one.accuracy for one in curve.points]),
                Line("teacher alone", [0.0, 100.0], [alone, alone], dashed=True),
            ],
            x_label="test images that the teacher answers (%)",
            y_label="test accuracy (%)",
        )
    ]
