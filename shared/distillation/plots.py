"""Plots for reports, as PNG and SVG. The same figures give the same bytes: no dates, no random ids.

Drawn by Matplotlib's Agg and SVG canvases without pyplot and its global state. Class names are the users'
own, so none of their letters is read as a formula, and long names are cut.
"""

import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from shared.contracts.evaluation import Evaluation
from shared.contracts.reports import Plot, TrainingCurve
from shared.contracts.transfer_sets import TRANSFER_SET_PLOT, TargetEntropy

# Okabe and Ito's colours, told apart by colour-blind readers too; grey for the diagonal and the like.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#999999"
_DPI = 120
_MOST_NAMED = 60
"""Classes of a confusion plot that are named on its axes; with more, every tenth place is numbered."""
_MOST_COUNTED = 15
"""Classes of a confusion plot whose counts are written into the cells."""
_STYLE = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9.0,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text: small files, and letters that our fonts lack are still shown
    "svg.hashsalt": "imago",
}


@dataclass(frozen=True)
class Drawing:
    """A finished plot. `name` is that of its two files without their endings."""

    name: str
    title: str
    png: bytes
    svg: bytes

    @property
    def plot(self) -> Plot:
        """How the report lists it."""
        return Plot(name=self.name, title=self.title)


@dataclass(frozen=True)
class Line:
    """One line of a plot: y over x, in this order, and half the length of its error bars, if any.

    Lines of one `colour`, a place among the colours, belong together; None is the line's own place.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    spread: Sequence[float] | None = None
    dashed: bool = False
    colour: int | None = None


def plot_lines(
    name: str,
    title: str,
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    log_y: bool = False,
) -> Drawing:
    """Return lines with a marker a point, such as accuracy against temperature, one line a width.

    Args:
        name: of the files.
        title: above the plot, and its caption in the report.
        lines: drawn in this order; a line of one point is a marker.
        x_label: what x is, with its unit.
        y_label: what y is, with its unit.
        log_x: x on a logarithmic scale.
        log_y: y on a logarithmic scale.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for number, line in enumerate(lines):
            place = number if line.colour is None else line.colour
            colour, style = COLOURS[place % len(COLOURS)], "--" if line.dashed else "-"
            axes.errorbar(
                line.x,
                line.y,
                yerr=line.spread,
                color=colour,
                linestyle=style,
                marker="o",
                markersize=4,
                capsize=3,
                label=short(line.label),
            )
        if log_x:
            axes.set_xscale("log")
            values = sorted({value for line in lines for value in line.x})
            if len(values) <= _MOST_COUNTED:
                # The values themselves rather than powers of ten.
                axes.set_xticks(values, [f"{value:g}" for value in values])
                axes.set_xticks([], minor=True)
        if log_y:
            axes.set_yscale("log")
        axes.set(xlabel=x_label, ylabel=y_label)
        if len(lines) > 1 or any(line.label for line in lines):
            axes.legend()

    return drawn(name, title, draw)


def plot_curves(curves: Sequence[TrainingCurve], *, name: str = "curves") -> Drawing:
    """Return loss and validation accuracy by epoch: one colour an arm, a line a net, a dot its kept epoch."""
    arms = list(dict.fromkeys(curve.arm for curve in curves))

    def draw(figure: Figure) -> None:
        losses, accuracies = figure.subplots(1, 2)
        for curve in curves:
            number = arms.index(curve.arm)
            colour = COLOURS[number % len(COLOURS)]
            label = curve.arm if curve is next(c for c in curves if c.arm == curve.arm) else None
            epochs = [point.epoch for point in curve.points]
            losses.plot(epochs, [point.loss for point in curve.points], color=colour, lw=1, label=label)
            known = [point for point in curve.points if point.validation_accuracy is not None]
            reached = [100 * (point.validation_accuracy or 0.0) for point in known]
            accuracies.plot([point.epoch for point in known], reached, color=colour, lw=1, label=label)
            for point, accuracy in zip(known, reached, strict=True):
                if point.epoch == curve.best_epoch:
                    accuracies.plot(point.epoch, accuracy, "o", color=colour, markersize=4)
        losses.set(xlabel="epoch", ylabel="training loss (nats an example)")
        accuracies.set(xlabel="epoch", ylabel="validation accuracy (%)")
        if all(point.loss > 0 for curve in curves for point in curve.points):
            losses.set_yscale("log")
        for axes in (losses, accuracies):
            axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        losses.legend()

    return drawn(name, "Training", draw, size=(8.4, 3.6))


def plot_reliability(nets: Sequence[tuple[str, Evaluation]], *, name: str = "reliability") -> Drawing:
    """Return accuracy against confidence with a calibrated net's diagonal; below, where the mass lies."""

    def draw(figure: Figure) -> None:
        above, below = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
        above.plot([0, 1], [0, 1], color=GREY, linestyle="--", lw=1)
        for number, (label, evaluation) in enumerate(nets):
            colour = COLOURS[number % len(COLOURS)]
            filled = [one for one in evaluation.reliability if one.count]
            confidences = [one.mean_confidence or 0.0 for one in filled]
            above.plot(
                confidences,
                [one.accuracy or 0.0 for one in filled],
                "o-",
                color=colour,
                markersize=4,
                lw=1,
                label=f"{short(label)} (ECE {evaluation.ece:.3f})",
            )
            shares = [one.count / evaluation.examples for one in evaluation.reliability]
            edges = [one.lower for one in evaluation.reliability] + [1.0]
            if shares:
                below.stairs(shares, edges, color=colour)
        above.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
        below.set(xlabel="confidence at T = 1", ylabel="share", yscale="log")
        above.legend(loc="upper left")

    return drawn(name, "Reliability", draw, size=(5.2, 5.6))


