"""Frames that are already pictures in folders class/video/shot/frame.jpg, listed in ``frames.csv``.

``frames.csv`` has the columns split, path, class, width, height; ``boxes.csv``, which may be absent, has split, path,
x0, y0, x1, y1 and one row a box. Paths are below the folder of the tables; sizes and boxes are in pixels of the picture
as it is seen, that is after its EXIF orientation.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from colocam_dist.data.jpeg import read_jpeg_header
from shards.files import sha256_of
from shards.images import PictureRule
from shards.sources.base import (
    SPLITS,
    Box,
    Frame,
    Inputs,
    Unit,
    fingerprint_of,
    natural_key,
    raise_problems,
    scale_boxes,
)
from shards.sources.tables import Row, fit_box, inner_path, parse_box, read_rows

__all__ = ["read_frames_csv"]

_FIX = "correct the tables or the files; nothing was written"


@dataclass(frozen=True)
class _FrameFile:
    """A picture: path, size in pixels and in bytes, time stamp, boxes."""

    path: Path
    width: int
    height: int
    bytes: int
    mtime_ns: int
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class _ShotOfFiles(Unit):
    files: tuple[_FrameFile, ...]

    def frames(self, rule: PictureRule, warn: Callable[[str], None]) -> Iterator[Frame]:
        problems = []
        for file in self.files:
            try:
                stored = rule.keep(file.path.read_bytes())
            except (OSError, ValueError) as error:
                problems.append(f"{file.path}: {error}")
                continue
            boxes = scale_boxes(file.boxes, (file.width, file.height), (stored.width, stored.height))
            yield Frame(self.shot, file.path.name, stored.jpeg, stored.width, stored.height, boxes)
        raise_problems(
            problems,
            what=f"frames of shot {self.cls}/{self.video}/{self.shot} cannot be read",
            where=self.files[0].path.parent,
            fix="replace the files or take them out of frames.csv, then build again",
        )


@dataclass
class _Table:
    """What was found while the tables were read."""

    folder: Path
    problems: list[str] = field(default_factory=list)
    shots: dict[tuple[str, str, str], list[_FrameFile]] = field(default_factory=lambda: defaultdict(list))
    splits: dict[tuple[str, str, str], set[str]] = field(default_factory=lambda: defaultdict(set))
    split_of: dict[str, str] = field(default_factory=dict)
    clipped: int = 0


def read_frames_csv(folder: Path, rule: PictureRule) -> Inputs:
    """Read the tables and check them against the headers of all pictures.

    Raises:
        DataError: a table cannot be read, or (one error for all) a file is absent, not a JPEG, listed twice, of another
            size or at another place than the table says, or a box is empty, inverted, doubled, or outside its picture.
    """
    table = _Table(folder)
    rows = list(read_rows(folder / "frames.csv", ("split", "path", "class", "width", "height")))
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
    problem = _misplaced(table, row, path)
    if path is None or problem:
        table.problems.append(f"{row.where}: {problem}")
        return
    table.split_of[row["path"]] = row["split"]
    file = table.folder / path
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
    key = (path.parts[0], path.parts[1], path.parts[2])
    table.splits[key].add(row["split"])
    table.shots[key].append(_FrameFile(file, header.width, header.height, stat.st_size, stat.st_mtime_ns, tuple(kept)))


def _misplaced(table: _Table, row: Row, path: object) -> str:
    """What is wrong with the place of a picture, or an empty string."""
    parts = row["path"].split("/")
    if path is None or len(parts) != 4 or not all(parts):
        return f"path '{row['path']}' is not class/video/shot/frame.jpg"
    if parts[0] != row["class"]:
        return f"class '{row['class']}' does not match path '{row['path']}'"
    if row["split"] not in SPLITS:
        return f"split '{row['split']}' is none of {', '.join(SPLITS)}"
    if row["path"] in table.split_of:
        return f"{row['path']} is listed twice"
    return ""


def _unit(table: _Table, key: tuple[str, str, str], files: list[_FrameFile], rule: PictureRule) -> _ShotOfFiles:
    files = sorted(files, key=lambda file: natural_key(file.path.name))
    facts = [[file.path.name, file.bytes, file.mtime_ns, file.boxes] for file in files]
    (split,) = table.splits[key]
    estimated = 0
    for file in files:
        width, height = rule.size(file.width, file.height)
        estimated += file.bytes * (width * height) // (file.width * file.height)
    return _ShotOfFiles(split, *key, estimated, fingerprint_of(facts), tuple(files))


def _warnings(table: _Table) -> Iterator[str]:
    if table.clipped:
        yield f"{table.clipped} boxes reached more than a pixel beyond their picture and were clipped to it"
    splits_of_video: dict[str, set[str]] = defaultdict(set)
    for (cls, video, _), splits in table.splits.items():
        splits_of_video[f"{cls}/{video}"] |= splits
    shared = sorted(video for video, splits in splits_of_video.items() if len(splits) > 1)
    if shared:
        yield f"{len(shared)} videos are in several splits, which makes results too good: {', '.join(shared[:5])}"
