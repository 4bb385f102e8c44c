"""What a study cost, and what early stopping and shared classifiers saved."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from tune.results import StudyResult, TrialResult, TrialState

__all__ = ["Totals", "own_and_shared", "totals"]

STATES: tuple[TrialState, ...] = get_args(TrialState)


@dataclass(frozen=True)
class Totals:
    """Sums over a study.

    Attributes:
        states: trials by state; states that do not occur have 0.
        gpu_hours: of all trials and shared classifiers.
        seconds: the same, time of processes.
        epochs_planned: epochs of stage 2 of all trials, if nothing had stopped any.
        epochs_saved: those that stopped trials did not do.
        classifiers: shared classifiers.
        classifier_users: trials that use them, all together.
        shared_seconds: time that would have gone into a classifier of its own for each further trial.
        shared_gpu_hours: the same, times GPUs.
    """

    states: Mapping[TrialState, int]
    gpu_hours: float
    seconds: float
    epochs_planned: int
    epochs_saved: int
    classifiers: int
    classifier_users: int
    shared_seconds: float
    shared_gpu_hours: float

    @property
    def epochs_saved_share(self) -> float:
        """Saved epochs as a share of the planned ones, in [0, 1]."""
        return self.epochs_saved / self.epochs_planned if self.epochs_planned else 0.0


def totals(result: StudyResult) -> Totals:
    """Sums over all trials and classifiers of a study."""
    trials, shared = result.trials, result.shared
    return Totals(
        states={state: sum(trial.state == state for trial in trials) for state in STATES},
        gpu_hours=math.fsum([one.gpu_hours for one in trials] + [one.gpu_hours for one in shared]),
        seconds=math.fsum([one.seconds for one in trials] + [one.seconds for one in shared]),
        epochs_planned=sum(trial.total_epochs for trial in trials),
        epochs_saved=sum(_not_done(trial) for trial in trials if trial.state == "stopped"),
        classifiers=len(shared),
        classifier_users=sum(stage.trials for stage in shared),
        shared_seconds=math.fsum(stage.seconds * max(0, stage.trials - 1) for stage in shared),
        shared_gpu_hours=math.fsum(stage.gpu_hours * max(0, stage.trials - 1) for stage in shared),
    )


def own_and_shared(result: StudyResult, trial: TrialResult) -> tuple[float, float]:
    """Seconds of a trial: its own, and its equal share of the classifier that it uses with others."""
    stage = next((stage for stage in result.shared if stage.key == trial.shared), None)
    return trial.seconds, stage.seconds / max(1, stage.trials) if stage else 0.0


def _not_done(trial: TrialResult) -> int:
    return max(0, trial.total_epochs - max((row.epoch for row in trial.epochs), default=0))
