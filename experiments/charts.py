"""Draws an experiment's figures as PNG: its own chart, or a row a figure with its mean, spread and seeds.

Needs matplotlib, which the extra `worker` brings; it is imported when something is drawn.
"""

import textwrap
from io import BytesIO
from typing import TYPE_CHECKING, Any

from experiments.result import Chart, ExperimentResult, Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MEAN, _SEED, _PUBLISHED = "#08519c", "#9ecae1", "#d95f02"


def png(result: ExperimentResult) -> bytes:
    """Return the chart as PNG; the same result gives the same bytes."""
    # Not pyplot: it keeps figures alive and asks for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Drawing

    chart = result.finding.chart
    units = tuple(dict.fromkeys(figure.unit for figure in result.finding.figures))
    if chart is not None:
        drawing = Drawing(figsize=(8, 5), layout="constrained")
        _lines(drawing.subplots(), chart)
    else:
        heights = [sum(figure.unit == unit for figure in result.finding.figures) for unit in units]
        drawing = Drawing(figsize=(9, 0.9 + 0.55 * sum(heights) + 0.5 * len(units)), layout="constrained")
        panels = drawing.subplots(len(units), squeeze=False, height_ratios=heights)
        for unit, axes in zip(units, panels[:, 0], strict=True):
            _rows(axes, [figure for figure in result.finding.figures if figure.unit == unit], unit)
        panels[0, 0].set_title(result.title)
    written = BytesIO()
    metadata: dict[str, Any] = {"Software": None}  # its version would change the bytes
    FigureCanvasAgg(drawing).print_png(written, metadata=metadata)  # type: ignore[no-untyped-call]
    return written.getvalue()


def _rows(axes: "Axes", figures: list[Figure], unit: str) -> None:
    for place, figure in enumerate(figures):
        if len(figure.values) > 1:
            axes.plot(figure.values, [place] * len(figure.values), "o", color=_SEED, ms=5, label="ours, each")
        spread = figure.spread if len(figure.values) > 1 else None
        axes.errorbar(figure.mean, place, xerr=spread, fmt="|", ms=14, mew=2, color=_MEAN, label="ours, mean")
        if figure.published is not None:
            axes.plot(figure.published, place, "D", color=_PUBLISHED, ms=7, label="published")
    axes.set_yticks(range(len(figures)), [textwrap.fill(figure.label, 38) for figure in figures], fontsize=8)
    axes.set_ylim(len(figures) - 0.5, -0.5)
    axes.set_xlabel(unit)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    axes.legend(once.values(), once.keys(), fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _lines(axes: "Axes", chart: Chart) -> None:
    for series in chart.series:
        (line,) = axes.plot(series.x, series.y, "o-", ms=4, label=series.name)
        if series.spread:
            low = [y - s for y, s in zip(series.y, series.spread, strict=True)]
            high = [y + s for y, s in zip(series.y, series.spread, strict=True)]
            axes.fill_between(series.x, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    for name, level in chart.levels:
        axes.axhline(level, linestyle="--", linewidth=1, color="grey")
        axes.annotate(name, (0.01, level), xycoords=("axes fraction", "data"), fontsize=7, va="bottom")
    if chart.log_x:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
    if chart.log_y:
        axes.set_yscale("log")
    axes.set(title=chart.title, xlabel=chart.x_label, ylabel=chart.y_label)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
