"""Training curves as PNG pictures."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

__all__ = ["training_curves"]

# Okabe and Ito: apart for all common kinds of color blindness. One name keeps one color in all stages.
COLORS = {
    "loss": "#222222",
    "partial_cross_entropy": "#0072B2",
    "size_barrier": "#E69F00",
    "frame_crf": "#009E73",
    "colocalization": "#CC79A7",
    "fg_mean": "#0072B2",
    "color_disagreement": "#D55E00",
    "tag_probability": "#009E73",
    "frames_kept": "#E69F00",
    "accuracy": "#009E73",
    "corloc": "#0072B2",
    "classification": "#D55E00",
}
TERMS = ("loss", "partial_cross_entropy", "size_barrier", "frame_crf", "colocalization")
SHARES = {
    "fg_mean": "foreground share",
    "color_disagreement": "color disagreement",
    "tag_probability": "probability of the tag",
    "frames_kept": "frames kept",
}
SCORES = ("corloc", "classification")
LINEAR_UP_TO = 4.0  # losses beyond it go on a scale that is logarithmic outside [-1, 1]
Row = Mapping[str, Any]


def training_curves(rows: Sequence[Row]) -> dict[str, bytes]:
    """One PNG per stage, in the order of first appearance: loss terms, health of training, validation.

    The background is white, so that the picture also reads on a dark page.

    Args:
        rows: of ``metrics.jsonl``: stage, kind ("train", "validation"; others are ignored), epoch, step, and numbers.
            What is not a finite number ("nan", "inf") leaves a gap in its line.
    """
    rows = [row for row in rows if row["kind"] in ("train", "validation")]
    stages = list(dict.fromkeys(str(row["stage"]) for row in rows))
    return {stage: _figure([row for row in rows if row["stage"] == stage]) for stage in stages}


def _figure(rows: Sequence[Row]) -> bytes:
    train = [row for row in rows if row["kind"] == "train"]
    validation = [row for row in rows if row["kind"] == "validation"]
    figure = Figure(figsize=(11, 3.6), layout=ConstrainedLayoutEngine(wspace=0.05), dpi=130, facecolor="white")
    left, middle, right = figure.subplots(1, 3)
    largest = max((abs(y) for name in TERMS for y in _values(train, name) if math.isfinite(y)), default=0.0)
    if largest > LINEAR_UP_TO:
        left.set_yscale("symlog", linthresh=1.0)
        left.yaxis.set_major_formatter("{x:g}")
    _lines(left, train, TERMS, "step", "loss and its terms")
    if any("accuracy" in row for row in train):
        _lines(middle, train, ["accuracy"], "step", "training accuracy, %")
    else:
        present = [name for name in SHARES if any(name in row for row in train)]
        title = " and ".join(SHARES[name] for name in present) if len(present) <= 2 else "shares"
        _lines(middle, train, present, "step", title)
    _lines(right, validation, SCORES, "epoch", "validation, %")
    right.set_ylim(0, 100)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _lines(axes: Axes, rows: Sequence[Row], names: Sequence[str], x: str, title: str) -> None:
    axes.set_title(title, fontsize=9.5, loc="left", color="#333333")
    axes.set_xlabel(x, fontsize=8.5, color="#555555")
    axes.tick_params(labelsize=8.5, color="#bbbbbb", labelcolor="#555555")
    axes.grid(color="#e8e8e8", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#bbbbbb")
    drawn = [name for name in names if any(map(math.isfinite, _values(rows, name)))]
    for name in drawn:
        marker = "o" if len(rows) < 20 else None
        axes.plot(
            [row[x] for row in rows],
            _values(rows, name),
            color=COLORS[name],
            label=SHARES.get(name, name.replace("_", " ")),
            linewidth=1.6,
            marker=marker,
            markersize=3,
        )
    if drawn:
        below = {
            "loc": "upper left",
            "bbox_to_anchor": (-0.02, -0.17),
            "ncols": 2,
            "columnspacing": 1.2,
            "handlelength": 1.4,
        }
        axes.legend(fontsize=8, frameon=False, labelcolor="#333333", **below)
    else:
        axes.text(0.5, 0.5, "no values", transform=axes.transAxes, ha="center", color="#888888", fontsize=9)


def _values(rows: Sequence[Row], name: str) -> list[float]:
    """One value per row; NaN, which matplotlib leaves out, where the row has no number."""
    return [float(row[name]) if isinstance(row.get(name), int | float) else math.nan for row in rows]
