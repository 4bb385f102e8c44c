"""YouTube-Objects v2.2, raw: ``<class>/NNNNNNNN.jpg``, ``Ranges/ranges_<class>.mat`` (first frame, last frame and video
of each shot) and ``GroundTruth/<class>/bb_gtTraining_<class>.mat`` and ``bb_gtTest_<class>.mat``.

Splits by the rules of the public CoLo-CAM code: a video is for training or for testing by the ground truth that its
frames are in, and is dropped if they are in neither; the first three training videos of a class, in the order of the
ranges, are validation. Shots are numbered from 0 within their class. A frame that two shots have (horse 00038465) is a
frame of both, but its boxes belong to the later one.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from colocam_dist.errors import DataError
from shards.images import PictureRule
from shards.sources.base import Box, Inputs, raise_problems
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

__all__ = ["PUBLISHED", "read_youtube_objects_v2"]

_RELEASE = "youtube-objects-v2.2"

PUBLISHED = {
    "train": Counts(
        1289, 76, 1289, 0, (292, 49, 104, 62, 100, 36, 121, 90, 209, 226), (4, 7, 9, 3, 12, 6, 13, 8, 6, 8)
    ),
    "val": Counts(1177, 30, 177, 1177, (14, 112, 49, 468, 90, 154, 87, 73, 98, 32), (3,) * 10),
    "test": Counts(
        1781,
        49,
        334,
        2667,
        (170, 155, 144, 363, 141, 140, 164, 181, 165, 158),
        (),
        (180, 162, 233, 605, 165, 315, 173, 463, 213, 158),
    ),
}
"""Counts of the published folds."""

_DIGESTS = {"train": "ea2f5c77f2741df9", "val": "c209d7cc51c5b78c", "test": "93efcaa36bf12a64"}
_GROUND_TRUTH = ("bb_gtTraining", "bb_gtTest")


class _Shot(NamedTuple):
    """A column of the ranges: video number, first and last frame (inclusive)."""

    video: int
    first: int
    last: int


def read_youtube_objects_v2(
    root: Path, rule: PictureRule, options: YoutubeObjectsOptions, expected: dict[str, Counts] | None = None
) -> Inputs:
    """Read the raw tree.

    Args:
        root: the folder in which the archives (classes, Ranges, GroundTruth) were unpacked.
        rule: how frames are stored.
        options: folds, and what may be missing.
        expected: counts to compare with; None = the published ones.

    Raises:
        DataError: another layout, missing or contradictory files (all are named), or counts that differ.
    """
    classes, missing = check_classes(root, "YouTube-Objects v2.2", _other_layout(root), options.allow_partial)
    tree = _Tree(root, classes)
    if options.folds is not None:
        selection = read_folds(options.folds, _DIGESTS, _parse)
    else:
        selection = _by_the_rules(tree, classes)
    selection.left_out += [f"class {name}" for name in missing]
    return inputs_of(_RELEASE, root, selection, tree.frames, expected or PUBLISHED, rule, options)


def _other_layout(root: Path) -> OtherLayout | None:
    """What the folder looks like if it is not a raw tree of v2.2."""
    wanted = f"{root}/<class>/NNNNNNNN.jpg, {root}/Ranges and {root}/GroundTruth"
    new = (root / "Ranges").is_dir()
    old = any((root / name / "data").is_dir() for name in CLASSES)
    if old:
        mixed = "both releases in one folder" if new else "<class>/data, as YouTube-Objects v1.0 has it"
        return OtherLayout(mixed, wanted)
    return None if new else OtherLayout(f"no folder {root / 'Ranges'}", wanted)


class _Tree:
    """Shots by the ranges, and the frames that are there."""

    def __init__(self, root: Path, classes: list[str]) -> None:
        self.root = root
        self.shots: dict[str, list[_Shot]] = {}
        problems: list[str] = []
        for cls in classes:
            try:
                self.shots[cls] = _ranges(root / "Ranges" / f"ranges_{cls}.mat")
            except DataError as error:
                problems.append(f"{error.where}: {error.what}: {error.got}")
        raise_problems(problems, what="ranges cannot be used", where=root / "Ranges", fix="unpack Ranges again")
        self._there: dict[str, dict[str, RawFrame]] = {}

    def key(self, cls: str, number: int) -> Key:
        """Class, video and shot, named as in the official ids."""
        return cls, f"video-{self.shots[cls][number].video:04d}", f"shot-{number:06d}"

    def frames(self, key: Key) -> tuple[list[RawFrame], list[str]]:
        """The pictures of a shot in order, and what is missing of it."""
        cls, number = key[0], int(key[2].removeprefix("shot-"))
        if cls not in self.shots or number >= len(self.shots[cls]) or self.key(cls, number) != key:
            return [], [f"shot {'/'.join(key)} is not in Ranges/"]
        there = self._list(cls)
        names = [f"{frame:08d}.jpg" for frame in range(self.shots[cls][number].first, self.shots[cls][number].last + 1)]
        missing = [f"{self.root / cls / name} of shot {'/'.join(key)}" for name in names if name not in there]
        return [there[name] for name in names if name in there], missing

    def _list(self, cls: str) -> dict[str, RawFrame]:
        if cls not in self._there:
            self._there[cls] = {}
            for entry in os.scandir(self.root / cls):
                if entry.name.endswith(".jpg"):
                    stat = entry.stat()
                    self._there[cls][entry.name] = RawFrame(Path(entry.path), stat.st_size, stat.st_mtime_ns)
        return self._there[cls]


def _ranges(path: Path) -> list[_Shot]:
    values = np.asarray(read_variable(path, "ranges"))
    if values.ndim != 2 or values.shape[0] != 3 or values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        got = f"shape {values.shape} of {values.dtype}"
        raise DataError("the ranges of a class are damaged", where=path, got=got, wanted="3 x shots of finite numbers")
    shots = [_Shot(int(video), int(first), int(last)) for first, last, video in values.T]
    bad = [number for number, shot in enumerate(shots) if not 0 <= shot.first <= shot.last < 10**8]
    if bad:
        raise DataError("a shot has no frames", where=path, got=f"shot {bad[0]}: {values[:, bad[0]].tolist()}")
    return shots


def _by_the_rules(tree: _Tree, classes: list[str]) -> Selection:
    truth = f"{tree.root}/GroundTruth/<class>"
    selection = Selection(
        places={
            "train": f"{truth}/bb_gtTraining_<class>.mat with frames of more than three videos",
            "val": f"{truth}/bb_gtTraining_<class>.mat with boxes",
            "test": f"{truth}/bb_gtTest_<class>.mat with boxes",
        }
    )
    problems: list[str] = []
    for cls in classes:
        shots = tree.shots[cls]
        later = {frame: number for number, shot in enumerate(shots) for frame in range(shot.first, shot.last + 1)}
        labeled: dict[str, dict[int, dict[str, list[Box]]]] = {}  # by ground truth, shot and file name
        truths_of: dict[int, set[str]] = defaultdict(set)
        for name in _GROUND_TRUTH:
            labeled[name] = defaultdict(dict)
            for frame, boxes in _ground_truth(
                tree.root / "GroundTruth" / cls / f"{name}_{cls}.mat", name, cls, problems
            ):
                truths_of[frame].add(name)
                if frame not in later:
                    problems.append(f"{name}_{cls}.mat: frame {frame:08d} is in no shot of Ranges/")
                elif boxes:
                    labeled[name][later[frame]][f"{frame:08d}.jpg"] = boxes
                else:  # says which split its video is in, but there is nothing to evaluate
                    selection.left_out.append(f"{name}_{cls}.mat: frame {frame:08d} has no boxes")
        of_video: dict[int, set[str]] = {}
        for shot in shots:
            frames = range(shot.first, shot.last + 1)
            of_video.setdefault(shot.video, set()).update(*(truths_of[frame] for frame in frames if frame in truths_of))
        problems += [
            f"{cls}: video {video} is in both ground truths" for video, names in of_video.items() if len(names) > 1
        ]
        training = [video for video, names in of_video.items() if names == {_GROUND_TRUTH[0]}]
        for number, shot in enumerate(shots):
            key = tree.key(cls, number)
            if shot.video in training[3:]:
                selection.shots["train"][key] = {}
            elif shot.video in training[:3] and number in labeled[_GROUND_TRUTH[0]]:
                selection.shots["val"][key] = labeled[_GROUND_TRUTH[0]][number]
            elif of_video[shot.video] == {_GROUND_TRUTH[1]} and number in labeled[_GROUND_TRUTH[1]]:
                selection.shots["test"][key] = labeled[_GROUND_TRUTH[1]][number]
    raise_problems(problems, what="ranges and ground truth do not agree", where=tree.root, fix="unpack them again")
    return selection


def _ground_truth(path: Path, name: str, cls: str, problems: list[str]) -> list[tuple[int, list[Box]]]:
    """Frame numbers and boxes."""
    try:
        entries = read_variable(path, name)
    except DataError as error:
        problems.append(f"{path}: {error.what}: {error.got}")
        return []
    found: list[tuple[int, list[Box]]] = []
    seen: set[int] = set()
    for entry in entries.ravel():
        try:
            identity, boxes = (entry[0], entry[1])
            text = str(np.asarray(identity).ravel()[0])
            match = re.fullmatch(re.escape(cls) + r"(\d{8})", text)
            if match is None or int(match[1]) in seen:
                problems.append(
                    f"{path.name}: '{text}' is {'not a frame of ' + cls if match is None else 'there twice'}"
                )
                continue
            seen.add(int(match[1]))
            found.append((int(match[1]), read_boxes(boxes, f"{path.name}: {text}")))
        except (ValueError, IndexError, TypeError, KeyError) as error:
            problems.append(f"{path.name}: {error}")
    return found


def _parse(name: str, is_shot: bool) -> tuple[Key, str] | None:
    match = re.fullmatch(r"([a-z]+)/(video-\d{4})/(shot-\d{6})" + ("()" if is_shot else r"/(\d{8}\.jpg)"), name)
    return None if match is None else ((match[1], match[2], match[3]), match[4])
