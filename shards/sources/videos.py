"""Video files in folders class/video.mp4, or listed in a CSV with the columns path, class and, if wanted, split.

Videos are decoded from their first frame to their last, never by seeking: positions reached by seeking, and the frame
count in the header, are wrong for some files. A frame's number is its position in this order, counted from 0. A file
``boxes.csv`` with the columns path, frame, x0, y0, x1, y1 may lie beside the videos; boxes are in pixels of the decoded
frame, paths below the folder of the table.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from colocam_dist.errors import DataError
from shards.cuts import find_cuts
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
    share_out,
)
from shards.sources.tables import fit_box, inner_path, parse_box, read_rows

__all__ = ["DEFAULT_FRACTIONS", "VideoOptions", "decode", "read_videos"]

DEFAULT_FRACTIONS = {"train": 0.7, "val": 0.15, "test": 0.15}

_SUFFIXES = (".avi", ".mkv", ".mov", ".mp4", ".webm")
_BYTES_PER_PIXEL = 0.35  # of a JPEG of quality 95, roughly


@dataclass(frozen=True)
class VideoOptions:
    """How videos become shots.

    Attributes:
        cuts: "histogram" looks for shot cuts, "none" takes each video as one shot.
        every: keeps the frames 0, every, 2 x every, ... of a video.
        skip_bad: leave out videos that cannot be decoded, and list them in the manifest, instead of stopping.
        box_offset: added to the frame numbers of boxes.csv, for boxes that were counted another way.
        fractions: shares of the splits, by which the videos of a class are assigned in sorted order; None = the table's
            column "split", or the default shares if there is none.
    """

    cuts: Literal["histogram", "none"] = "histogram"
    every: int = 1
    skip_bad: bool = False
    box_offset: int = 0
    fractions: dict[str, float] | None = None


@dataclass(frozen=True)
class _VideoFile(Unit):
    path: Path
    options: VideoOptions
    reported_frames: int
    boxes: tuple[tuple[int, Box], ...]

    def frames(self, rule: PictureRule, warn: Callable[[str], None]) -> Iterator[Frame]:
        boxes: dict[int, list[Box]] = defaultdict(list)
        for number, box in self.boxes:
            boxes[number].append(box)
        cuts = set(find_cuts(decode(self.path))) if self.options.cuts == "histogram" else set()
        shot, number, dropped = 0, -1, 0
        for number, image in enumerate(decode(self.path)):
            shot += number in cuts
            here = boxes.pop(number, [])
            if number % self.options.every:
                dropped += len(here)
                continue
            stored = rule.encode(image)
            scaled = scale_boxes(here, (image.shape[1], image.shape[0]), (stored.width, stored.height))
            yield Frame(f"{shot:04d}", f"{number:06d}", stored.jpeg, stored.width, stored.height, scaled)
        decoded = number + 1
        if boxes:
            raise DataError(
                f"boxes.csv names frame {min(boxes)}, which the video does not have",
                where=self.path,
                got=f"{decoded} frames, counted from 0",
                fix="correct boxes.csv, or shift its numbers with --box-offset",
            )
        if decoded < 0.9 * self.reported_frames:
            warn(f"{self.cls}/{self.video}: {decoded} frames, though its header promises {self.reported_frames}")
        if dropped:
            warn(f"{self.cls}/{self.video}: {dropped} boxes lie on frames that --every {self.options.every} leaves out")


@dataclass
class _Listed:
    """A video before it was opened: where it is listed, path below the root, class, split ("" = to be assigned)."""

    where: str
    path: PurePosixPath
    cls: str
    split: str


@dataclass
class _Findings:
    root: Path
    problems: list[str] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    clipped: int = 0


def read_videos(place: Path, rule: PictureRule, options: VideoOptions) -> Inputs:
    """List the videos of a folder or a CSV file, assign splits, open each video once and check its boxes.

    Raises:
        DataError: no videos; a table that cannot be read; or (one error for all) videos that cannot be decoded or have
            the same name, unknown splits, boxes that are inverted or outside the picture.
    """
    findings = _Findings(place.parent if place.is_file() else place)
    listed = _from_table(place, findings) if place.is_file() else _from_folder(place)
    if not listed and not findings.problems:
        raise DataError(
            "there are no videos",
            where=place,
            wanted=f"class/video with one of {' '.join(_SUFFIXES)}, or a CSV file with the columns path,class",
        )
    _assign_splits(listed, options.fractions, place)
    boxes = _read_boxes(findings, {str(video.path) for video in listed}, options.box_offset)
    units, names = [], set()
    for video in listed:
        name = (video.cls, video.path.stem)
        if name in names:
            findings.problems.append(f"{video.where}: class '{video.cls}' has two videos called '{video.path.stem}'")
        names.add(name)
        unit = _open(findings, video, rule, options, boxes.get(str(video.path), []))
        if unit:
            units.append(unit)
    raise_problems(
        findings.problems, what="videos cannot be used", where=place, fix="correct the input; nothing was written"
    )
    if not units:
        raise DataError("no video can be decoded", where=place, got=f"{len(listed)} videos, all damaged")
    return Inputs(
        units=tuple(units),
        classes=tuple(sorted({unit.cls for unit in units})),
        settings={
            "source": "videos",
            "cuts": options.cuts,
            "every": options.every,
            "box_offset": options.box_offset,
        },
        receipt={
            "kind": "videos",
            "videos": len(units),
            "skipped_videos": findings.skipped,
            "clipped_boxes": findings.clipped,
        },
        warnings=tuple(_warnings(findings)),
    )


def decode(path: Path) -> Iterator[NDArray[np.uint8]]:
    """All frames of a video in order: uint8 BGR [H, W, 3], upright. Ends at the first frame that cannot be decoded."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        while True:
            there, image = capture.read()
            if not there:
                return
            yield image
    finally:
        capture.release()


