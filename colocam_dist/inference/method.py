"""One way to make maps, before and after it was scored."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from colocam_dist.evaluation.corloc import CorLoc, FrameScores
from colocam_dist.inference.score import MapMaker

__all__ = ["MapSource", "Method"]


@dataclass(frozen=True)
class MapSource:
    """One way to make maps.

    Attributes:
        name: that of a CAM method, such as "layercam", or "localizer".
        identity: the name with the settings of the method, if it has any.
        model: the network.
        maps: makes its maps.
    """

    name: str
    identity: str
    model: nn.Module
    maps: MapMaker


@dataclass(frozen=True)
class Method(MapSource):
    """One way to make maps, scored on the evaluated split. Its model is on the device, in eval mode.

    Attributes:
        scores: its frames.
        result: its figures.
        seconds_per_frame: network, map and box at one threshold, without reading the frames.
    """

    scores: FrameScores
    result: CorLoc
    seconds_per_frame: float
