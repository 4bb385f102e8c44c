"""From what the network sees in the frames of a clip to rows: one box a frame, or several, alone or smoothed over time.

Frames pass through one after another. What is held is said by :func:`colocam_dist.inference.ways.each_box`; rows, of
which there is one for each box, are small.

Shape suffixes: H and W the size of an input frame, S the side of the network's square, k boxes of a frame.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from colocam_dist.config.evaluation import Evaluation
from colocam_dist.errors import ConfigError
from colocam_dist.inference.instances import instance_boxes
from colocam_dist.inference.rows import FramePrediction
from colocam_dist.inference.timeline import SegmentCounter, TimedMap
from colocam_dist.inference.ways import each_box

__all__ = ["BoxOptions", "BoxRule", "SeenFrame", "clip_rows"]

_CHOICES = {"smoothing": ("none", "maps", "viterbi"), "boxes": ("largest", "all")}


@dataclass(frozen=True)
class BoxOptions:
    """What is asked for; everything else is in the run's settings ``evaluation``.

    Attributes:
        threshold: map threshold tau in (0, 1), relative to each map's maximum; None takes the run's own.
        smoothing: "none", "maps" or "viterbi", as ``evaluation.smoothing`` has it.
        boxes: "largest" or "all", as ``evaluation.boxes`` has it; all are looked for in each frame by itself.

    Raises:
        ConfigError: an unknown word, or several boxes with smoothing.
    """

    threshold: float | None = None
    smoothing: str = "none"
    boxes: str = "largest"

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise ConfigError("unknown word", where=name, got=getattr(self, name), wanted=", ".join(known))
        if self.boxes == "all" and self.smoothing != "none":
            raise ConfigError(
                "several boxes per frame are not followed over time",
                got=f"boxes=all, smoothing={self.smoothing}",
                wanted="boxes=largest or smoothing=none",
            )


@dataclass(frozen=True)
class BoxRule:
    """How boxes are made.

    Attributes:
        threshold: tau.
        origin: where it is from: "given", "single frames" or "smoothed maps" (of the validation split).
        settings: the section ``evaluation`` with `smoothing` and `boxes` as asked for.
    """

    threshold: float
    origin: str
    settings: Evaluation

    def facts(self) -> dict[str, Any]:
        """All settings beside the threshold that decide about boxes, json-able; empty for the published rule."""
        settings = self.settings
        if settings.boxes == "all":
            return {"boxes": "all", "instances": settings.instances.model_dump(mode="json")}
        if settings.smoothing == "none":
            return {}
        way = getattr(settings, settings.smoothing).model_dump(mode="json")
        return {"smoothing": settings.smoothing, "cut": settings.cut, settings.smoothing: way}

    def boxes(self, frames: Iterable[SeenFrame]) -> Iterator[NDArray[np.int16]]:
        """The boxes of each frame of a clip, int16 ``[k, 4]`` in pixels of the map, the best one first.

        A frame without any has one of zeros. Frames are numbered from 0, cuts are where colors change.
        """
        if self.settings.boxes == "all":
            for frame in frames:
                boxes_k4 = instance_boxes(frame.map_SS, self.threshold, self.settings.instances).boxes_k4
                yield boxes_k4 if len(boxes_k4) else np.zeros((1, 4), np.int16)
            return
        segments = SegmentCounter(self.settings.cut if self.settings.smoothing != "none" else 0.0)
        timed = (TimedMap(number, segments.next(frame.square_CHW), frame.map_SS) for number, frame in enumerate(frames))
        for box_4 in each_box(timed, self.threshold, self.settings):
            yield box_4[None]


class SeenFrame(NamedTuple):
    """One frame after the network, before its box.

    Attributes:
        picture_HWC: uint8 RGB ``[H, W, 3]``.
        square_CHW: uint8 RGB ``[3, S, S]``, what the network saw.
        map_SS: foreground probability, float32 ``[S, S]`` in [0, 1].
        prediction: clip, number, class and score; a box of zeros.
    """

    picture_HWC: NDArray[np.uint8]
    square_CHW: NDArray[np.uint8]
    map_SS: NDArray[np.float32]
    prediction: FramePrediction

    @property
    def scale_4(self) -> NDArray[np.float64]:
        """Pixels of the picture in one of the map, for x0, y0, x1, y1."""
        return np.array(self.picture_HWC.shape[1::-1] * 2, np.float64) / self.map_SS.shape[0]

    def with_map(self) -> FramePrediction:
        """The prediction with the map at the size of the picture."""
        height, width = self.picture_HWC.shape[:2]
        map_HW = cv2.resize(self.map_SS, (width, height), interpolation=cv2.INTER_LINEAR)
        return replace(self.prediction, map_HW=np.clip(map_HW, 0.0, 1.0))


def in_picture(boxes_k4: NDArray[Any], scale_4: NDArray[np.float64]) -> NDArray[np.float64]:
    """Boxes of a map in pixels of the picture, float64 ``[k, 4]``; their ends are the last pixels inside.

    A box of zeros stands for none and stays one. In a picture smaller than the map a box may be less than a pixel; its
    ends are then its beginnings.

    Args:
        boxes_k4: x0, y0, x1, y1 in pixels of the map.
        scale_4: see :attr:`SeenFrame.scale_4`.
    """
    starts_k2, ends_k2 = boxes_k4[:, :2] * scale_4[:2], (boxes_k4[:, 2:] + 1) * scale_4[2:] - 1.0
    found_k4 = np.concatenate([starts_k2, np.maximum(starts_k2, ends_k2)], 1)
    return np.where(boxes_k4.any(1, keepdims=True), found_k4, 0.0)


def clip_rows(frames: Iterable[SeenFrame], rule: BoxRule, *, maps: bool = False) -> Iterator[FramePrediction]:
    """The rows of a clip, in the order of frames, and within a frame the best box first.

    Args:
        frames: of one clip, in order.
        rule: says how boxes are made.
        maps: add the maps of the network (not the smoothed ones) at the size of the frames.
    """
    waiting: deque[tuple[FramePrediction, NDArray[np.float64]]] = deque()  # without their pictures

    def noted() -> Iterator[SeenFrame]:
        for frame in frames:
            waiting.append((frame.with_map() if maps else frame.prediction, frame.scale_4))
            yield frame

    several = rule.settings.boxes == "all"
    for boxes_k4 in rule.boxes(noted()):
        prediction, scale_4 = waiting.popleft()
        for place, (x0, y0, x1, y1) in enumerate(np.round(in_picture(boxes_k4, scale_4), 2).tolist()):
            yield replace(prediction, x0=x0, y0=y0, x1=x1, y1=y1, instance=place if several else None)
