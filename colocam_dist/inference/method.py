"""One way to make maps, with what it scored."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from colocam_dist.evaluation.corloc import CorLoc, FrameScores
from colocam_dist.inference.score import MapMaker

__all__ = ["Method"]


@dataclass(frozen=True)
class Method:
    """One way to make maps, scored on the evaluated split.

    Attributes:
        name: "layercam" or "localizer".
        model: the network, on the device, in eval mode.
        maps: makes its maps.
        scores: its frames.
        result: its figures.
        seconds_per_frame: network, map and box at one threshold, without reading the frames.
    """

    name: str
    model: nn.Module
    maps: MapMaker
    scores: FrameScores
    result: CorLoc
    seconds_per_frame: float
