"""YouTube-Objects v1.0, raw: ``<class>/data/<video>/shots/<shot>/frameNNNN.jpg``, with ``<class>/sets/train.txt`` and
``test.txt`` (videos) and a box file ``frameNNNN.jpg_sticks.mat`` beside each labeled frame.

Splits by the rules of the public CoLo-CAM code: test videos are those of test.txt; of the train videos of class number
c that have boxes, sorted, shuffled 1000 times by Python's ``random`` seeded with c, the first five are validation, and
all others are training videos. Their boxes are not used.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path

from colocam_dist.data.jpeg import read_jpeg_header
from colocam_dist.errors import DataError
from shards.images import PictureRule
from shards.sources.base import Box, Inputs, natural_key, raise_problems
from shards.sources.matlab import read_boxes, read_variable
from shards.sources.youtube_folds import read_folds
from shards.sources.youtube_objects import (
    CLASSES,
    Counts,
    Key,
    OtherLayout,
    RawFrame,
    Selection,
    YoutubeObjectsOptions,
    check_classes,
    inputs_of,
)

__all__ = ["PUBLISHED", "read_youtube_objects_v1", "validation_videos"]

_RELEASE = "youtube-objects-v1"
_STICKS = "_sticks.mat"

PUBLISHED = {
    "train": Counts(
        2768, 78, 2768, 0, (545, 91, 301, 41, 109, 85, 621, 179, 265, 531), (6, 8, 10, 2, 12, 4, 15, 7, 6, 8)
    ),
    "val": Counts(325, 50, 325, 347, (57, 28, 41, 55, 27, 31, 17, 27, 32, 10), (5,) * 10),
    "test": Counts(
        346, 27, 346, 396, (84, 27, 37, 33, 33, 21, 37, 31, 27, 16), (), (84, 27, 43, 37, 35, 43, 39, 45, 27, 16)
    ),
}
"""Counts of the published folds."""

_DIGESTS = {"train": "ae3d6dc349a684a5", "val": "8b7a3757bb29bcca", "test": "52e91b82e236c742"}


def read_youtube_objects_v1(
    root: Path, rule: PictureRule, options: YoutubeObjectsOptions, expected: dict[str, Counts] | None = None
) -> Inputs:
    """Read the raw tree.

    Args:
        root: the folder in which the class archives were unpacked.
        rule: how frames are stored.
        options: folds, and what may be missing.
        expected: counts to compare with; None = the published ones.

    Raises:
        DataError: another layout, missing or contradictory files (all are named), or counts that differ.
    """
    classes, missing = check_classes(root, "YouTube-Objects v1.0", _other_layout(root), options.allow_partial)
    tree = _Tree(root)
    if options.folds is not None:
        selection = read_folds(options.folds, _DIGESTS, _parse)
    else:
        selection = _by_the_rules(tree, classes, options.allow_partial)
    selection.left_out += [f"class {name}" for name in missing]
    return inputs_of(_RELEASE, root, selection, tree.frames, expected or PUBLISHED, rule, options)


def validation_videos(labeled: list[str], label: int) -> list[str]:
    """The validation videos among the train videos of a class that have boxes (public code's rule)."""
    videos = sorted(labeled)
    # Python keeps the results of seeded shuffles since 3.2.
    shuffler = random.Random(label)
    for _ in range(1000):
        shuffler.shuffle(videos)
    return videos[:5]


def _other_layout(root: Path) -> OtherLayout | None:
    """What the folder looks like if it is not a raw tree of v1.0."""
    wanted = f"{root}/<class>/data/<video>/shots/<shot>/frameNNNN.jpg and {root}/<class>/sets/train.txt"
    new = (root / "Ranges").is_dir() or (root / "GroundTruth").is_dir()
    old = any((root / name / "data").is_dir() for name in CLASSES)
    if new:
        mixed = "both releases in one folder" if old else "Ranges/ or GroundTruth/, as YouTube-Objects v2.2 has them"
        return OtherLayout(mixed, wanted)
    if not old and any((root / name).is_dir() for name in CLASSES):
        return OtherLayout("class folders without data/", wanted)
    return None


class _Tree:
    """The raw folders; each shot is listed once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._shots: dict[Key, tuple[list[RawFrame], list[str]]] = {}

    def shots(self, cls: str, video: str) -> list[str]:
        """Names of the shot folders of a video, sorted.

        Raises:
            DataError: the video is not there.
        """
        folder = self.root / cls / "data" / video / "shots"
        try:
            return sorted((entry.name for entry in os.scandir(folder) if entry.is_dir()), key=natural_key)
        except OSError as error:
            raise DataError("a video is not there", where=folder, got=error.strerror) from error

    def frames(self, key: Key) -> tuple[list[RawFrame], list[str]]:
        """The pictures of a shot, sorted by name, and what is missing of it (which nothing tells in this release)."""
        return self._list(key)[0], []

    def sticks(self, key: Key) -> list[str]:
        """Names of the frames of a shot that have a box file."""
        return self._list(key)[1]

    def folder(self, key: Key) -> Path:
        """Where a shot lies."""
        return self.root / key[0] / "data" / key[1] / "shots" / key[2]

    def _list(self, key: Key) -> tuple[list[RawFrame], list[str]]:
        if key not in self._shots:
            frames, sticks = [], []
            folder = self.folder(key)
            for entry in os.scandir(folder) if folder.is_dir() else ():
                if entry.name.endswith(".jpg"):
                    stat = entry.stat()
                    frames.append(RawFrame(Path(entry.path), stat.st_size, stat.st_mtime_ns))
                elif entry.name.endswith(_STICKS):
                    sticks.append(entry.name.removesuffix(_STICKS))
            self._shots[key] = sorted(frames, key=lambda frame: frame.path.name), sorted(sticks)
        return self._shots[key]


def _by_the_rules(tree: _Tree, classes: list[str], partial: bool) -> Selection:
    sets, sticks = f"{tree.root}/<class>/sets", f"box files frameNNNN.jpg{_STICKS} beside the frames of their videos"
    selection = Selection(
        places={
            "train": f"{sets}/train.txt with videos beyond the five for validation",
            "val": f"{sets}/train.txt and {sticks}",
            "test": f"{sets}/test.txt and {sticks}",
        }
    )
    problems: list[str] = []
    for cls in classes:
        shots: dict[str, list[tuple[str, list[str]]]] = {"train": [], "test": []}
        for split in shots:
            for video in _videos(tree.root / cls / "sets" / f"{split}.txt", problems):
                try:
                    shots[split].append((video, tree.shots(cls, video)))
                except DataError as error:
                    what = f"{error.where}: {error.got}"
                    (selection.left_out if partial else problems).append(what)
        both = {video for video, _ in shots["train"]} & {video for video, _ in shots["test"]}
        problems += [f"{cls}: video {video} is in train.txt and in test.txt" for video in sorted(both)]
        labeled = [video for video, names in shots["train"] if any(tree.sticks((cls, video, name)) for name in names)]
        validation = set(validation_videos(labeled, CLASSES.index(cls)))
        for video, names in shots["train"]:
            _select(tree, selection, "val" if video in validation else "train", cls, video, names, problems)
        for video, names in shots["test"]:
            _select(tree, selection, "test", cls, video, names, problems)
    raise_problems(
        problems, what="the raw tree of YouTube-Objects v1.0 is not whole", where=tree.root, fix="unpack it again"
    )
    return selection


def _select(
    tree: _Tree, selection: Selection, split: str, cls: str, video: str, names: list[str], problems: list[str]
) -> None:
    for name in names:
        key = (cls, video, name)
        if split == "train":
            if tree.frames(key)[0]:  # some shots of the release are empty
                selection.shots["train"][key] = {}
            continue
        labeled = {}
        for frame in tree.sticks(key):
            try:
                labeled[frame] = _boxes(tree.folder(key) / frame)
            except (DataError, ValueError) as error:
                problems.append(str(error))
        if labeled:
            selection.shots[split][key] = labeled


def _boxes(frame: Path) -> list[Box]:
    """Boxes of a labeled frame, with the two repairs of the public code."""
    path = frame.with_name(frame.name + _STICKS)
    boxes = read_boxes(read_variable(path, "coor"), str(path))
    if not boxes:
        raise ValueError(f"{path}: no boxes")
    place = frame.parts[-6:]
    if place == ("horse", "data", "0004", "shots", "055", "frame0020.jpg"):  # left and right are swapped
        boxes = [(min(x0, x1), y0, max(x0, x1), y1) for x0, y0, x1, y1 in boxes]
    if place == ("boat", "data", "0006", "shots", "026", "frame0001.jpg") and frame.is_file():  # wider than the frame
        try:
            with frame.open("rb") as stream:
                last = float(read_jpeg_header(stream).width - 1)
        except (OSError, ValueError) as error:
            raise ValueError(f"{frame}: {error}") from error
        boxes = [(x0, y0, last if x1 > last + 1 else x1, y1) for x0, y0, x1, y1 in boxes]
    return boxes


def _videos(path: Path, problems: list[str]) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{path}: {error.strerror if isinstance(error, OSError) else error}")
        return []
    videos = [line for line in lines if line]
    problems += [f"{path}: '{line}' is not the number of a video" for line in videos if not line.isdecimal()]
    # A video that is listed twice would change what the shuffle makes validation videos.
    problems += [
        f"{path}: video {video} is listed {count} times" for video, count in Counter(videos).items() if count > 1
    ]
    return [line for line in videos if line.isdecimal()]


def _parse(name: str, is_shot: bool) -> tuple[Key, str] | None:
    parts = name.split("/")
    if len(parts) != (5 if is_shot else 6) or (parts[1], parts[3]) != ("data", "shots") or ".." in parts:
        return None
    return (parts[0], parts[2], parts[4]), "" if is_shot else parts[5]
