"""A video as input: from its frames to shots."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from colocam_dist.errors import ConfigError, DataError
from shards.cuts import find_cuts, find_cuts_by_scenedetect
from shards.images import PictureRule
from shards.sources.base import Box, Frame, Unit, scale_boxes
from shards.sources.video_files import VideoFacts, decode, decode_timed

__all__ = ["Cuts", "VideoFile", "VideoOptions"]

Cuts = Literal["auto", "table", "scenedetect", "histogram", "none"]


@dataclass(frozen=True)
class VideoOptions:
    """How videos become shots.

    Attributes:
        cuts: how shots are found. "table": those of cuts.csv, and a video without rows is one shot; "scenedetect":
            PySceneDetect; "histogram": the built-in detector; "none": each video is one shot; "auto": the table for
            videos that are in it, and for others PySceneDetect if it is installed, else the built-in detector.
        every: keeps the frames 0, every, 2 x every, ... of a video.
        fps: keeps the first frame at or after 0, 1/fps, 2/fps, ... seconds; None keeps all. Not together with every.
        strict: stop if a video cannot be used, instead of leaving it out, listed in the manifest.
        box_offset: added to the frame numbers of boxes.csv, for boxes that were counted another way.
        fractions: shares of the splits, by which the videos of a class are assigned in sorted order; None = the table's
            column "split", or the default shares if there is none.

    Raises:
        ConfigError: every or fps is not above 0, or both are given.
    """

    cuts: Cuts = "auto"
    every: int = 1
    fps: float | None = None
    strict: bool = False
    box_offset: int = 0
    fractions: dict[str, float] | None = None

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ConfigError("the distance of the frames that are kept is not above 0", got=f"every {self.every}")
        if self.fps is not None and not (math.isfinite(self.fps) and self.fps > 0):
            raise ConfigError("the rate at which frames are kept is not above 0", got=f"fps {self.fps}")
        if self.fps is not None and self.every != 1:
            raise ConfigError(
                "frames are thinned out in two ways",
                got=f"every {self.every}, {self.fps} frames per second",
                fix="give --every or --fps, not both",
            )


@dataclass(frozen=True)
class VideoFile(Unit):
    path: Path
    options: VideoOptions
    facts: VideoFacts
    boxes: tuple[tuple[int, Box], ...]
    method: Cuts  # never "auto"
    cuts: tuple[int, ...]  # of the table

    def frames(self, rule: PictureRule, warn: Callable[[str], None]) -> Iterator[Frame]:
        boxes: dict[int, list[Box]] = defaultdict(list)
        for number, box in self.boxes:
            boxes[number].append(box)
        cuts = self._find_cuts()
        keep = _Thinning(self.options.every, self.options.fps)
        shot, number, dropped = 0, -1, 0
        for number, (image, seconds) in enumerate(decode_timed(self.path)):
            shot += number in cuts
            here = boxes.pop(number, [])
            if not keep(number, seconds):
                dropped += len(here)
                continue
            stored = rule.encode(image)
            scaled = scale_boxes(here, (image.shape[1], image.shape[0]), (stored.width, stored.height))
            yield Frame(f"{shot:04d}", f"{number:06d}", stored.jpeg, stored.width, stored.height, scaled)
        decoded = number + 1
        for name, beyond in (("boxes.csv", min(boxes, default=-1)), ("cuts.csv", max(self.cuts, default=-1))):
            if beyond >= decoded:
                raise DataError(
                    f"{name} names frame {beyond}, which the video does not have",
                    where=self.path,
                    got=f"{decoded} frames, counted from 0",
                    fix=f"correct {name}" + (", or shift its numbers with --box-offset" if name == "boxes.csv" else ""),
                )
        if not decoded:
            warn(f"{self.cls}/{self.video}: none of its frames could be decoded, though its first one could before")
        elif decoded < 0.9 * self.facts.frames:
            warn(f"{self.cls}/{self.video}: {decoded} frames, though its header promises {self.facts.frames}")
        if dropped:
            warn(f"{self.cls}/{self.video}: {dropped} boxes lie on frames that are left out")
        if keep.late and self.options.strict:
            raise DataError(
                "the times of a video's frames do not increase, and --fps needs them",
                where=self.path,
                got=f"{keep.late} of {decoded} frames that are not later than one before them",
                fix="give --every instead of --fps, or leave out --strict",
            )
        if keep.late:
            warn(
                f"{self.cls}/{self.video}: {keep.late} of {decoded} frames are left out because their times are not "
                "later than those of frames before them"
            )

    def _find_cuts(self) -> set[int]:
        if self.method == "table":
            return set(self.cuts)
        if self.method == "scenedetect":
            return set(find_cuts_by_scenedetect(decode(self.path), self.facts.fps or 25.0))
        return set(find_cuts(decode(self.path))) if self.method == "histogram" else set()


class _Thinning:
    """Which frames are kept; asked for every frame in order.

    Attributes:
        late: frames so far whose time is not later than that of all frames before them; by rate, none of them is kept.
    """

    def __init__(self, every: int, fps: float | None) -> None:
        self._every = every
        self._fps = fps
        self._due = 0  # number of the next moment 0, 1/fps, 2/fps, ...
        self._latest = -math.inf
        self.late = 0

    def __call__(self, number: int, seconds: float) -> bool:
        if self._fps is None:
            return number % self._every == 0
        self.late += seconds <= self._latest
        self._latest = max(self._latest, seconds)
        # Times are rounded to the stream's own ticks: a frame that is due may come a little early.
        if (seconds + 1e-3) * self._fps < self._due:
            return False
        self._due = int((seconds + 1e-3) * self._fps) + 1
        return True
