"""A study for machines: a table of trials, and everything as JSON."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from tune.report.dimensions import dimensions_of
from tune.report.figures import best_row, corloc_on_test, number
from tune.report.points import PointResult, grouped
from tune.report.totals import totals
from tune.results import StudyResult, TrialResult

__all__ = ["study_json", "trials_csv"]

RULES = ("validation", "pooled", "per_class")


def trials_csv(result: StudyResult) -> str:
    """One row for each trial, by number. What is not there is empty; values of dimensions are written as in the study.

    Columns: number, id, state, one for each dimension, seed, best_corloc and best_epoch (validation), epochs,
    total_epochs, seconds, gpu_hours, shared, attempts, error (its first line), and test_corloc_* under each threshold
    rule. CorLoc is in percent.
    """
    names = [dimension.name for dimension in dimensions_of(result)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    own = ["seed", "best_corloc", "best_epoch", "epochs", "total_epochs", "seconds", "gpu_hours", "shared", "attempts"]
    writer.writerow(["number", "id", "state", *names, *own, "error", *(f"test_corloc_{rule}" for rule in RULES)])
    for trial in result.trials:
        best = best_row(trial)
        writer.writerow(
            [
                trial.number,
                trial.id,
                trial.state,
                *(_cell(trial.point[name]) if name in trial.point else None for name in names),
                trial.seed,
                best.corloc if best else None,
                best.epoch if best else None,
                max((row.epoch for row in trial.epochs), default=0),
                trial.total_epochs,
                trial.seconds,
                trial.gpu_hours,
                trial.shared,
                trial.attempts,
                first_line(trial.error),
                *(corloc_on_test(trial, rule) for rule in RULES),
            ]
        )
    return text.getvalue()


def study_json(result: StudyResult) -> str:
    """Everything about a study, with its points (best first), the best of them, and sums.

    CorLoc is in percent, times are in seconds. A number that is not finite is null.
    """
    points = grouped(result)
    content = {
        "name": result.name,
        "metric": "validation CorLoc, percent",
        "rule": result.rule,
        "caveats": result.caveats,
        "finished": result.finished,
        "search": result.search,
        "scheduler": result.scheduler,
        "dimensions": result.dimensions,
        "seeds": result.seeds,
        "best": next((_point(point) for point in points if point.mean is not None), None),
        "points": [_point(point) for point in points],
        "trials": [_trial(result, trial) for trial in result.trials],
        "shared": [asdict(stage) for stage in result.shared],
        "totals": {**asdict(totals(result)), "epochs_saved_share": totals(result).epochs_saved_share},
        "wall_seconds": result.wall_seconds,
        "sessions": result.sessions,
        "command": result.command,
        "versions": result.versions,
    }
    return json.dumps(_plain(content), indent=1, allow_nan=False) + "\n"


def first_line(text: str | None) -> str | None:
    """The first line with anything in it."""
    return next((line.strip() for line in (text or "").splitlines() if line.strip()), None)


def _point(point: PointResult) -> dict[str, Any]:
    evaluated, test = point.test
    return {
        "point": point.point,
        "number": point.number,
        "mean": point.mean,
        "low": point.low,
        "high": point.high,
        "n": point.n,
        "complete": point.complete,
        "stopped": point.stopped,
        "failed": point.failed,
        "test_mean": test,
        "test_n": evaluated,
        "seconds": point.seconds,
        "trials": [trial.id for trial in point.trials],
    }


def _trial(result: StudyResult, trial: TrialResult) -> dict[str, Any]:
    best = best_row(trial)
    return {
        **asdict(trial),
        "run": os.path.relpath(trial.run, result.folder),
        "best": asdict(best) if best else None,
        "test_corloc": {rule: corloc_on_test(trial, rule) for rule in RULES},
    }


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(_plain(value))


def _plain(value: Any) -> Any:
    """The value in types that JSON has."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return number(value)
    return value if value is None or isinstance(value, bool | int | str) else str(value)