def plot_confusion(
    classes: Sequence[str], confusion: Sequence[Sequence[int]], *, name: str = "confusion"
) -> Drawing:
    """Return who is taken for whom: true classes down, predicted ones across, coloured by the mistakes alone.

    Right answers would drown all else, so the diagonal is left without colour. Up to 15 classes have their
    counts written in, up to 60 their names; with more, places are numbered as in the order of the classes.
    """
    counts = np.asarray(confusion, dtype=np.int64)
    mistakes = np.ma.masked_array(counts, mask=np.eye(len(counts), dtype=bool))
    most = max(1, int(mistakes.max()))
    many = len(classes) > _MOST_NAMED
    side = 8.5 if many else max(4.0, 2.0 + 0.2 * len(classes))

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.grid(visible=False)
        image = axes.imshow(mistakes, cmap="OrRd", vmin=0, vmax=most, interpolation="nearest")
        figure.colorbar(image, ax=axes, label="images", shrink=0.7, ticks=MaxNLocator(6, integer=True))
        if many:
            ticks = range(0, len(classes), 10 if len(classes) <= 300 else len(classes) // 20)
            axes.set_xticks(ticks, [str(place) for place in ticks], rotation=90)
            axes.set_yticks(ticks, [str(place) for place in ticks])
        else:
            names = [short(one, 16) for one in classes]
            axes.set_xticks(range(len(classes)), names, rotation=90)
            axes.set_yticks(range(len(classes)), names)
        unit = " (place in the order of the classes)" if many else ""
        axes.set(xlabel=f"predicted{unit}", ylabel=f"true{unit}")
        if len(classes) <= _MOST_COUNTED:
            _write_counts(axes, counts, most)

    return drawn(name, "Confusion", draw, size=(side + 1.0, side))


def plot_entropy(entropy: Sequence[TargetEntropy], *, classes: int, name: str = TRANSFER_SET_PLOT) -> Drawing:
    """Return the entropy of soft targets, a box a temperature, with the line of the median and the diamond of
    the mean: half of the rows are in the box, nine tenths between its whiskers.

    Args:
        entropy: as the summary of a transfer set has it.
        classes: how many there are; no entropy is above ln(classes).
        name: of the files.
    """
    boxes = [
        {
            "label": f"{one.temperature:g}",
            "whislo": one.p05_nats,
            "q1": one.p25_nats,
            "med": one.median_nats,
            "q3": one.p75_nats,
            "whishi": one.p95_nats,
            "mean": one.mean_nats,
        }
        for one in entropy
    ]
    mean = {"marker": "D", "markersize": 5, "markerfacecolor": COLOURS[1], "markeredgecolor": COLOURS[1]}

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.bxp(
            boxes,
            showfliers=False,
            showmeans=True,
            patch_artist=True,
            boxprops={"facecolor": COLOURS[5], "edgecolor": COLOURS[0]},
            medianprops={"color": COLOURS[6]},
            meanprops=mean,
        )
        most = float(np.log(classes))
        axes.axhline(most, color=GREY, linestyle="--", lw=1, label=f"ln({classes})")
        axes.set(xlabel="T", ylabel="entropy of the soft targets (nats)", ylim=(0, 1.15 * most))
        axes.legend(loc="upper left")

    return drawn(name, "Entropy of the targets by temperature", draw)


def drawn(
    name: str, title: str, draw: Callable[[Figure], None], *, size: tuple[float, float] = (6.0, 4.0)
) -> Drawing:
    """Return what `draw` puts on an empty figure of this size in inches, under its title."""
    with matplotlib.style.context(["default", _STYLE]), warnings.catch_warnings():
        # A letter that the font lacks is a box in the PNG and itself in the SVG.
        warnings.filterwarnings("ignore", message=r"(?s)Glyph .* missing from font")
        figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
        draw(figure)
        figure.suptitle(short(title, 80), fontsize=10)
        png, svg = io.BytesIO(), io.BytesIO()
        # The layout is found once; it takes longer than the drawing, and each file would find it anew.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        # A figure that pyplot does not know finds its canvas, Agg or SVG, by the format.
        figure.savefig(png, format="png", metadata={"Software": None})
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return Drawing(name, title, png.getvalue(), svg.getvalue())


def short(text: str, most: int = 40) -> str:
    """Return text as a plot can show it: printable, on one line, cut where it is longer, no formula."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    line = line if len(line) <= most else f"{line[: most - 1]}…"
    return line.replace("$", r"\$")


def _write_counts(axes: Axes, counts: np.ndarray, most: int) -> None:
    for (row, column), count in np.ndenumerate(counts):
        if not count:
            continue
        dark = row != column and count > 0.6 * most
        axes.text(
            column, row, str(count), ha="center", va="center", fontsize=7, color="white" if dark else "black"
        )
