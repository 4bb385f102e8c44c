"""Lists of videos, and the tables beside them: splits, boxes, cuts."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from colocam_dist.errors import DataError
from colocam_dist.files import VIDEO_SUFFIXES
from shards.sources.base import SPLITS, Box, natural_key, share_out
from shards.sources.tables import inner_path, parse_box, read_rows
from shards.sources.video_unit import Cuts

__all__ = [
    "DEFAULT_FRACTIONS",
    "Findings",
    "Listed",
    "assign_splits",
    "is_folder",
    "list_folder",
    "list_table",
    "read_boxes",
    "read_cuts",
]

DEFAULT_FRACTIONS = {"train": 0.7, "val": 0.15, "test": 0.15}


@dataclass
class Listed:
    """A video before it was opened: where it is listed, path below the root, class, split ("" = to be assigned)."""

    where: str
    path: PurePosixPath
    cls: str
    split: str


@dataclass
class Findings:
    root: Path
    problems: list[str] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    clipped: int = 0


def list_folder(root: Path) -> list[Listed]:
    files = [
        path
        for path in root.glob("[!.]*/[!.]*")  # hidden files are no videos, whatever their suffix
        if path.suffix.lower() in VIDEO_SUFFIXES and not is_folder(path)
    ]
    files.sort(key=lambda path: (path.parent.name, natural_key(path.name)))
    return [
        Listed(str(path.relative_to(root)), PurePosixPath(path.relative_to(root).as_posix()), path.parent.name, "")
        for path in files
    ]


def is_folder(path: Path) -> bool:
    """Not so of links that lead nowhere, and of what may not be looked at: these are reported, not passed over."""
    try:
        return path.is_dir()
    except OSError:
        return False


def list_table(table: Path, findings: Findings) -> list[Listed]:
    listed = []
    for row in read_rows(table, ("path", "class"), ("split",)):
        path = inner_path(row["path"])
        split = row.values.get("split", "")
        if path is None or not row["class"] or "/" in row["class"]:
            findings.problems.append(f"{row.where}: wanted a path below {findings.root} and a class")
        elif "split" in row.values and split not in SPLITS:
            findings.problems.append(f"{row.where}: split '{split}' is none of {', '.join(SPLITS)}")
        else:
            listed.append(Listed(row.where, path, row["class"], split))
    listed.sort(key=lambda video: (video.cls, natural_key(str(video.path))))
    return listed


def assign_splits(listed: list[Listed], fractions: dict[str, float] | None, place: Path) -> dict[str, float]:
    """Give the videos of each class, in sorted order, to train, val and test; each class has a training video.

    Returns:
        The shares by which they were assigned; empty if the table says it.
    """
    if any(video.split for video in listed):
        if fractions is not None:
            raise DataError("the table has a column split, and --splits gives shares as well", where=place)
        return {}
    shares = fractions or DEFAULT_FRACTIONS
    by_class: dict[str, list[Listed]] = defaultdict(list)
    for video in listed:
        by_class[video.cls].append(video)
    for videos in by_class.values():
        for video, split in zip(videos, share_out(len(videos), shares), strict=True):
            video.split = split
    return shares


def read_boxes(findings: Findings, paths: set[str], offset: int) -> dict[str, list[tuple[str, int, Box]]]:
    boxes: dict[str, list[tuple[str, int, Box]]] = defaultdict(list)
    table = findings.root / "boxes.csv"
    if not table.is_file():
        return boxes
    for row in read_rows(table, ("path", "frame", "x0", "y0", "x1", "y1")):
        box = parse_box(row)
        if isinstance(box, str):
            findings.problems.append(box)
        elif row["path"] not in paths:
            findings.problems.append(f"{row.where}: {row['path']} is none of the videos")
        elif not row["frame"].isdecimal() or int(row["frame"]) + offset < 0:
            findings.problems.append(f"{row.where}: '{row['frame']}' is not the number of a frame")
        else:
            boxes[row["path"]].append((row.where, int(row["frame"]) + offset, box))
    return boxes


def read_cuts(findings: Findings, paths: set[str], wanted: Cuts) -> dict[str, list[int]]:
    """First frames of new shots by path; in "auto", only videos with rows are there."""
    table = findings.root / "cuts.csv"
    if wanted == "table" and not table.is_file():
        raise DataError("there is no table of cuts", where=table, wanted="the columns path,frame", fix="change --cuts")
    if wanted not in ("auto", "table") or not table.is_file():
        return {}
    cuts: dict[str, list[int]] = {path: [] for path in paths} if wanted == "table" else {}
    for row in read_rows(table, ("path", "frame")):
        if row["path"] not in paths:
            findings.problems.append(f"{row.where}: {row['path']} is none of the videos")
        elif not row["frame"].isdecimal() or int(row["frame"]) == 0:
            findings.problems.append(f"{row.where}: '{row['frame']}' is not the number of a frame after the first")
        elif int(row["frame"]) in cuts.setdefault(row["path"], []):
            findings.problems.append(f"{row.where}: the cut at frame {row['frame']} stands there twice")
        else:
            cuts[row["path"]].append(int(row["frame"]))
    return {path: sorted(frames) for path, frames in cuts.items()}
