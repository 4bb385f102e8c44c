"""Training curves as PNG pictures."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["training_curves"]

# Okabe and Ito: apart for all common kinds of color blindness.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
TERMS = ("loss", "partial_cross_entropy", "size_barrier", "frame_crf", "colocalization")
HEALTH = ("fg_mean", "color_disagreement")
SCORES = ("corloc", "classification")
Row = Mapping[str, Any]


def training_curves(rows: Sequence[Row]) -> dict[str, bytes]:
    """One PNG per stage, in the order of first appearance.

    Args:
        rows: of ``metrics.jsonl``: stage, kind ("train", "validation"), epoch, step, and numbers. Values that are not
            numbers (written for infinities) leave gaps.
    """
    stages = list(dict.fromkeys(str(row["stage"]) for row in rows))
    return {stage: _figure(stage, [row for row in rows if row["stage"] == stage]) for stage in stages}


def _figure(stage: str, rows: Sequence[Row]) -> bytes:
    train = [row for row in rows if row["kind"] == "train"]
    validation = [row for row in rows if row["kind"] == "validation"]
    figure = Figure(figsize=(11, 2.9), layout="constrained", dpi=110)
    left, middle, right = figure.subplots(1, 3)
    _lines(left, train, TERMS, "step", "loss terms")
    health = [name for name in (*HEALTH, "accuracy") if any(name in row for row in train)]
    title = "training accuracy, %" if health == ["accuracy"] else "foreground share and color disagreement"
    _lines(middle, train, health, "step", title)
    _lines(right, validation, SCORES, "epoch", "validation, %")
    figure.suptitle(stage, x=0.01, ha="left", fontsize=11, fontweight="bold")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _lines(axes: Axes, rows: Sequence[Row], names: Sequence[str], x: str, title: str) -> None:
    axes.set_title(title, fontsize=9, loc="left")
    axes.set_xlabel(x, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    shown = 0
    for color, name in zip(COLORS, names, strict=False):
        points = [(row[x], row[name]) for row in rows if isinstance(row.get(name), int | float)]
        if points:
            axes.plot(
                *zip(*points, strict=True), color=color, label=name, marker="o" if len(points) < 20 else None, ms=3
            )
            shown += 1
    if shown:
        axes.legend(fontsize=7, frameon=False)
