"""Colors and axes that all pictures of the page share."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from functools import lru_cache

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font

from tune.report.dimensions import Dimension
from tune.report.points import identity
from tune.results import TrialState

__all__ = [
    "BEST",
    "GRAY",
    "INK",
    "METRIC",
    "SCALE",
    "STATE_COLORS",
    "colors_of",
    "drawable",
    "dress",
    "empty",
    "key_below",
    "limits",
    "new_figure",
    "picture",
    "short",
]

# Okabe and Ito: apart for all common kinds of color blindness.
SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STATE_COLORS: dict[TrialState, str] = {
    "finished": "#009E73",
    "stopped": "#E69F00",
    "failed": "#C0392B",
    "running": "#56B4E9",
    "waiting": "#b9bec5",
}
INK, SOFT, LINE, GRAY = "#1c1f23", "#555b63", "#e8e5e0", "#9aa0a8"
BEST = "#D55E00"
METRIC = "validation CorLoc, %"
SCALE = LinearSegmentedColormap.from_list("corloc", ["#ddd8cf", "#a9c9dd", "#2478ad", "#0a3450"])
DPI = 160


def new_figure(width: float, height: float) -> Figure:
    """A white figure of that many inches, for a page that shows 100 pixels for each."""
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")


def dress(axes: Axes, x: str, y: str) -> None:
    """Quiet axes with a grid, and their names."""
    axes.set_xlabel(drawable(x), fontsize=9.5, color=SOFT, parse_math=False)
    axes.set_ylabel(drawable(y), fontsize=9.5, color=SOFT, parse_math=False)
    axes.tick_params(which="both", labelsize=9, color="#c4c0b8", labelcolor=SOFT)
    axes.grid(color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#c4c0b8")


def empty(axes: Axes, words: str) -> None:
    """Say why there is nothing to see."""
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", color=GRAY, fontsize=10)


def key_below(figure: Figure, handles: Sequence[Artist], labels: Sequence[str], columns: int) -> None:
    """A legend under the axes."""
    if not handles:
        return
    # A label that begins with an underscore would be left out.
    shown = [f" {label}" if label.startswith("_") else label for label in map(drawable, labels)]
    legend = figure.legend(
        handles,
        shown,
        loc="outside lower center",
        ncols=min(columns, len(shown)),
        fontsize=9,
        frameon=False,
        labelcolor=SOFT,
        handlelength=1.6,
        columnspacing=1.4,
    )
    for entry in legend.get_texts():
        entry.set_parse_math(False)


def picture(figure: Figure) -> str:
    """The figure as a data URI of a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def colors_of(lead: Dimension | None) -> dict[str, str]:
    """Color by identity of a value of the leading dimension; all pictures take the same."""
    if lead is None:
        return {}
    return {identity(value): color for value, color in zip(lead.values, SERIES, strict=False)}


def limits(means: Sequence[float], ends: Sequence[float | None]) -> tuple[float, float]:
    """Bounds of an axis that shows all means, and the ends of their intervals where these are not far wider.

    The interval of two seeds can be a hundred times as wide as all differences between points, which it would hide.
    """
    low, high = min(means), max(means)
    room = max(high - low, 2.0)
    known = [end for end in ends if end is not None]
    lowest, highest = max(min([low, *known]), low - 0.4 * room), min(max([high, *known]), high + 0.4 * room)
    margin = max(0.08 * room, (2.0 - (highest - lowest)) / 2)
    return lowest - margin, highest + margin


def short(words: str, length: int) -> str:
    """Words of at most so many characters, with the middle left out: names often differ at their end."""
    if len(words) <= length:
        return words
    head = (length - 1) * 3 // 5
    return f"{words[:head]}…{words[len(words) - (length - 1 - head) :]}"


def drawable(words: str) -> str:
    """Words in one line, with a question mark for each character that the font has no picture of."""
    return "".join(letter if _has(letter) else "?" for letter in " ".join(words.split()))


@lru_cache(maxsize=1024)
def _has(letter: str) -> bool:
    return bool(get_font(findfont("DejaVu Sans")).get_char_index(ord(letter)))
