"""What all sections of settings have in common. Units: sides in pixels, fractions in (0, 1]."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

__all__ = ["Fraction", "NonNegative", "Positive", "Section"]

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(gt=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]


class Section(BaseModel):
    """A group of settings: unknown keys are refused and values stay checked after creation."""

    model_config = ConfigDict(extra="forbid", validate_default=True, frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _home(cls, value: Any, info: ValidationInfo) -> Any:
        """``~`` of paths: in ``run.folder=~/runs`` no shell replaces it."""
        kind = cls.model_fields[info.field_name or ""].annotation
        is_path = kind is Path or Path in get_args(kind)
        return Path(value).expanduser() if is_path and isinstance(value, str | Path) else value
