"""What every source hands to the planner and the writer."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from colocam_dist.errors import DataError
from shards.images import PictureRule

__all__ = [
    "SPLITS",
    "Box",
    "Frame",
    "Inputs",
    "Unit",
    "fingerprint_of",
    "natural_key",
    "raise_problems",
    "scale_boxes",
    "share_out",
]

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels, origin top left."""

SPLITS = ("train", "val", "test")
"""The splits that a dataset may have, in order."""


@dataclass(frozen=True)
class Frame:
    """One frame as it is stored.

    Attributes:
        shot: name of its shot within the video.
        name: original file name, or number in the video.
        jpeg: the bytes that are stored.
        width: pixels.
        height: pixels.
        boxes: ground truth in pixels of the stored frame.
    """

    shot: str
    name: str
    jpeg: bytes
    width: int
    height: int
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class Unit(ABC):
    """The smallest piece of input that goes into one shard as a whole; picklable.

    Attributes:
        split: "train", "val" or "test".
        cls: class name.
        video: name of the video, unique within its class.
        shot: name of the shot; empty if the unit is a video whose shots are found while it is read.
        estimated_bytes: about how many bytes it will take, guessed from the input alone.
        fingerprint: changes whenever the input changes.
    """

    split: str
    cls: str
    video: str
    shot: str
    estimated_bytes: int
    fingerprint: str

    @abstractmethod
    def frames(self, rule: PictureRule, warn: Callable[[str], None]) -> Iterator[Frame]:
        """Yield the frames in order, those of a shot without interruption.

        Args:
            rule: how frames are stored.
            warn: called with everything that the user should know and that does not stop the build.

        Raises:
            DataError: the input cannot be read.
        """


@dataclass(frozen=True)
class Inputs:
    """All that a source found.

    Attributes:
        units: in any order.
        classes: all classes, sorted, whichever splits are written.
        settings: options of the source that shape the output (JSON).
        receipt: what was read and left out (JSON), kept in the manifest.
        warnings: what the user should know.
        estimate_excess: the factor by which the units' estimated bytes may be too high; 1 = about right.
    """

    units: tuple[Unit, ...]
    classes: tuple[str, ...]
    settings: dict[str, Any]
    receipt: dict[str, Any]
    warnings: tuple[str, ...] = field(default=())
    estimate_excess: float = 1.0


def fingerprint_of(*facts: Any) -> str:
    """Sha256 (hex) over facts that JSON can hold."""
    return sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key under which "frame2" comes before "frame10"."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return tuple((0, int(part), part) if part[0] in "0123456789" else (1, 0, part) for part in parts)


def raise_problems(problems: Iterable[str], *, what: str, where: Path, fix: str) -> None:
    """Raise one error about all problems, of which the first 20 are shown; do nothing if there are none.

    Raises:
        DataError: there is at least one problem.
    """
    found = list(problems)
    if found:
        shown = "".join(f"\n    {problem}" for problem in found[:20])
        rest = f"\n    ... and {len(found) - 20} more" if len(found) > 20 else ""
        raise DataError(f"{what}: {len(found)} problem{'s' * (len(found) > 1)}", where=where, got=shown + rest, fix=fix)


def scale_boxes(boxes: Iterable[Box], before: tuple[int, int], after: tuple[int, int]) -> tuple[Box, ...]:
    """Boxes of a frame of size ``before`` (width, height) in pixels of the same frame resized to ``after``."""
    x, y = after[0] / before[0], after[1] / before[1]
    return tuple((round(x0 * x, 3), round(y0 * y, 3), round(x1 * x, 3), round(y1 * y, 3)) for x0, y0, x1, y1 in boxes)


def share_out(count: int, fractions: dict[str, float]) -> list[str]:
    """Splits of ``count`` items in order: the first ones train, then val, then test.

    Args:
        count: number of items.
        fractions: shares of the splits, summing to 1. If "train" has a share, it gets at least one item.
    """
    ends = np.rint(np.cumsum([fractions.get(split, 0.0) for split in SPLITS]) * count)
    if fractions.get("train"):
        ends = np.maximum(ends, 1)
    return [SPLITS[int(np.searchsorted(ends, position, side="right"))] for position in range(count)]
