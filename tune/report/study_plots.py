"""All trials and all dimensions of a study in one picture each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator
from numpy.typing import NDArray

from tune.report.dimensions import Dimension, text
from tune.report.figures import finite_rows
from tune.report.points import PointResult, identity
from tune.report.style import (
    BEST,
    INK,
    METRIC,
    SCALE,
    SOFT,
    STATE_COLORS,
    colors_of,
    drawable,
    dress,
    empty,
    key_below,
    limits,
    new_figure,
    short,
)
from tune.results import TrialResult, TrialState

__all__ = ["learning_curves", "parallel_coordinates"]

ALONE = "#0072B2"
ENDS: dict[TrialState, tuple[str, str]] = {
    "stopped": ("s", "stopped early"),
    "failed": ("X", "failed"),
    "running": (">", "running"),
}
# P points, A axes, S steps between two axes, L places along a line.
BEND = np.linspace(0.0, 1.0, 25)
BAND = 0.07  # of an axis's height, in which lines through the same value are spread by their CorLoc
GAP = 0.045  # of an axis's height, least between two of its texts


def learning_curves(
    trials: Sequence[TrialResult], lead: Dimension | None = None, best: PointResult | None = None
) -> Figure:
    """CorLoc of each trial over its epochs. Lines of stopped, failed and running trials end in a mark.

    Args:
        trials: any; those without a figure are left out.
        lead: each of its values has a color.
        best: its trials are drawn bold.
    """
    figure = new_figure(10.2, 4.4)
    axes = figure.subplots()
    dress(axes, "epoch of stage 2", METRIC)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    shown = [(trial, rows) for trial in trials if (rows := finite_rows(trial))]
    if not shown:
        empty(axes, "no validation yet")
        return figure
    colors = colors_of(lead)
    chosen = {trial.id for trial in best.trials} if best else set()
    faint = max(0.25, min(0.6, 40 / len(shown)))
    for trial, rows in shown:
        color = colors.get(lead.key(trial.point) or "", ALONE) if lead else ALONE
        bold = trial.id in chosen
        style: dict[str, Any] = (
            {"linewidth": 2.6, "alpha": 1.0, "zorder": 3} if bold else {"linewidth": 1.1, "alpha": faint}
        )
        x, y = [row.epoch for row in rows], [row.corloc for row in rows]
        axes.plot(x, y, color=color, marker="o" if len(rows) == 1 else None, markersize=4, **style)
        if trial.state in ENDS:
            axes.plot(x[-1:], y[-1:], ENDS[trial.state][0], **_mark(trial.state), zorder=4)
    every = [row for _, rows in shown for row in rows]
    axes.set_ylim(*limits([row.corloc for row in every], []))
    axes.set_xlim(min(row.epoch for row in every) - 0.4, max(row.epoch for row in every) + 0.4)
    present = {lead.key(trial.point) for trial, _ in shown} if lead else set()
    handles = [Line2D([], [], color=color, linewidth=1.8) for key, color in colors.items() if key in present]
    labels = [short(text(value), 24) for value in lead.values if identity(value) in present] if lead else []
    if chosen & {trial.id for trial, _ in shown}:
        handles.append(Line2D([], [], color=INK, linewidth=2.6))
        labels.append("best point")
    for state in dict.fromkeys(trial.state for trial, _ in shown if trial.state in ENDS):
        handles.append(Line2D([], [], marker=ENDS[state][0], linewidth=0, **_mark(state)))
        labels.append(ENDS[state][1])
    key_below(figure, handles, labels, 6 if max(map(len, labels), default=0) <= 14 else 4)
    return figure


def _mark(state: TrialState) -> dict[str, Any]:
    return {"color": STATE_COLORS[state], "markersize": 5, "mec": "white", "mew": 0.5}


def parallel_coordinates(dimensions: Sequence[Dimension], points: Sequence[PointResult]) -> Figure:
    """One line for each point through its value on every dimension, colored by CorLoc; the best one in orange.

    Args:
        dimensions: those without a choice between values are left out.
        points: best first; those without a figure are left out.
    """
    axles = [one for one in dimensions if len(one.values) > 1]
    shown = [p for p in points if p.mean is not None and all(one.name in p.point for one in axles)]
    figure = new_figure(max(10.2, 1.9 * (len(axles) + 1)), 4.4)
    axes = figure.subplots()
    axes.set_axis_off()
    if not shown or not axles:
        empty(axes, "no figures yet" if axles else "no dimension with several values")
        return figure
    means = np.array([point.mean for point in shown], float)
    low, high = float(means.min()), float(means.max())
    level_P = (means - low) / (high - low) if high > low else np.full(len(means), 0.5)
    crossings = zip(shown, level_P.tolist(), strict=True)
    heights_PA = np.array([[_height(one, p.point[one.name], level) for one in axles] for p, level in crossings])
    lines_PXY = _bent(np.column_stack([heights_PA, level_P]))[::-1]  # the best on top
    faint = max(0.35, min(0.85, 25 / len(shown)))
    axes.add_collection(LineCollection(list(lines_PXY), colors=SCALE(level_P[::-1]), linewidths=1.5, alpha=faint))
    axes.add_collection(LineCollection(list(lines_PXY[-1:]), colors=BEST, linewidths=2.6, zorder=4))
    for place, one in enumerate(axles):
        _axle(axes, place, drawable(short(one.label, 20)), _ticks(one))
    ends = [(0.0, f"{low:.1f}"), (1.0, f"{high:.1f}")] if high > low else [(0.5, f"{low:.1f}")]
    _axle(axes, len(axles), METRIC, ends, side=1)
    axes.set_xlim(-0.45, len(axles) + 0.35)
    axes.set_ylim(-0.06, 1.17)
    return figure


def _height(dimension: Dimension, value: Any, level: float) -> float:
    """Where a line crosses the axis of a dimension, 0 to 1; better ones a little higher, so that all can be seen."""
    if dimension.is_range:
        return dimension.share(value)
    return dimension.share(value) + BAND * (level - 0.5)


def _bent(heights_PA: NDArray[np.float64]) -> NDArray[np.float64]:
    """Smooth lines through the heights on all axes: [points, places along the line, (x, y)]."""
    step_S = BEND * BEND * (3.0 - 2.0 * BEND)
    left_PA1, right_PA1 = heights_PA[:, :-1, None], heights_PA[:, 1:, None]
    y_PL = (left_PA1 + (right_PA1 - left_PA1) * step_S).reshape(len(heights_PA), -1)
    x_L = (np.arange(heights_PA.shape[1] - 1)[:, None] + BEND).reshape(-1)
    return np.stack([np.broadcast_to(x_L, y_PL.shape), y_PL], axis=2)


def _axle(axes: Axes, place: int, name: str, ticks: Sequence[tuple[float, str]], side: int = -1) -> None:
    """A vertical axis with its name on top, and texts left (-1) or right (1) of it."""
    axes.plot([place, place], [-0.03, 1.03], color="#8d939b", linewidth=1.0, zorder=3)
    axes.text(place, 1.1, name, ha="center", va="bottom", fontsize=9.5, color=INK, parse_math=False, weight="bold")
    under = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.2}
    for height, words in ticks:
        axes.text(
            place + 0.04 * side,
            height,
            words,
            ha="right" if side < 0 else "left",
            va="center",
            fontsize=9,
            color=SOFT,
            parse_math=False,
            bbox=under,
            zorder=5,
        )


def _ticks(dimension: Dimension) -> list[tuple[float, str]]:
    """Heights and texts of values, so many as there is room for; of round numbers if there are many."""
    values: Sequence[Any] = dimension.values
    if dimension.is_range or (dimension.numeric and len(values) > 12):
        low, high = values[0], values[-1]
        whole = all(float(value).is_integer() for value in values)
        locator = LogLocator() if dimension.scale == "log" else MaxNLocator(5, integer=whole)
        values = [float(value) for value in locator.tick_values(low, high) if low <= value <= high]
    found: list[tuple[float, str]] = []
    for value in values:
        height = dimension.share(value)
        if not found or height - found[-1][0] >= GAP:
            found.append((height, drawable(short(text(value), 16))))
    return found
