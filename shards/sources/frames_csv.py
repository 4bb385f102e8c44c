"""Frames that are already pictures, listed in ``frames.csv``.

``frames.csv`` has the columns split, path, class, width, height; ``boxes.csv``, which may be absent, has split, path,
x0, y0, x1, y1 and one row a box. Paths are below the folder of the tables (or another one that is given), and of the
form class/video/shot/frame.jpg, or of any other form if ``frames.csv`` says video and shot in columns of their own.
Sizes and boxes are in pixels of the picture as it is seen, that is after its EXIF orientation. The frames of a shot are
in natural order of their names.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from colocam_dist.data.jpeg import read_jpeg_header
from colocam_dist.files import sha256_of
from shards.images import PictureRule
from shards.sources.base import (
    SPLITS,
    Box,
    Inputs,
    natural_key,
    raise_problems,
)
from shards.sources.shot_files import FrameFile, ShotOfFiles, shot_of_files
from shards.sources.tables import Row, fit_box, inner_path, parse_box, read_rows

__all__ = ["read_frames_csv"]

_FIX = "correct the tables or the files; nothing was written"


@dataclass
class _Table:
    """What was found while the tables were read."""

    folder: Path
    pictures: Path
    problems: list[str] = field(default_factory=list)
    shots: dict[tuple[str, str, str], list[FrameFile]] = field(default_factory=lambda: defaultdict(list))
    splits: dict[tuple[str, str, str], set[str]] = field(default_factory=lambda: defaultdict(set))
    split_of: dict[str, str] = field(default_factory=dict)
    clipped: int = 0


def read_frames_csv(folder: Path, rule: PictureRule, pictures: Path | None = None) -> Inputs:
    """Read the tables and check them against the headers of all pictures.

    Args:
        folder: where the tables are.
        rule: how frames are stored.
        pictures: the folder below which paths lie; None = the folder of the tables.

    Raises:
        DataError: a table cannot be read, or (one error for all) a file is absent, not a JPEG, listed twice, of another
            size or at another place than the table says, or a box is empty, inverted, doubled, or outside its picture.
    """
    table = _Table(folder, pictures or folder)
    rows = list(read_rows(folder / "frames.csv", ("split", "path", "class", "width", "height"), ("video", "shot")))
    if not rows:
        table.problems.append("frames.csv has no rows")
    boxes = _read_boxes(table, {row["path"]: row["split"] for row in rows})
    for row in rows:
        _take(table, row, boxes.get(row["path"], []))
    table.problems += [
        f"shot {'/'.join(key)} is in several splits: {', '.join(sorted(splits))}"
        for key, splits in table.splits.items()
        if len(splits) > 1
    ]
    raise_problems(table.problems, what="the frame tables and the files do not agree", where=folder, fix=_FIX)
    units = tuple(_unit(table, key, files, rule) for key, files in table.shots.items())
    tables = {name: sha256_of(folder / name) for name in ("frames.csv", "boxes.csv") if (folder / name).is_file()}
    return Inputs(
        units=units,
        classes=tuple(sorted({unit.cls for unit in units})),
        settings={"source": "frames-csv"},
        receipt={"kind": "frames-csv", "tables_sha256": tables, "clipped_boxes": table.clipped},
        warnings=tuple(_warnings(table)),
    )


def _read_boxes(table: _Table, split_of: dict[str, str]) -> dict[str, list[tuple[Row, Box]]]:
    boxes: dict[str, list[tuple[Row, Box]]] = defaultdict(list)
    path = table.folder / "boxes.csv"
    if not path.is_file():
        return boxes
    for row in read_rows(path, ("split", "path", "x0", "y0", "x1", "y1")):
        box = parse_box(row)
        if isinstance(box, str):
            table.problems.append(box)
        elif split_of.get(row["path"]) != row["split"]:
            table.problems.append(f"{row.where}: {row['path']} is not in frames.csv under split '{row['split']}'")
        elif any(box == other for _, other in boxes[row["path"]]):
            table.problems.append(f"{row.where}: the same box of {row['path']} stands there twice")
        else:
            boxes[row["path"]].append((row, box))
    return boxes


def _take(table: _Table, row: Row, boxes: list[tuple[Row, Box]]) -> None:
    """Check one row of frames.csv and its file; file it under its shot."""
    path = inner_path(row["path"])
    key = _key(row)
    problem = _misplaced(table, row, key)
    if path is None or key is None or problem:
        table.problems.append(f"{row.where}: {problem}")
        return
    table.split_of[row["path"]] = row["split"]
    file = table.pictures / path
    try:
        with file.open("rb") as stream:
            header = read_jpeg_header(stream)
        stat = file.stat()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        table.problems.append(f"{row.where}: {row['path']}: {why}")
        return
    if (row["width"], row["height"]) != (str(header.width), str(header.height)):
        table.problems.append(
            f"{row.where}: {row['path']} is {header.width} x {header.height} pixels, "
            f"not {row['width']} x {row['height']}"
        )
    kept = []
    for box_row, box in boxes:
        fitted = fit_box(box, header.width, header.height)
        if isinstance(fitted, str):
            table.problems.append(f"{box_row.where}: {fitted}")
        else:
            kept.append(fitted[0])
            table.clipped += fitted[1]
    table.splits[key].add(row["split"])
    table.shots[key].append(FrameFile(file, header.width, header.height, stat.st_size, stat.st_mtime_ns, tuple(kept)))


def _key(row: Row) -> tuple[str, str, str] | None:
    """Class, video and shot of a picture, from the columns or from its path; None if they cannot be told."""
    if "video" in row.values and "shot" in row.values:
        key = (row["class"], row["video"], row["shot"])
        return key if all(part and "/" not in part for part in key) else None
    parts = row["path"].split("/")
    return (parts[0], parts[1], parts[2]) if len(parts) == 4 and all(parts) else None


def _misplaced(table: _Table, row: Row, key: tuple[str, str, str] | None) -> str:
    """What is wrong with the place of a picture, or an empty string."""
    if inner_path(row["path"]) is None:
        return f"path '{row['path']}' is not below the folder of the table"
    if key is None and "shot" in row.values:
        return f"'{row['class']}', '{row['video']}', '{row['shot']}' are not the names of a class, a video and a shot"
    if key is None:
        return f"path '{row['path']}' is not class/video/shot/frame.jpg"
    if key[0] != row["class"]:
        return f"class '{row['class']}' does not match path '{row['path']}'"
    if row["split"] not in SPLITS:
        return f"split '{row['split']}' is none of {', '.join(SPLITS)}"
    if row["path"] in table.split_of:
        return f"{row['path']} is listed twice"
    return ""


def _unit(table: _Table, key: tuple[str, str, str], files: list[FrameFile], rule: PictureRule) -> ShotOfFiles:
    (split,) = table.splits[key]
    return shot_of_files(split, key, sorted(files, key=lambda file: natural_key(file.path.name)), rule)


def _warnings(table: _Table) -> Iterator[str]:
    if table.clipped:
        yield f"{table.clipped} boxes reached more than a pixel beyond their picture and were clipped to it"
    splits_of_video: dict[str, set[str]] = defaultdict(set)
    for (cls, video, _), splits in table.splits.items():
        splits_of_video[f"{cls}/{video}"] |= splits
    shared = sorted(video for video, splits in splits_of_video.items() if len(splits) > 1)
    if shared:
        yield f"{len(shared)} videos are in several splits, which makes results too good: {', '.join(shared[:5])}"
