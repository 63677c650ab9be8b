"""What `self` and `mutual` share: nets that no other kind of net taught, against one that learned alone."""

from collections.abc import Mapping

from experiments.experiment import accuracies
from experiments.result import Figure, Finding
from shared.contracts.reports import PeerReport


def finding(report: PeerReport, words: Mapping[str, str]) -> Finding:
    """Return every arm's accuracies, the untaught first and the taught last, and the verdict.

    Args:
        report: of the job.
        words: what an arm is called on the page; an arm without words keeps its name.
    """
    figures: list[Figure] = []
    for arm in sorted(
        {net.arm for net in report.nets}, key=lambda arm: (arm != "untaught", arm == "taught", arm)
    ):
        nets = sorted((net for net in report.nets if net.arm == arm), key=lambda net: net.seed)
        figures.append(accuracies(words.get(arm, arm), tuple(nets)))
    comparison = report.comparison
    low, high = (100 * bound for bound in comparison.interval)
    return Finding(
        figures=tuple(figures),
        headline=f"{100 * comparison.gain:+.2f} points, {comparison.verdict}",
        reached=None,
        verdict=f"{comparison.verdict}: {100 * comparison.gain:+.2f} points over the untaught twin (95 % "
        f"interval {low:+.2f} to {high:+.2f}).",
    )
