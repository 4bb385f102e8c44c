"""Ways from the maps of a whole shot to boxes: the paper's, which looks at each frame alone, and those past it.

T frames of a shot, S thresholds, k boxes of a frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from colocam_dist.config.evaluation import Evaluation, Instances, Viterbi
from colocam_dist.evaluation.boxes import box_at, boxes_over_thresholds
from colocam_dist.inference.instances import InstanceBoxes, instance_boxes
from colocam_dist.inference.shots import ShotMaps
from colocam_dist.inference.smoothing import smooth_each, smooth_maps
from colocam_dist.inference.timeline import TimedMap, Timeline
from colocam_dist.inference.viterbi import choose_boxes, find_candidates, path_boxes

__all__ = ["FrameBoxes", "GridWay", "InstanceWay", "PathWay", "Way", "clip_boxes", "clip_instances", "each_box"]

Boxes = NDArray[np.int16]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FrameBoxes:
    """What a way says about one frame.

    Attributes:
        over_S4: int16 ``[S, 4]``, its box at each of its thresholds.
        chosen_k4: int16 ``[k, 4]``, its answer, the best box first; a box of zeros says that there is none.
    """

    over_S4: Boxes
    chosen_k4: Boxes


class Way(Protocol):
    """From the maps of a shot to boxes, in two steps of which only the first one is timed: it is what users pay for."""

    @property
    def threshold(self) -> float:
        """tau of its answer."""

    @property
    def thresholds_S(self) -> Floats:
        """float64 ``[S]``, those at which it has one box each, `threshold` among them; empty for several boxes."""

    def prepare(self, shot: ShotMaps) -> Any:
        """Everything beyond the published rule."""

    def boxes(self, prepared: Any, t: int) -> FrameBoxes:
        """The boxes of the shot's frame `t`."""


@dataclass(frozen=True)
class GridWay:
    """The published rule at every threshold of a grid, on maps that are smoothed over time first if sigma is not 0.

    Attributes:
        thresholds_S: the grid.
        threshold: that of the answer, one of the grid.
        sigma: as for :func:`smooth_maps`.
    """

    thresholds_S: Floats
    threshold: float
    sigma: float = 0.0

    def prepare(self, shot: ShotMaps) -> NDArray[np.float32]:
        """The maps, smoothed."""
        return smooth_maps(shot.maps_THW, shot.timeline, self.sigma)

    def boxes(self, prepared: NDArray[np.float32], t: int) -> FrameBoxes:
        """The box of the largest contour."""
        over_S4 = boxes_over_thresholds(prepared[t], self.thresholds_S)
        place = int(np.abs(self.thresholds_S - self.threshold).argmin())
        return FrameBoxes(over_S4, over_S4[place : place + 1])


@dataclass(frozen=True)
class PathWay:
    """The cheapest path through candidate boxes: one box per frame, and no threshold to choose afterwards.

    Attributes:
        threshold: the validation threshold.
        rule: the energy.
    """

    threshold: float
    rule: Viterbi

    @property
    def thresholds_S(self) -> Floats:
        """The validation threshold alone."""
        return np.array([self.threshold])

    def prepare(self, shot: ShotMaps) -> Boxes:
        """The path."""
        return path_boxes(shot.maps_THW, shot.timeline, self.threshold, self.rule)

    def boxes(self, prepared: Boxes, t: int) -> FrameBoxes:
        """Where the path is."""
        return FrameBoxes(prepared[t : t + 1], prepared[t : t + 1])


@dataclass(frozen=True)
class InstanceWay:
    """Several boxes per frame; CorLoc does not apply to them, for it would count the best one.

    Attributes:
        threshold: the validation threshold.
        rule: which regions count.
    """

    threshold: float
    rule: Instances

    @property
    def thresholds_S(self) -> Floats:
        """None."""
        return np.zeros(0)

    def prepare(self, shot: ShotMaps) -> list[Boxes]:
        """The boxes of all frames."""
        return [instance_boxes(map_HW, self.threshold, self.rule).boxes_k4 for map_HW in shot.maps_THW]

    def boxes(self, prepared: list[Boxes], t: int) -> FrameBoxes:
        """All of them."""
        return FrameBoxes(np.zeros((0, 4), np.int16), prepared[t])


def clip_boxes(maps_THW: NDArray[np.float32], timeline: Timeline, threshold: float, settings: Evaluation) -> Boxes:
    """One box per frame of a whole clip or shot, by ``evaluation.smoothing``.

    Args:
        maps_THW: float32 ``[T, H, W]`` in [0, 1], in order.
        timeline: of :func:`make_timeline`, with ``evaluation.cut``.
        threshold: tau; with smoothing "maps" the one that validation chose for smoothed maps.
        settings: the section ``evaluation``.

    Returns:
        int16 ``[T, 4]`` as x0, y0, x1, y1 in pixels of the map; zeros where nothing exceeds the threshold.

    Raises:
        ValueError: a map is not finite or not in [0, 1], or the numbers of frames differ.
    """
    if len(maps_THW) != len(timeline):
        raise ValueError(f"clip_boxes: wanted one map for each frame, got {len(maps_THW)} for {len(timeline)}")
    frames = map(TimedMap, timeline.numbers_T.tolist(), timeline.segments_T.tolist(), maps_THW)
    return np.array(list(each_box(frames, threshold, settings)), np.int16).reshape(-1, 4)


def each_box(frames: Iterable[TimedMap], threshold: float, settings: Evaluation) -> Iterator[Boxes]:
    """The boxes of :func:`clip_boxes`, each int16 ``[4]``, for maps that come one after another.

    They need not fit into memory. One map is held without smoothing, with ``maps`` those within three sigmas. With
    ``viterbi`` it is candidates, less than 2 kB a frame, and the first box comes when all frames have been seen.

    Args:
        frames: in the order of time.
        threshold: see there.
        settings: see there.
    """
    if settings.smoothing != "viterbi":
        sigma = settings.maps.sigma if settings.smoothing == "maps" else 0.0
        yield from (box_at(map_HW, threshold) for map_HW in smooth_each(frames, sigma))
        return
    found, numbers, segments = [], [], []
    for frame in frames:
        found.append(find_candidates(frame.map_HW, threshold, settings.viterbi))
        numbers.append(frame.number)
        segments.append(frame.segment)
    timeline = Timeline(np.array(numbers, np.int64), np.array(segments, np.int64))
    yield from choose_boxes(found, timeline, settings.viterbi)


def clip_instances(maps_THW: NDArray[np.float32], threshold: float, settings: Evaluation) -> list[InstanceBoxes]:
    """Several boxes per frame, by ``evaluation.instances``; frame by frame, for they are not followed over time.

    Arguments and errors as in :func:`clip_boxes`.
    """
    return [instance_boxes(map_HW, threshold, settings.instances) for map_HW in maps_THW]
