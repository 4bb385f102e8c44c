"""Figures of trials: the best validation, the test, and means with intervals. CorLoc is in percent everywhere."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tune.results import EpochRow, TrialResult

__all__ = [
    "METHODS",
    "best_row",
    "class_table",
    "corloc_on_test",
    "finite_rows",
    "mean_interval",
    "number",
    "student_t",
]

METHODS = ("layercam", "localizer")
"""Methods of a run's metrics.json, the better one last."""

_CONFIDENCE = 0.95


def number(value: Any) -> float | None:
    """A finite number as float; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def finite_rows(trial: TrialResult) -> list[EpochRow]:
    """The validations of a trial that have a CorLoc, in order."""
    return [row for row in trial.epochs if number(row.corloc) is not None]


def best_row(trial: TrialResult) -> EpochRow | None:
    """``TrialResult.best``, but a validation without a number is passed over."""
    return max(finite_rows(trial), key=lambda row: (row.corloc, -row.epoch), default=None)


def corloc_on_test(trial: TrialResult, rule: str = "validation") -> float | None:
    """CorLoc of a trial's last method under a threshold rule, on the split that it was evaluated on.

    Args:
        trial: any.
        rule: "validation", "pooled" or "per_class".

    Returns:
        None if the trial was not evaluated.
    """
    methods = (trial.test or {}).get("methods") or {}
    for name in reversed(METHODS):
        if name in methods:
            return number((methods[name].get("corloc") or {}).get(rule))
    return None


def class_table(trial: TrialResult) -> dict[str, dict[str, float]]:
    """By class and method: CorLoc at the validation threshold; empty if the trial was not evaluated."""
    methods: Mapping[str, Any] = (trial.test or {}).get("methods") or {}
    found: dict[str, dict[str, float]] = {}
    for method in METHODS:
        for name, scores in ((methods.get(method) or {}).get("per_class") or {}).items():
            value = number(scores.get("validation"))
            if value is not None:
                found.setdefault(name, {})[method] = value
    return found


def mean_interval(values: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    """Mean, and the ends of its 95 % interval after Student: (mean, low, high).

    One value has no interval (None), no value has no mean either.
    """
    if not values:
        return None, None, None
    count = len(values)
    mean = math.fsum(values) / count
    if count == 1:
        return mean, None, None
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    half = student_t(count - 1) * math.sqrt(variance / count)
    return mean, mean - half, mean + half


@functools.cache
def student_t(freedom: int) -> float:
    """The t within which 95 % of Student's distribution lie, on both sides of 0.

    Args:
        freedom: degrees of freedom, at least 1.
    """
    low, high = 1.9, 13.0  # it falls from 12.7 at one degree to 1.96
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < _CONFIDENCE else (low, middle)
    return (low + high) / 2


def _within(t: float, freedom: int) -> float:
    """P(\\|T\\| < t) by the finite series of Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    angle = math.atan2(t, math.sqrt(freedom))
    cosine = math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = 0.0 if freedom == 1 else term
    for exponent in range(2 + odd, freedom - 1, 2):
        term *= (exponent - 1) / exponent * cosine**2
        total += term
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
