"""Settings of boxes and scores."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from colocam_dist.config.section import Fraction, Positive, Section

__all__ = ["Evaluation"]


class Evaluation(Section):
    """Boxes and CorLoc as published, under three threshold rules."""

    iou: Fraction = 0.5
    thresholds: Annotated[int, Field(ge=2, le=10000)] = 1000
    validation_thresholds: Annotated[int, Field(ge=2, le=10000)] = 250
    validate_every: Positive = 1  # epochs
    bootstrap: Annotated[int, Field(ge=0)] = 1000
    batch: Positive = 32
