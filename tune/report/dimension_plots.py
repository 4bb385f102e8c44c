"""CorLoc against one dimension of the study."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation

from tune.report.dimensions import Dimension, text
from tune.report.figures import mean_interval
from tune.report.points import PointResult, identity
from tune.report.style import (
    BEST,
    GRAY,
    INK,
    METRIC,
    colors_of,
    drawable,
    dress,
    empty,
    key_below,
    limits,
    new_figure,
    short,
)

__all__ = ["choice_plot", "number_plot"]

TICKS = 9  # a dimension with more values has the ticks of its scale
BINS = 8  # of a scale with more values; the line goes through the best point of each
ROWS = 20  # values of a choice
WIDTH = 5.2  # inches
ALONE = "#0072B2"  # color where there is nothing to tell apart
GOLDEN = 0.618  # multiples of it, less whole numbers, are spread evenly


def number_plot(dimension: Dimension, points: Sequence[PointResult], lead: Dimension | None = None) -> Figure:
    """CorLoc against a numeric dimension: a dot for each point, lines through the best one at each value.

    Args:
        dimension: a numeric one.
        points: best first.
        lead: each of its values has a line and a color.
    """
    figure = new_figure(WIDTH, 3.8)
    axes = figure.subplots()
    dress(axes, dimension.label, METRIC)
    shown = [point for point in points if point.mean is not None and dimension.name in point.point]
    if not shown:
        empty(axes, "no figures yet")
        return figure
    _scale(axes, dimension)
    colors = colors_of(lead)
    handles, labels = [], []
    ends: list[float | None] = []
    for place, key in enumerate(colors or ("",)):
        mine = [point for point in shown if lead is None or lead.key(point.point) == key]
        if mine:
            color = colors.get(key, ALONE)
            # Beside each other, so that intervals at the same value do not hide one another.
            aside = 4.0 * (place - (len(colors) - 1) / 2) if colors else 0.0
            ends += _line(axes, dimension, mine, color, aside)
            handles.append(Line2D([], [], color=color, marker="o", markersize=5, linewidth=1.8))
            labels.append(short(text(mine[0].point[lead.name]), 24) if lead else "best at each value")
    axes.set_ylim(*limits(_means(shown), ends))
    handles.append(Line2D([], [], color=GRAY, marker="o", markersize=4, linewidth=0, alpha=0.6))
    labels.append("every point")
    longest = max(map(len, labels))
    key_below(figure, handles, labels, 4 if longest <= 12 else 2)
    return figure


def _line(
    axes: Axes, dimension: Dimension, points: Sequence[PointResult], color: str, aside: float
) -> list[float | None]:
    """Dots of all points, and a line with intervals through the best of them, `aside` points to the right.

    Gives the ends of the intervals.
    """
    moved = axes.transData + ScaledTranslation(aside / 72, 0, axes.figure.dpi_scale_trans)
    every = [point.point[dimension.name] for point in points]
    axes.plot(every, _means(points), "o", color=color, markersize=3.5, alpha=0.3, mew=0, transform=moved)
    line = _best_along(dimension, points)
    x, y = [point.point[dimension.name] for point in line], _means(line)
    axes.plot(x, y, "-o", color=color, linewidth=1.8, markersize=5, transform=moved, zorder=3)
    for point in line:
        if point.low is not None and point.high is not None:
            x, y = [point.point[dimension.name]] * 2, [point.low, point.high]
            axes.plot(x, y, color=color, linewidth=1.3, alpha=0.65, transform=moved)
    return [end for point in line for end in (point.low, point.high)]


def _best_along(dimension: Dimension, points: Sequence[PointResult]) -> list[PointResult]:
    """The best point at each value, or in each part of the scale if there are many values; ascending."""
    few = len(dimension.values) <= TICKS and not dimension.is_range
    found: dict[float, PointResult] = {}
    for point in points:  # best first
        share = dimension.share(point.point[dimension.name])
        found.setdefault(share if few else min(int(share * BINS), BINS - 1), point)
    return sorted(found.values(), key=lambda point: point.point[dimension.name])


def _scale(axes: Axes, dimension: Dimension) -> None:
    """Scale, bounds and ticks of the dimension on the x axis."""
    values = dimension.values
    if dimension.scale == "log":
        axes.set_xscale("log")
    elif dimension.scale == "symlog":
        axes.set_xscale("symlog", linthresh=dimension.smallest_positive, linscale=0.5)
    if len(values) <= TICKS and not dimension.is_range:
        ticks: list[float] = []
        for value in values:
            if not ticks or dimension.share(value) - dimension.share(ticks[-1]) > 0.09:
                ticks.append(value)
        axes.set_xticks(ticks, [text(value) for value in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
    elif dimension.scale == "log":
        wide = values[-1] > 100 * values[0]
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    if len(values) > 1:
        axes.set_xmargin(0.06)
        axes.plot([values[0], values[-1]], [0, 0], alpha=0.0)  # the whole scale, even if only a part was tried


def choice_plot(dimension: Dimension, points: Sequence[PointResult]) -> Figure:
    """CorLoc of every point beside each value of a dimension, with their mean and its 95 % interval.

    If there is but one point for each value, its seeds are shown in place of points. Of more than twenty values those
    with the highest means are shown.
    """
    shown = [point for point in points if point.mean is not None and dimension.name in point.point]
    groups: dict[str, list[PointResult]] = {identity(value): [] for value in dimension.values}
    for point in shown:
        groups[identity(point.point[dimension.name])].append(point)
    keys = [key for key in groups if groups[key]]
    if len(keys) > ROWS:
        keys = sorted(keys, key=lambda key: -(mean_interval(_means(groups[key]))[0] or 0.0))[:ROWS]
    figure = new_figure(WIDTH, max(2.4, 1.4 + 0.42 * len(keys)))
    axes = figure.subplots()
    dress(axes, METRIC, "")
    if not keys:
        axes.set_yticks([])
        empty(axes, "no figures yet")
        return figure
    over_seeds = all(len(groups[key]) == 1 for key in keys)
    ends: list[float | None] = []
    for row, key in enumerate(keys):
        values = list(groups[key][0].by_seed.values()) if over_seeds else _means(groups[key])
        ends += _strip(axes, row, values)
        if shown[0] in groups[key]:
            axes.plot(_means(shown[:1]), [row], "*", color=BEST, markersize=10, zorder=5)
    names = {identity(value): drawable(short(text(value), 26)) for value in dimension.values}
    axes.set_yticks(range(len(keys)), [names[key] for key in keys], parse_math=False)
    axes.set_ylim(len(keys) - 0.5, -0.5)
    axes.set_xlim(*limits(_means(shown), ends))
    axes.grid(visible=False, axis="y")
    handles = [
        Line2D([], [], color=ALONE, marker="o", linewidth=0, alpha=0.5, markersize=4.5),
        Line2D([], [], color=INK, linewidth=1.5, marker="|", markersize=9, markeredgewidth=2.2),
        Line2D([], [], color=BEST, marker="*", linewidth=0, markersize=9),
    ]
    key_below(figure, handles, ["seed" if over_seeds else "point", "mean and 95 % interval", "best point"], 3)
    return figure


def _strip(axes: Axes, row: int, values: Sequence[float]) -> list[float | None]:
    """Dots in a row, and their mean with its interval, whose ends it gives."""
    heights = [row + 0.4 * ((place * GOLDEN) % 1.0 - 0.5) for place in range(len(values))]
    axes.plot(values, heights, "o", color=ALONE, markersize=4.5, alpha=0.35, mew=0)
    mean, low, high = mean_interval(values)
    if mean is not None:
        axes.plot([mean, mean], [row - 0.26, row + 0.26], color=INK, linewidth=2.2, zorder=4)
    if low is not None and high is not None:
        axes.plot([low, high], [row, row], color=INK, linewidth=1.5, zorder=4)
    return [low, high]


def _means(points: Sequence[PointResult]) -> list[float]:
    return [point.mean for point in points if point.mean is not None]
