"""Shots whose frames are picture files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from shards.images import PictureRule
from shards.sources.base import Box, Frame, Unit, fingerprint_of, raise_problems, scale_boxes

__all__ = ["FrameFile", "ShotOfFiles", "shot_of_files"]


@dataclass(frozen=True)
class FrameFile:
    """A picture: path, size in pixels, size in bytes, time stamp, boxes in its pixels.

    A frame without boxes may leave its own size open, and give that of another frame of its video.
    """

    path: Path
    width: int
    height: int
    bytes: int
    mtime_ns: int
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class ShotOfFiles(Unit):
    """A shot that was cut by somebody else; frames in the order of ``files``."""

    files: tuple[FrameFile, ...]

    def frames(self, rule: PictureRule, warn: Callable[[str], None]) -> Iterator[Frame]:
        """Yield the frames.

        Raises:
            DataError: files that cannot be read (all of the shot are named).
        """
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
            fix="replace the files or take them out of the input, then build again",
        )


def shot_of_files(split: str, key: tuple[str, str, str], files: list[FrameFile], rule: PictureRule) -> ShotOfFiles:
    """The unit of a shot (class, video, shot) with these frames, in this order."""
    facts = [[file.path.name, file.bytes, file.mtime_ns, file.boxes] for file in files]
    estimated = 0
    for file in files:
        width, height = rule.size(file.width, file.height)
        estimated += file.bytes * (width * height) // (file.width * file.height)
    return ShotOfFiles(split, *key, estimated, fingerprint_of(facts), tuple(files))
