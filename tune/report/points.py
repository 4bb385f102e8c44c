"""Trials grouped over their seeds, and the best point of a study."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tune.report.figures import best_row, corloc_on_test, mean_interval
from tune.results import StudyResult, TrialResult, TrialState

__all__ = ["PointResult", "best_point", "grouped", "identity"]


@dataclass(frozen=True)
class PointResult:
    """A point of the search space with all its seeds.

    Attributes:
        point: value of each dimension.
        trials: one for each seed that was begun, by number; more than one if the search came back to the point.
        n: seeds in the mean.
        mean: of the seeds' best validation CorLoc, percent; None without any.
        low: end of its 95 % interval over seeds (Student's t); None for fewer than two.
        high: the other end.
        complete: every seed of the study has finished or been stopped, and has a figure.
    """

    point: Mapping[str, Any]
    trials: tuple[TrialResult, ...]
    n: int
    mean: float | None
    low: float | None
    high: float | None
    complete: bool

    @property
    def number(self) -> int:
        """That of its first trial."""
        return min(trial.number for trial in self.trials)

    @property
    def by_seed(self) -> dict[int, float]:
        """What the mean is made of: highest validation CorLoc of each seed, percent.

        A trial that was stopped, or still runs, counts with its best so far; one that failed does not count.
        """
        found: dict[int, float] = {}
        for trial in self.trials:
            row = best_row(trial)
            if trial.state != "failed" and row is not None:
                found[trial.seed] = max(row.corloc, found.get(trial.seed, row.corloc))
        return found

    @property
    def stopped(self) -> int:
        """Trials that the scheduler ended early."""
        return self.count("stopped")

    @property
    def failed(self) -> int:
        """Trials that failed; they are not in the mean."""
        return self.count("failed")

    @property
    def test(self) -> tuple[int, float | None]:
        """How many trials were evaluated, and the mean of their test CorLoc at the validation threshold, percent."""
        values = [value for trial in self.trials if (value := corloc_on_test(trial)) is not None]
        return len(values), mean_interval(values)[0]

    @property
    def epochs(self) -> int:
        """Epochs of stage 2 of all trials so far."""
        return sum(max((row.epoch for row in trial.epochs), default=0) for trial in self.trials)

    @property
    def total_epochs(self) -> int:
        """Epochs of all trials if nothing had been stopped."""
        return sum(trial.total_epochs for trial in self.trials)

    @property
    def seconds(self) -> float:
        """Time of all trials, without shared classifiers."""
        return math.fsum(trial.seconds for trial in self.trials)

    def count(self, state: TrialState) -> int:
        """How many of its trials are in a state."""
        return sum(trial.state == state for trial in self.trials)


def grouped(result: StudyResult) -> list[PointResult]:
    """The points of a study, best first.

    Complete ones come before incomplete ones, those without a figure last; of equals the earlier one comes first.
    """
    trials: dict[str, list[TrialResult]] = {}
    for trial in sorted(result.trials, key=lambda trial: trial.number):
        trials.setdefault(identity(dict(trial.point)), []).append(trial)
    points = [_point(result, found) for found in trials.values()]
    return sorted(points, key=lambda one: (not one.complete, math.inf if one.mean is None else -one.mean, one.number))


def best_point(result: StudyResult) -> PointResult | None:
    """The point with the highest mean; None as long as no trial has a figure.

    A point that is not complete is the best only as long as none is.
    """
    return next((point for point in grouped(result) if point.mean is not None), None)


def identity(value: Any) -> str:
    """The same text for the same value, and another one for any other: true is not 1, and null is not "null"."""
    return json.dumps(value, sort_keys=True, default=str)


def _point(result: StudyResult, trials: list[TrialResult]) -> PointResult:
    found = PointResult(trials[0].point, tuple(trials), 0, None, None, None, complete=False)
    mean, low, high = mean_interval(list(found.by_seed.values()))
    over = {trial.seed for trial in trials if trial.state in ("finished", "stopped") and best_row(trial)}
    return replace(found, n=len(found.by_seed), mean=mean, low=low, high=high, complete=over >= set(result.seeds))
