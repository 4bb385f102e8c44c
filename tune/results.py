"""What a study has found so far, read from its folder: for the report, for machines, and for the next session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

__all__ = ["EpochRow", "SharedStage", "StudyResult", "TrialResult", "TrialState"]

TrialState = Literal["waiting", "running", "finished", "stopped", "failed"]
"""Finished = all epochs; stopped = ended early by the scheduler."""


@dataclass(frozen=True)
class EpochRow:
    """A validation of a trial.

    Attributes:
        epoch: of stage 2; 0 = of the untrained network, which is a candidate for the best weights as in any run, or the
            only row of a trial without stage 2, which is that of its classifier.
        corloc: percent on the validation split, at the one threshold that is best there.
        classification: percent of validation frames.
    """

    epoch: int
    corloc: float
    classification: float


@dataclass(frozen=True)
class SharedStage:
    """A classifier with its CAMs that several trials use.

    Attributes:
        key: content hash, also the name of its folder.
        encoder: its backbone.
        seconds: that it took to train, archive and all; 0.0 as long as it is not done.
        gpu_hours: the same, times GPUs.
        corloc: percent of its CAM on the validation split, best epoch; None as long as it is not known.
        trials: how many trials use it.
    """

    key: str
    encoder: str
    seconds: float
    gpu_hours: float
    corloc: float | None
    trials: int


@dataclass(frozen=True)
class TrialResult:
    """One run of the study.

    Attributes:
        id: content hash, also the name of its folder.
        number: order in which trials were begun, from 1.
        point: value of each dimension, by the name it has in the study; a named choice has its label. Without the seed.
        seed: run.seed.
        state: what became of it.
        epochs: validations so far, in order.
        total_epochs: of stage 2 when nothing stops it; 0 = it has no stage 2.
        seconds: time its processes took, without that of the shared stage.
        gpu_hours: the same, times GPUs; 0.0 without GPUs.
        shared: key of the classifier it uses.
        test: the run's metrics.json if it was evaluated (data.split, usually "test"), by weights that a row of `epochs`
            validated: with PBT the best may be another trial's. Of no influence on the selection.
        error: what a failed trial died of, in one line or a few; None else.
        traceback: the same, in full.
        attempts: how often it was started, 1 = no retry.
        run: its folder.
    """

    id: str
    number: int
    point: Mapping[str, Any]
    seed: int
    state: TrialState
    epochs: Sequence[EpochRow]
    total_epochs: int
    seconds: float
    gpu_hours: float
    shared: str | None
    test: Mapping[str, Any] | None
    error: str | None
    traceback: str | None
    attempts: int
    run: Path

    @property
    def best(self) -> EpochRow | None:
        """The validation with the highest CorLoc, the earliest of equals; None before the first one."""
        return max(self.epochs, key=lambda row: (row.corloc, -row.epoch), default=None)


@dataclass(frozen=True)
class StudyResult:
    """A study.

    Attributes:
        name: of the study.
        folder: where it lives.
        rule: one sentence about the figure that trials are compared by.
        dimensions: names of the dimensions, in the study's order, each with its values (labels of named choices) or
            with ("low", "high", "log" or "linear") for a range.
        seeds: run.seed of the repetitions of each point.
        trials: by number.
        shared: the classifiers.
        wall_seconds: time that sessions of the study took, all together.
        sessions: how often it was started or resumed.
        command: the last command line.
        caveats: of the data, printed with every figure.
        versions: of the software, and the machine.
        finished: whether the search is at its end.
        scheduler: in a few words, for example "asha, grace 1, reduction 3".
        search: in a few words, for example "grid, 12 points".
    """

    name: str
    folder: Path
    rule: str
    dimensions: Mapping[str, Sequence[Any]]
    seeds: Sequence[int]
    trials: Sequence[TrialResult]
    shared: Sequence[SharedStage]
    wall_seconds: float
    sessions: int
    command: str
    caveats: Sequence[str]
    versions: Mapping[str, str] = field(default_factory=dict)
    finished: bool = False
    scheduler: str = ""
    search: str = ""
