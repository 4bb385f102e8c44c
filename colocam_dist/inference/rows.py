"""What is predicted for a frame, and the tables of it.

Shape suffixes: H and W the size of the input frame.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from colocam_dist.files import write_atomically

__all__ = ["TABLES", "FramePrediction", "write_tables"]

TABLES = ("predictions.json", "predictions.csv")
"""Names of the tables of all clips."""


@dataclass(frozen=True)
class FramePrediction:
    """One frame's result.

    Attributes:
        clip: name of the clip; "" for frames that were given as arrays.
        frame: number within the clip, from 0, in decoding order.
        cls: most probable class of this frame.
        score: its softmax probability, in [0, 1].
        x0, y0, x1, y1: box in pixels of the input frame, counted from 0, the last ones included; all 0 when the map has
            no region above the threshold.
        instance: number of the box within the frame, from 0, the best one first, where several boxes per frame were
            asked for; else None, and no column.
        map_HW: foreground probability, float32 ``[H, W]`` in [0, 1], where it was asked for; not part of tables.
    """

    clip: str
    frame: int
    cls: str
    score: float
    x0: float
    y0: float
    x1: float
    y1: float
    instance: int | None = None
    map_HW: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)

    @property
    def box(self) -> tuple[float, float, float, float]:
        """x0, y0, x1, y1."""
        return self.x0, self.y0, self.x1, self.y1

    def to_row(self) -> dict[str, Any]:
        """Everything but the map, by column."""
        columns = _COLUMNS if self.instance is None else (*_COLUMNS, "instance")
        return {name: getattr(self, name) for name in columns}


_COLUMNS = tuple(name for name in FramePrediction.__dataclass_fields__ if name not in ("instance", "map_HW"))


def write_tables(folder: Path, rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> None:
    """Write ``predictions.csv``, then ``predictions.json`` with the same rows as "frames" below `facts`, atomically.

    Rows, at least one, all have the same columns.
    """
    table = io.StringIO()
    writer = csv.DictWriter(table, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(folder / "predictions.csv", table.getvalue())
    write_atomically(folder / "predictions.json", json.dumps({**facts, "frames": rows}, indent=1))
