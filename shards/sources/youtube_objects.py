"""What both releases of YouTube-Objects share: classes, official folds, published counts, and the way to units.

A release is read in two steps. First its raw tree and annotations (or the official fold files) say which shots and
labeled frames each split has: a *selection*. Then :func:`inputs_of` finds the files, checks the counts against the
published ones, and makes the units. Sources: Prest et al., CVPR 2012 (v1.0); Kalogeiton et al., PAMI 2016 (v2.2); the
splits are those of the public CoLo-CAM code.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from colocam_dist.data.jpeg import read_jpeg_header
from colocam_dist.errors import DataError
from shards.images import PictureRule
from shards.sources.base import SPLITS, Box, Inputs, raise_problems
from shards.sources.shot_files import FrameFile, ShotOfFiles, shot_of_files
from shards.sources.tables import fit_box

__all__ = [
    "CLASSES",
    "Counts",
    "Key",
    "OtherLayout",
    "RawFrame",
    "Selection",
    "YoutubeObjectsOptions",
    "check_classes",
    "inputs_of",
]

_log = logging.getLogger(__name__)

CLASSES = ("aeroplane", "bird", "boat", "car", "cat", "cow", "dog", "horse", "motorbike", "train")
"""The ten classes; their positions are the labels of the official folds."""

Key = tuple[str, str, str]
"""Class, video and shot."""


FramesOf = Callable[["Key"], tuple[list["RawFrame"], list[str]]]
"""The frames of a shot in order ([] if it has none), and what is missing of it."""


@dataclass(frozen=True)
class YoutubeObjectsOptions:
    """How a raw tree is read.

    Attributes:
        folds: folder of the official fold files, with train/, val/ and test/; None makes the splits by their rules.
        allow_partial: go on, with a warning, if something is missing and counts differ from the published ones.
        evaluation_frames: "labeled" stores the frames of val and test that have boxes; "all" every frame of the shots
            that have such a frame.
    """

    folds: Path | None = None
    allow_partial: bool = False
    evaluation_frames: Literal["labeled", "all"] = "labeled"


@dataclass(frozen=True)
class Counts:
    """What a split has: ids (shots of train, labeled frames of val and test), videos, shots, boxes, ids per class.

    Videos and boxes per class are compared only where they are published; () = they are not.
    """

    ids: int
    videos: int
    shots: int
    boxes: int
    per_class: tuple[int, ...]
    videos_per_class: tuple[int, ...] = ()
    boxes_per_class: tuple[int, ...] = ()


@dataclass(frozen=True)
class RawFrame:
    """A picture of the raw tree: path, bytes, time stamp."""

    path: Path
    bytes: int
    mtime_ns: int


@dataclass
class Selection:
    """Which shots a split has, and the boxes of their labeled frames by file name (none in train).

    Attributes:
        shots: by split.
        places: the files that say what a split has, by split, for messages.
        left_out: what is missing in the raw tree, for the receipt.
        facts: what else the receipt should say.
        warnings: what the user should know.
    """

    shots: dict[str, dict[Key, dict[str, list[Box]]]] = field(default_factory=lambda: {split: {} for split in SPLITS})
    places: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class OtherLayout:
    """What a folder looks like that is not the raw tree of a release, and the paths that were expected in it."""

    got: str
    wanted: str


def check_classes(
    root: Path, release: str, other: OtherLayout | None, allow_partial: bool
) -> tuple[list[str], list[str]]:
    """The classes whose folders are there, and those whose folders are not.

    Args:
        root: folder of the raw tree.
        release: the release that is wanted, for messages.
        other: what the folder looks like instead, if it does not look like this release.
        allow_partial: whether classes may be missing.

    Raises:
        DataError: no such folder; another release; no class, or not all of them.
    """
    if not root.is_dir():
        raise DataError("there is no such folder", where=root, wanted=f"the raw tree of {release}")
    if other:
        raise DataError(
            f"this is not the raw tree of {release}",
            where=root,
            got=other.got,
            wanted=other.wanted,
            fix="see docs/data.md",
        )
    there = [name for name in CLASSES if (root / name).is_dir()]
    missing = [name for name in CLASSES if name not in there]
    if not there or (missing and not allow_partial):
        raise DataError(
            f"{len(missing)} of the ten class folders are missing",
            where=root,
            got=", ".join(there) or "none",
            wanted=", ".join(str(root / name) for name in missing),
            fix="unpack the archives of these classes here" + (", or give --allow-partial" if there else ""),
        )
    return there, missing


def inputs_of(
    release: str,
    root: Path,
    selection: Selection,
    frames_of: FramesOf,
    expected: dict[str, Counts],
    rule: PictureRule,
    options: YoutubeObjectsOptions,
) -> Inputs:
    """Find the files of a selection, compare with the published counts, make the units.

    Args:
        release: "youtube-objects-v1" or "youtube-objects-v2.2".
        root: folder of the raw tree, for messages.
        selection: what the splits have.
        frames_of: finds the frames of a shot.
        expected: published counts by split.
        rule: how frames are stored.
        options: what may be missing, and which frames of val and test are stored.

    Raises:
        DataError: boxes outside their frame, labeled frames that are missing, an empty split, or (unless partial data
            are allowed) counts that differ from the published ones, as a table.
    """
    found = _Files(selection, frames_of, rule, options)
    units = [unit for split in SPLITS for unit in found.units(split)]
    raise_problems(
        found.problems,
        what=f"frames and annotations of {release} do not agree",
        where=root,
        fix="unpack the archives again; nothing was written",
    )
    missing = list(selection.left_out)
    counts = {split: _count(selection, split, found.empty) for split in SPLITS}
    empty = [split for split in SPLITS if not counts[split].ids]
    if empty:
        raise DataError(
            f"split {', '.join(empty)} of {release} is empty",
            where=root,
            got="; ".join(selection.left_out[:5]) or "no shot of it is listed",
            wanted="; ".join(selection.places[split] for split in empty if split in selection.places) or None,
            fix="unpack the archives again",
        )
    table = _table(counts, expected)
    warnings = list(selection.warnings)
    if any(row.endswith("differs") for row in table):
        listing = "".join(f"\n    {row}" for row in table if row.endswith("differs"))
        absent = "".join(f"\n    missing: {name}" for name in missing[:20])
        if not options.allow_partial:
            raise DataError(
                f"the raw tree does not have what {release} is published to have",
                where=root,
                got="".join(f"\n    {row}" for row in table) + absent,
                fix="unpack all archives again, or give --allow-partial to go on with what is there",
            )
        warnings.append(f"counts differ from those of {release}:{listing}{absent}")
    for row in table:
        _log.info("%s", row)
    if found.clipped:
        warnings.append(f"{found.clipped} boxes reached more than a pixel beyond their frame and were clipped to it")
    return Inputs(
        units=tuple(units),
        classes=CLASSES,
        settings={"source": release, "evaluation_frames": options.evaluation_frames},
        receipt={
            "kind": release,
            **selection.facts,
            "counts": table,
            "left_out": missing,
            "clipped_boxes": found.clipped,
        },
        warnings=tuple(warnings),
    )


class _Files:
    """Finds files, sizes and boxes of the selected shots."""

    def __init__(
        self,
        selection: Selection,
        frames_of: FramesOf,
        rule: PictureRule,
        options: YoutubeObjectsOptions,
    ) -> None:
        self.problems: list[str] = []
        self.clipped = 0
        self.empty: set[Key] = set()
        self._selection = selection
        self._frames_of = frames_of
        self._rule = rule
        self._all = options.evaluation_frames == "all"
        self._partial = options.allow_partial
        self._size_of: dict[tuple[str, str], tuple[int, int]] = {}

    def units(self, split: str) -> Iterator[ShotOfFiles]:
        """One unit per shot of the split that has frames."""
        for key, labeled in self._selection.shots[split].items():
            frames, missing = self._frames_of(key)
            there = {frame.path.name for frame in frames}
            for name in sorted(labeled.keys() - there):
                missing.append(f"{'/'.join(key)}/{name} has boxes but no picture")
                del labeled[name]
            (self._selection.left_out if self._partial else self.problems).extend(missing)
            if split != "train" and not self._all:
                frames = [frame for frame in frames if frame.path.name in labeled]
            files = [file for frame in frames if (file := self._file(key, frame, labeled.get(frame.path.name, [])))]
            if files:
                yield shot_of_files(split, key, files, self._rule)
            else:
                self.empty.add(key)
                self._selection.left_out.append(f"{'/'.join(key)} has no frames")

    def _file(self, key: Key, frame: RawFrame, boxes: list[Box]) -> FrameFile | None:
        """The frame with its boxes; its header is read only for the first frame of a video and where boxes need it."""
        size = self._size_of.get(key[:2])
        if size is None or boxes:
            try:
                with frame.path.open("rb") as stream:
                    header = read_jpeg_header(stream)
            except (OSError, ValueError) as error:
                self.problems.append(f"{frame.path}: {error}")
                return None
            size = header.width, header.height
            self._size_of.setdefault(key[:2], size)
        kept = []
        for box in boxes:
            fitted = fit_box(box, *size) if box[0] < box[2] and box[1] < box[3] else f"box {box} is empty or inverted"
            if isinstance(fitted, str):
                self.problems.append(f"{frame.path}: {fitted}")
            else:
                kept.append(fitted[0])
                self.clipped += fitted[1]
        return FrameFile(frame.path, *size, frame.bytes, frame.mtime_ns, tuple(kept))


def _count(selection: Selection, split: str, empty: set[Key]) -> Counts:
    shots = {key: labeled for key, labeled in selection.shots[split].items() if key not in empty}
    ids: Counter[str] = Counter()
    boxes: Counter[str] = Counter()
    videos: dict[str, set[str]] = defaultdict(set)
    for key, labeled in shots.items():
        ids[key[0]] += 1 if split == "train" else len(labeled)
        boxes[key[0]] += sum(map(len, labeled.values()))
        videos[key[0]].add(key[1])
    return Counts(
        ids=sum(ids.values()),
        videos=sum(len(names) for names in videos.values()),
        shots=len(shots),
        boxes=sum(boxes.values()),
        per_class=tuple(ids[name] for name in CLASSES),
        videos_per_class=tuple(len(videos[name]) for name in CLASSES),
        boxes_per_class=tuple(boxes[name] for name in CLASSES),
    )


def _table(found: dict[str, Counts], expected: dict[str, Counts]) -> list[str]:
    """Lines "split quantity: found, published"; those that end in "differs" do."""
    rows = []
    for split in SPLITS:
        have, want = found[split], expected[split]
        pairs = [(name, getattr(have, name), getattr(want, name)) for name in ("ids", "videos", "shots", "boxes")]
        for what, mine_of, theirs_of in (
            ("ids", have.per_class, want.per_class),
            ("videos", have.videos_per_class, want.videos_per_class),
            ("boxes", have.boxes_per_class, want.boxes_per_class),
        ):
            if theirs_of:
                each = zip(CLASSES, mine_of, theirs_of, strict=True)
                pairs += [(f"{what} of {name}", mine, theirs) for name, mine, theirs in each]
        for name, mine, theirs in pairs:
            verdict = "" if mine == theirs else ": differs"
            rows.append(f"{split} {name}: found {mine}, published {theirs}{verdict}")
    return rows
