"""What all sections of settings have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Positive", "Section"]

Positive = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A group of settings: unknown keys are refused and values stay checked after creation."""

    model_config = ConfigDict(extra="forbid", validate_default=True, frozen=True)
