"""Settings of boxes and scores."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from colocam_dist.config.section import Fraction, Positive, Section
from colocam_dist.config.stages import CamName

__all__ = ["Evaluation"]


class Evaluation(Section):
    """Boxes and CorLoc as published, under three threshold rules."""

    iou: Fraction = 0.5
    thresholds: Annotated[int, Field(ge=2, le=10000)] = 1000
    validation_thresholds: Annotated[int, Field(ge=2, le=10000)] = 250
    validate_every: Positive = 1  # epochs
    bootstrap: Annotated[int, Field(ge=0)] = 1000
    batch: Positive = 32
    cams: Annotated[tuple[CamName, ...], Field(min_length=1)] = ("layercam",)  # of stage 1, each scored by itself

    @field_validator("cams", mode="after")
    @classmethod
    def _different(cls, cams: tuple[CamName, ...]) -> tuple[CamName, ...]:
        if len(set(cams)) < len(cams):
            raise ValueError("a method is named twice")
        return cams