def _from_folder(root: Path) -> list[_Listed]:
    files = [
        path
        for path in root.glob("[!.]*/[!.]*")  # hidden files are no videos, whatever their suffix
        if path.suffix.lower() in _SUFFIXES and path.is_file()
    ]
    files.sort(key=lambda path: (path.parent.name, natural_key(path.name)))
    return [
        _Listed(str(path.relative_to(root)), PurePosixPath(path.relative_to(root).as_posix()), path.parent.name, "")
        for path in files
    ]


def _from_table(table: Path, findings: _Findings) -> list[_Listed]:
    listed = []
    for row in read_rows(table, ("path", "class"), ("split",)):
        path = inner_path(row["path"])
        split = row.values.get("split", "")
        if path is None or not row["class"] or "/" in row["class"]:
            findings.problems.append(f"{row.where}: wanted a path below {findings.root} and a class")
        elif "split" in row.values and split not in SPLITS:
            findings.problems.append(f"{row.where}: split '{split}' is none of {', '.join(SPLITS)}")
        else:
            listed.append(_Listed(row.where, path, row["class"], split))
    listed.sort(key=lambda video: (video.cls, natural_key(str(video.path))))
    return listed


def _assign_splits(listed: list[_Listed], fractions: dict[str, float] | None, place: Path) -> None:
    """Give the videos of each class, in sorted order, to train, val and test; each class has a training video."""
    if any(video.split for video in listed):
        if fractions is not None:
            raise DataError("the table has a column split, and --splits gives shares as well", where=place)
        return
    shares = fractions or DEFAULT_FRACTIONS
    by_class: dict[str, list[_Listed]] = defaultdict(list)
    for video in listed:
        by_class[video.cls].append(video)
    for videos in by_class.values():
        for video, split in zip(videos, share_out(len(videos), shares), strict=True):
            video.split = split


def _read_boxes(findings: _Findings, paths: set[str], offset: int) -> dict[str, list[tuple[str, int, Box]]]:
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


def _open(
    findings: _Findings,
    video: _Listed,
    rule: PictureRule,
    options: VideoOptions,
    boxes: list[tuple[str, int, Box]],
) -> _VideoFile | None:
    """Decode the first frame of a video and check its boxes; None if that is not possible."""
    path = findings.root / video.path
    facts = _first_frame(path)
    if isinstance(facts, str):
        if options.skip_bad:
            findings.skipped.append({"path": str(video.path), "why": facts})
        else:
            findings.problems.append(f"{video.path}: {facts}")
        return None
    width, height, reported = facts
    kept = []
    for where, number, box in boxes:
        fitted = fit_box(box, width, height)
        if isinstance(fitted, str):
            findings.problems.append(f"{where}: {fitted}")
        else:
            kept.append((number, fitted[0]))
            findings.clipped += fitted[1]
    stat = path.stat()
    stored = rule.size(width, height)
    return _VideoFile(
        split=video.split,
        cls=video.cls,
        video=video.path.stem,
        shot="",
        estimated_bytes=int(max(reported, 1) / options.every * stored[0] * stored[1] * _BYTES_PER_PIXEL),
        fingerprint=fingerprint_of(str(video.path), stat.st_size, stat.st_mtime_ns, kept),
        path=path,
        options=options,
        reported_frames=reported,
        boxes=tuple(kept),
    )


def _first_frame(path: Path) -> tuple[int, int, int] | str:
    """Width, height, and the frame count that the header claims; or why the video cannot be used."""
    if not path.is_file():
        return "no such file"
    if not path.stat().st_size:
        return "the file is empty"
    image: Any = next(decode(path), None)
    if image is None:
        return "no frame can be decoded"
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    reported = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    capture.release()
    return image.shape[1], image.shape[0], reported


def _warnings(findings: _Findings) -> Iterator[str]:
    if findings.clipped:
        yield f"{findings.clipped} boxes reached more than a pixel beyond their picture and were clipped to it"
    for video in findings.skipped:
        yield f"left out {video['path']}: {video['why']}"
