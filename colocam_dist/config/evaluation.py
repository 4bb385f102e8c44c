"""Settings of boxes and scores."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from colocam_dist.config.section import Fraction, NonNegative, Positive, Section
from colocam_dist.config.stages import CamName

__all__ = ["Consistency", "Evaluation", "Instances", "MapSmoothing", "Viterbi"]

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class MapSmoothing(Section):
    """evaluation.smoothing=maps: means of maps over neighboring frames."""

    sigma: NonNegative = 2.0  # of the Gaussian weights, frames of the video


class Viterbi(Section):
    """evaluation.smoothing=viterbi: the cheapest path through candidate boxes."""

    pairwise: NonNegative = 1.0  # weight of a change between neighbors, beside a fit in [-1, 1]
    center: NonNegative = 0.0  # of the distance of centers, in diagonals, beside 1 - IoU
    scale: NonNegative = 0.0  # of the logarithm of the areas' ratio
    prior: NonNegative = 1.0  # of the distance from the validation threshold
    levels: Annotated[int, Field(ge=1, le=255)] = 9  # thresholds at which candidates are looked for
    min_area: Share = 0.005  # of the map, candidates below it are left out
    candidates: Annotated[int, Field(ge=1, le=1000)] = 40  # per frame


class Instances(Section):
    """evaluation.boxes=all: several boxes per frame."""

    split: Literal["none", "peaks", "distance"] = "none"  # how regions are divided that may hold several instances
    depth: Fraction = 0.25  # how far a peak must stand out, of the largest height in the region
    min_area: Share = 0.005  # of the map
    min_share: Share = 0.1  # of the frame's largest region
    min_score: Share = 0.5  # of the frame's best score, which is the mean of the map over the region
    overlap: Share = 0.5  # IoU above which the weaker box is dropped


class Consistency(Section):
    """How much the boxes of consecutive frames agree; measured where the data set is dense enough."""

    frames: Literal["labeled", "all", "none"] = "labeled"  # all: also those without boxes, of the same shots
    max_gap: Positive = 1  # largest distance of frame numbers that counts as consecutive


class Evaluation(Section):
    """Boxes and CorLoc as published, under three threshold rules; and, beyond the paper, whole shots and instances."""

    iou: Fraction = 0.5  # least IoU of a box that counts as right
    thresholds: Annotated[int, Field(ge=2, le=10000)] = 1000  # of the map, evenly spaced, when a split is scored
    validation_thresholds: Annotated[int, Field(ge=2, le=10000)] = 250  # and after each epoch
    validate_every: Positive = 1  # epochs
    bootstrap: Annotated[int, Field(ge=0)] = 1000  # draws of videos for the 95 % intervals; 0 = no intervals
    batch: Positive = 32
    cams: tuple[CamName, ...] = ("layercam",)  # of stage 1, each scored by itself
    smoothing: Literal["none", "maps", "viterbi"] = "none"
    cut: Share = 0.6  # similarity of colors of neighboring frames below which smoothing stops; 0 = never
    maps: MapSmoothing = MapSmoothing()
    viterbi: Viterbi = Viterbi()
    boxes: Literal["largest", "all"] = "largest"
    instances: Instances = Instances()
    consistency: Consistency = Consistency()

    @field_validator("cams", mode="after")
    @classmethod
    def _different(cls, cams: tuple[CamName, ...]) -> tuple[CamName, ...]:
        if len(set(cams)) < len(cams):
            raise ValueError("a method is named twice")
        return cams
