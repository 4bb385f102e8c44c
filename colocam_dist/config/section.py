"""What all sections of settings have in common. Units: sides in pixels, fractions in (0, 1]."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Fraction", "NonNegative", "Positive", "Section"]

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(gt=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]


class Section(BaseModel):
    """A group of settings: unknown keys are refused and values stay checked after creation."""

    model_config = ConfigDict(extra="forbid", validate_default=True, frozen=True)
