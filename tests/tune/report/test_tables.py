"""The files for machines say what the study says."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from typing import Any

from tune.report.points import best_point, grouped
from tune.report.tables import study_json, trials_csv
from tune.results import StudyResult, TrialResult

Make = Callable[..., TrialResult]
Study = Callable[..., StudyResult]


def test_csv_round_trip(realistic: StudyResult) -> None:
    rows = list(csv.DictReader(io.StringIO(trials_csv(realistic))))
    assert list(rows[0]) == [
        *("number", "id", "state", "model.encoder", "data.n_frames", "localizer.loss.colocalization.weight", "seed"),
        *("best_corloc", "best_epoch", "epochs", "total_epochs", "seconds", "gpu_hours", "shared", "attempts", "error"),
        *("test_corloc_validation", "test_corloc_pooled", "test_corloc_per_class"),
    ]
    assert len(rows) == len(realistic.trials)
    for row, trial in zip(rows, realistic.trials, strict=True):
        assert (int(row["number"]), row["id"], row["state"], int(row["seed"])) == (
            trial.number,
            trial.id,
            trial.state,
            trial.seed,
        )
        assert row["model.encoder"] == trial.point["model.encoder"]
        assert json.loads(row["data.n_frames"]) == trial.point["data.n_frames"]
        assert trial.best is not None or row["best_corloc"] == ""
        if trial.best is not None:
            assert (float(row["best_corloc"]), int(row["best_epoch"])) == (trial.best.corloc, trial.best.epoch)
        assert (float(row["seconds"]), row["shared"], int(row["attempts"])) == (
            trial.seconds,
            trial.shared,
            trial.attempts,
        )
        assert (row["test_corloc_pooled"] != "") == (trial.state == "finished")
        if trial.state == "failed":
            assert row["error"] == "OutOfMemoryError: CUDA out of memory <on device 0> & no more"


def test_csv_of_values_of_all_kinds(trial: Make, study: Study) -> None:
    values = [None, True, [1, "a,b"], 'say "x"', 1e-4, math.nan]
    trials = [trial({"x": value}) for value in values]
    rows = list(csv.DictReader(io.StringIO(trials_csv(study([*trials, trial({})], {"x": values})))))
    assert [row["x"] for row in rows] == ["null", "true", '[1, "a,b"]', 'say "x"', "0.0001", "null", ""]


def test_json_round_trip(realistic: StudyResult) -> None:
    found = json.loads(study_json(realistic))
    best = best_point(realistic)
    assert best is not None
    assert found["best"] == found["points"][0]
    assert found["best"]["point"] == best.point
    assert [found["best"][key] for key in ("mean", "low", "high", "n")] == [best.mean, best.low, best.high, 3]
    assert [point["number"] for point in found["points"]] == [point.number for point in grouped(realistic)]
    assert (found["rule"], found["caveats"], found["seeds"]) == (realistic.rule, list(realistic.caveats), [0, 1, 2])
    assert found["totals"]["states"]["finished"] == sum(trial.state == "finished" for trial in realistic.trials)
    assert len(found["shared"]) == 9
    for one, trial in zip(found["trials"], realistic.trials, strict=True):
        assert (one["id"], one["run"]) == (trial.id, f"trials/{trial.number}")
        assert [row["corloc"] for row in one["epochs"]] == [row.corloc for row in trial.epochs]
        assert one["test"] == trial.test


def test_json_has_no_nan(trial: Make, study: Study) -> None:
    def refuse(name: str) -> Any:
        raise AssertionError(name)

    text = study_json(study([trial(corloc=[math.nan], seconds=math.inf, test={"a": [math.nan, (1, object)]})]))
    found = json.loads(text, parse_constant=refuse)
    assert found["best"] is None
    assert found["trials"][0]["epochs"][0]["corloc"] is None
    assert found["trials"][0]["test"]["a"][1][0] == 1
