"""The section of a report on whether the new student took the old one's place."""

from shared.contracts.succession import Rival, Succession
from shared.distillation.reports.words import p_value, points, table


def section(succession: Succession) -> list[str]:
    """Return the section: what was learned from, what was compared, what became of it."""
    frozen = succession.frozen
    rivals = [succession.base, *([succession.incumbent] if succession.incumbent is not None else [])]
    rows = [row for rival in rivals for row in _rows(rival)]
    outcome = "**Promoted**" if succession.promoted else "**Not promoted**"
    live = f"`{succession.live}` is live." if succession.live is not None else "No student is live."
    return [
        "## Succession",
        f"{outcome}: {succession.reason}. {live}",
        f"Learned from {frozen.taken:,} images kept as `{frozen.collection}`, without labels, beside those "
        f"of dataset `{frozen.base}`. Left out: {frozen.known:,} that are training images there, and "
        f"{frozen.held_out:,} that validate or test.",
        table(
            ("against", "split", "images", "old", "new", "gain (points)", "95 % interval", "p", "verdict"),
            rows,
        ),
        f"The validation images decide, the test images report. Method: {succession.base.test.method}. A "
        f"gain below {succession.base.test.margin * 100:g} points would not be worth a change.",
    ]


def _rows(rival: Rival) -> list[tuple[str, ...]]:
    return [
        (
            f"`{rival.version}`",
            split,
            f"{found.images:,}",
            f"{found.old_accuracy:.2%}",
            f"{found.new_accuracy:.2%}",
            points(found.gain),
            f"{points(found.interval[0])} to {points(found.interval[1])}",
            p_value(found.p_value),
            found.verdict.value,
        )
        for split, found in (("validation", rival.validation), ("test", rival.test))
    ]
