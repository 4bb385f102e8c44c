"""How the frames of a shot, or of a clip that is not divided into shots, follow each other in time.

T frames, B histogram bins, H and W the size of a map in pixels.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["SegmentCounter", "TimedMap", "Timeline", "color_histograms", "frame_numbers", "make_timeline"]

_LEVELS = 8  # per color channel
_STRIDE = 2  # every second pixel of every second row is enough for a histogram
_NUMBER = re.compile(r"(\d+)(?:\.[A-Za-z]+)?$")


@dataclass(frozen=True)
class Timeline:
    """Times of frames. Frames of different segments have a cut between them and nothing to do with each other.

    Attributes:
        numbers_T: int64 ``[T]``, numbers in the video, strictly ascending.
        segments_T: int64 ``[T]``, 0 for the first segment, then counting up.
    """

    numbers_T: NDArray[np.int64]
    segments_T: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.numbers_T.shape != self.segments_T.shape or self.numbers_T.ndim != 1:
            got = f"{self.numbers_T.shape} and {self.segments_T.shape}"
            raise ValueError(f"Timeline: wanted a number and a segment for each frame, got shapes {got}")
        if (np.diff(self.numbers_T) <= 0).any() or (np.diff(self.segments_T) < 0).any():
            raise ValueError("Timeline: wanted frames in the order of time, each once; sort them by number")

    def __len__(self) -> int:
        return len(self.numbers_T)


class TimedMap(NamedTuple):
    """One frame of a timeline: its number, its segment, and its map, float32 ``[H, W]`` in [0, 1]."""

    number: int
    segment: int
    map_HW: NDArray[np.float32]


class SegmentCounter:
    """Segments of frames that come one after another; the same as :func:`make_timeline` finds when it has them all.

    Args:
        cut: as for :func:`make_timeline`.
    """

    def __init__(self, cut: float) -> None:
        self._cut = cut
        self._segment = 0
        self._before_B: NDArray[np.float32] | None = None

    def next(self, image_CHW: NDArray[np.uint8]) -> int:
        """The segment of the next frame, uint8 ``[3, H, W]``."""
        if not self._cut:
            return 0
        colors_B = color_histograms(image_CHW[None])[0]
        if self._before_B is not None and _common(self._before_B, colors_B) < self._cut:
            self._segment += 1
        self._before_B = colors_B
        return self._segment


def make_timeline(
    numbers_T: NDArray[np.int64], histograms_TB: NDArray[np.float32] | None = None, cut: float = 0.0
) -> Timeline:
    """The timeline of frames in order, divided where colors change abruptly.

    Args:
        numbers_T: int64 ``[T]``, strictly ascending.
        histograms_TB: of :func:`color_histograms`; None looks for no cuts.
        cut: similarity (the common part of the histograms of two neighbors, 0 to 1) below which there is a cut between
            them; 0 = never.

    Raises:
        ValueError: numbers that do not ascend, or another number of histograms.
    """
    segments_T = np.zeros(len(numbers_T), np.int64)
    if histograms_TB is not None:
        if len(histograms_TB) != len(numbers_T):
            got = f"{len(histograms_TB)} for {len(numbers_T)}"
            raise ValueError(f"make_timeline: wanted one histogram for each frame, got {got}")
        segments_T[1:] = np.cumsum(_common(histograms_TB[:-1], histograms_TB[1:]) < cut)
    return Timeline(np.asarray(numbers_T, np.int64), segments_T)


def color_histograms(images_NCHW: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Joint histograms of red, green and blue: float32 ``[N, 512]``, each of sum 1.

    Args:
        images_NCHW: uint8 ``[N, 3, H, W]``.
    """
    counts_NB = np.zeros((len(images_NCHW), _LEVELS**3), np.float32)
    for counts_B, image_CHW in zip(counts_NB, images_NCHW[:, :, ::_STRIDE, ::_STRIDE], strict=True):
        red, green, blue = (image_CHW // (256 // _LEVELS)).reshape(3, -1).astype(np.int64)
        bins_P = (red * _LEVELS + green) * _LEVELS + blue
        counts_B[:] = np.bincount(bins_P, minlength=_LEVELS**3) / len(bins_P)
    return counts_NB


def frame_numbers(names: Sequence[str]) -> NDArray[np.int64]:
    """Numbers of a shot's frames, int64 ``[T]``: those that their names end with ("frame0012.jpg" is 12).

    Where a name has none, or they do not ascend, frames are counted from 0: then all neighbors are one frame apart.
    """
    found = [_NUMBER.search(name) for name in names]
    numbers = [int(match.group(1)) for match in found if match is not None and len(match.group(1)) < 19]
    numbers_T = np.array(numbers, np.int64)
    if len(numbers) < len(names) or (np.diff(numbers_T) <= 0).any():
        return np.arange(len(names), dtype=np.int64)
    return numbers_T


def _common(before_xB: NDArray[np.float32], after_xB: NDArray[np.float32]) -> NDArray[np.float32]:
    """The common part of histograms, over the last axis."""
    return np.asarray(np.minimum(before_xB, after_xB).sum(-1), np.float32)
