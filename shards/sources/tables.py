"""CSV tables of frames, videos and boxes: columns checked, problems collected instead of stopping at the first."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from colocam_dist.errors import DataError
from shards.sources.base import Box

__all__ = ["Row", "fit_box", "inner_path", "parse_box", "read_rows"]

_TOLERANCE = 1.0  # pixels by which a box may exceed the picture without a word: rounding, or inclusive corners


@dataclass(frozen=True)
class Row:
    """One line of a table: where it stands, for messages, and its values by column."""

    where: str
    values: dict[str, str]

    def __getitem__(self, column: str) -> str:
        return self.values[column]


def read_rows(path: Path, columns: tuple[str, ...], optional: tuple[str, ...] = ()) -> Iterator[Row]:
    """Rows of a CSV file with a header line; columns beyond the wanted ones are ignored.

    Raises:
        DataError: no such file, not UTF-8, a column is missing, or a row is too short.
    """
    try:
        stream = path.open(newline="", encoding="utf-8-sig")
    except OSError as error:
        raise DataError("cannot read a table", where=path, got=error.strerror, wanted=",".join(columns)) from error
    with stream:
        reader = csv.DictReader(stream)
        try:
            found = reader.fieldnames or ()
            missing = [column for column in columns if column not in found]
            if missing:
                raise DataError(
                    f"a table lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}",
                    where=path,
                    got=",".join(found) or "an empty file",
                    wanted=",".join(columns),
                )
            used = (*columns, *(column for column in optional if column in found))
            for row in reader:
                where = f"{path.name} line {reader.line_num}"
                if any(row[column] is None for column in used):
                    raise DataError("a row of a table is too short", where=where, wanted=",".join(columns))
                yield Row(where, {column: row[column] for column in used})
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError("a table is not CSV in UTF-8", where=path, got=error) from error


def inner_path(text: str) -> PurePosixPath | None:
    """A path below the table's folder; None if it leaves it."""
    path = PurePosixPath(text)
    return None if not text or path.is_absolute() or ".." in path.parts else path


def parse_box(row: Row) -> Box | str:
    """The box of a row, or what is wrong with it."""
    try:
        box = (float(row["x0"]), float(row["y0"]), float(row["x1"]), float(row["y1"]))
    except ValueError:
        box = (math.nan,) * 4
    if not all(math.isfinite(value) for value in box):
        return f"{row.where}: the corners of a box are not four numbers"
    if box[0] >= box[2] or box[1] >= box[3]:
        return f"{row.where}: box {_format(box)} is empty or inverted (wanted x0 < x1 and y0 < y1)"
    return box


def fit_box(box: Box, width: int, height: int) -> tuple[Box, bool] | str:
    """Clip a box to its picture.

    Returns:
        The clipped box, and whether more than a pixel was cut off; or what is wrong if the box misses the picture.
    """
    x0, y0, x1, y1 = box
    if x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0:
        return f"box {_format(box)} lies outside its picture of {width} x {height} pixels"
    excess = max(-x0, -y0, x1 - width, y1 - height)
    return (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))), excess > _TOLERANCE


def _format(box: Box) -> str:
    return ",".join(f"{value:g}" for value in box)
