"""The dimensions of a study as a reader sees them: labels, texts of values, and scales."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tune.report.figures import number
from tune.report.points import PointResult, identity
from tune.results import StudyResult

__all__ = ["Dimension", "dimensions_of", "leading", "text"]

LABELS = {"data.n_frames": "n", "localizer.loss.colocalization.weight": "lambda_c"}  # the names in the paper
VAGUE = ("weight", "name")  # say nothing without the section they stand in
LOG_FROM = 30.0  # largest over smallest value from which on a scale is logarithmic
LINES = 6  # a dimension with more values is not told apart by color


@dataclass(frozen=True)
class Dimension:
    """An axis of the search space.

    Attributes:
        name: in the study.
        label: short name.
        values: that can occur or did, each once, numbers ascending; with the bounds of a range.
        numeric: all of them are finite numbers.
        scale: of numbers. "symlog" is logarithmic above the smallest positive value and has a place for 0.
        is_range: any number between bounds can occur.
    """

    name: str
    label: str
    values: tuple[Any, ...]
    numeric: bool
    scale: Literal["linear", "log", "symlog"]
    is_range: bool

    @property
    def smallest_positive(self) -> float:
        """Where the logarithmic part of "symlog" begins."""
        return min(value for value in self.values if value > 0)

    def key(self, point: Mapping[str, Any]) -> str | None:
        """Identity of a point's value; None if it has none, since the dimension is newer."""
        return identity(point[self.name]) if self.name in point else None

    def share(self, value: Any) -> float:
        """Where a value lies between the first (0) and the last (1) on the dimension's scale."""
        if not self.numeric:
            keys = [identity(one) for one in self.values]
            return keys.index(identity(value)) / (len(keys) - 1) if len(keys) > 1 else 0.5
        low, high = self._scaled(min(self.values)), self._scaled(max(self.values))
        return (self._scaled(value) - low) / (high - low) if high > low else 0.5

    def _scaled(self, value: float) -> float:
        if self.scale == "linear":
            return value
        if self.scale == "symlog" and value < self.smallest_positive:
            return math.log10(self.smallest_positive) - 0.5 * (1.0 - value / self.smallest_positive)
        return math.log10(value)


def text(value: Any) -> str:
    """A value in a few characters, as it would stand in the study's file."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.4g}"
    return json.dumps(value, default=str)


def dimensions_of(result: StudyResult) -> list[Dimension]:
    """The dimensions of a study, and then those that only its trials have."""
    names = list(dict.fromkeys([*result.dimensions, *(name for trial in result.trials for name in trial.point)]))
    return [_dimension(result, name, label) for name, label in _labels(names).items()]


def leading(dimensions: Sequence[Dimension], points: Sequence[PointResult]) -> Dimension | None:
    """The choice that lines are drawn and colored by: of encoders or methods, else the one that explains most.

    None if no dimension of choices has between two and six values.
    """
    choices = [one for one in dimensions if not one.numeric and 2 <= len(one.values) <= LINES]

    def importance(one: Dimension) -> tuple[bool, float]:
        named = any(word in one.name.rpartition(".")[2].lower() for word in ("encoder", "method", "backbone"))
        return named, _explained(one, points)

    return max(choices, key=importance, default=None)


def _explained(dimension: Dimension, points: Sequence[PointResult]) -> float:
    """Share of the variance of CorLoc that lies between the dimension's values."""
    found: dict[str, list[float]] = {}
    for point in points:
        if point.mean is not None and (key := dimension.key(point.point)):
            found.setdefault(key, []).append(point.mean)
    values = [value for group in found.values() for value in group]
    center = math.fsum(values) / max(1, len(values))
    between = math.fsum(len(group) * (math.fsum(group) / len(group) - center) ** 2 for group in found.values())
    total = math.fsum((value - center) ** 2 for value in values)
    return between / total if total > 0 else 0.0


def _dimension(result: StudyResult, name: str, label: str) -> Dimension:
    declared = list(result.dimensions.get(name, ()))
    is_range = len(declared) == 3 and declared[2] in ("log", "linear") and None not in map(number, declared[:2])
    seen = [trial.point[name] for trial in result.trials if name in trial.point]
    every = [*(declared[:2] if is_range else declared), *seen]
    values = tuple({identity(value): value for value in every}.values())
    numeric = bool(values) and all(number(value) is not None for value in values)
    if numeric:
        values = tuple(sorted({float(value): value for value in values}.values()))  # 1 and 1.0 are one number
    wanted = declared[2] == "log" if is_range else _is_wide(values)
    scale: Literal["linear", "log", "symlog"] = "linear"
    if numeric and wanted and min(values) >= 0:
        scale = "log" if min(values) > 0 else "symlog"
    return Dimension(name, label, values, numeric, scale, is_range)


def _is_wide(values: Sequence[Any]) -> bool:
    positive = [value for value in map(number, values) if value is not None and value > 0]
    return bool(positive) and max(positive) > LOG_FROM * min(positive)


def _labels(names: Sequence[str]) -> Mapping[str, str]:
    """The last part of each name, or so many parts that it is vague no more and is no other's."""
    found = {}
    for name in names:
        parts = name.split(".")
        for count in range(1, len(parts) + 1):
            label = ".".join(parts[-count:])
            twins = sum(other == label or other.endswith(f".{label}") for other in names)
            if label not in VAGUE and twins == 1:
                break
        found[name] = LABELS.get(name, label)
    return found
