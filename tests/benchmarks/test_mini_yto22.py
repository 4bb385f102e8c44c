"""The figures of docs/results.md, out of runs with known figures."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import mini_yto22
from tune.results import EpochRow, StudyResult, TrialResult
from tune.settings import load_study

METHODS = {"F-CAM": 40.0, "TCAM": 41.0, "CoLo-CAM n=2": 45.0, "CoLo-CAM n=4": 44.0}
CLASSES = ("bird", "cat")


def metrics(localizer: float, layercam: float) -> dict[str, Any]:
    def method(value: float) -> dict[str, Any]:
        rules = {"validation": value, "pooled": value + 1, "per_class": value + 2}
        return {"corloc": rules, "per_class": dict.fromkeys(CLASSES, rules)}

    return {"methods": {"layercam": method(layercam), "localizer": method(localizer)}}


def trial(number: int, method: str, seed: int, folder: Path) -> TrialResult:
    best, run = METHODS[method], folder / f"{number}"
    clips = mini_yto22.clips_metrics(run, "clips")
    clips.parent.mkdir(parents=True)
    clips.write_text(json.dumps(metrics(60.0 + seed, 50.0)))
    return TrialResult(
        id=f"{number}", number=number, point={"method": method}, seed=seed, state="finished",
        epochs=[EpochRow(1, best - 5, 60.0), EpochRow(2, best, 60.0), EpochRow(3, best - 1, 60.0)], total_epochs=3,
        seconds=1800.0, gpu_hours=0.0, shared="a", test=metrics(best - 10 + seed, 30.0 + seed), error=None,
        traceback=None, attempts=1, run=run,
    )  # fmt: skip


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyResult:
    config = SimpleNamespace(data=SimpleNamespace(crop=160))
    opened = SimpleNamespace(file=SimpleNamespace(config=lambda: config))
    monkeypatch.setattr(mini_yto22.OpenStudy, "at", lambda folder: opened)
    points = [(method, seed) for seed in (0, 1, 2) for method in METHODS]
    trials = [trial(number, *point, tmp_path) for number, point in enumerate(points)]
    return StudyResult(
        name="methods", folder=tmp_path, rule="", dimensions={}, seeds=(0, 1, 2), trials=trials, shared=[],
        wall_seconds=0.0, sessions=1, command="", caveats=("Thumbnails.",), versions={}, finished=True,
        scheduler="none", search="grid",
    )  # fmt: skip


def test_means_and_intervals_are_over_seeds(study: StudyResult) -> None:
    found = mini_yto22.summary(study, "clips", "python x")
    fcam = found["mini_yto22"]["fcam"]["corloc"]
    assert fcam["validation"]["seeds"] == {"0": 30.0, "1": 31.0, "2": 32.0}
    assert [fcam[rule]["mean"] for rule in ("validation", "pooled", "per_class")] == [31.0, 32.0, 33.0]
    # Student's t for two degrees of freedom: 4.303 standard errors of 1 / sqrt(3).
    assert fcam["validation"]["low"] == pytest.approx(31 - 4.303 / 3**0.5, abs=1e-3)
    assert fcam["validation"]["high"] == pytest.approx(31 + 4.303 / 3**0.5, abs=1e-3)
    assert found["mini_yto22"]["layercam"]["corloc"]["validation"]["mean"] == 31.0
    assert found["clips"]["tcam"]["corloc"]["pooled"]["mean"] == 62.0
    assert found["mini_yto22"]["tcam"]["classes"]["cat"]["per_class"] == pytest.approx(34.0)
    assert found["hours"] == 6.0
    assert (found["caveats"], found["image_size"], found["command"]) == (["Thumbnails."], 160, "python x")


def test_n_is_selected_on_the_validation_split(study: StudyResult) -> None:
    swapped = [
        t if t.point["method"] != "CoLo-CAM n=4" else TrialResult(**{**vars(t), "test": metrics(90.0, 30.0)})
        for t in study.trials
    ]
    found = mini_yto22.summary(StudyResult(**{**vars(study), "trials": swapped}), None, "")
    assert found["mini_yto22"]["colocam_n4"]["corloc"]["validation"]["mean"] == 90.0
    assert found["mini_yto22"]["colocam"]["selected_on_validation"] == "CoLo-CAM n=2"
    assert found["mini_yto22"]["colocam"]["corloc"] == found["mini_yto22"]["colocam_n2"]["corloc"]
    assert found["validation"] == {"fcam": 40.0, "tcam": 41.0, "colocam_n2": 45.0, "colocam_n4": 44.0}
    assert "clips" not in found


def test_a_trial_without_figures_is_named(study: StudyResult) -> None:
    failed = TrialResult(**{**vars(study.trials[1]), "test": None, "state": "failed"})
    with pytest.raises(SystemExit, match=re.escape("no figures of {'method': 'TCAM'} seed 0: failed")):
        mini_yto22.summary(StudyResult(**{**vars(study), "trials": [study.trials[0], failed]}), None, "")


def test_figures_of_other_clips_of_the_same_name_are_not_taken(
    study: StudyResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(mini_yto22.subprocess, "run", lambda command, **options: commands.append(command))
    one = study.trials[0]
    done = mini_yto22.clips_metrics(one.run, "clips")
    done.write_text(json.dumps({**metrics(60.0, 50.0), "shards": "data/clips"}))
    for same in ("data/clips", str(mini_yto22.ROOT / "data/clips")):
        mini_yto22.score_on_clips(one, Path(same))
    assert commands == [], "they are there"
    with pytest.raises(SystemExit, match="has the figures of data/clips, not of other/clips: remove"):
        mini_yto22.score_on_clips(one, Path("other/clips"))
    done.unlink()
    mini_yto22.score_on_clips(one, Path("other/clips"))
    assert [command[-2:] for command in commands] == [["data.shards=other/clips", "data.split=train"]]


def test_tables_have_a_row_for_each_method(study: StudyResult) -> None:
    methods, classes, *of_clips = mini_yto22.tables(mini_yto22.summary(study, "clips", ""))
    rows = [line for line in methods.splitlines() if line.startswith("|")][2:]
    assert [row.split("|")[1].strip() for row in rows] == ["LayerCAM", *METHODS]
    assert rows[1] == "| F-CAM | 31.0 [28.5, 33.5] | 32.0 [29.5, 34.5] | 33.0 [30.5, 35.5] |"
    assert "| F-CAM | 31 | 31 |" in classes
    assert len(of_clips) == 2
    assert of_clips[0].startswith("clips:")


def test_the_study_has_the_methods_of_the_paper() -> None:
    study = load_study(Path(mini_yto22.ROOT / "configs/tune/methods.yaml"), ["data.shards=x"]).study
    assert {mini_yto22.key_of(name) for name in study.space["method"]} >= {"fcam", "tcam", "colocam_n4"}
    assert len(study.seeds) >= 3


def test_the_study_of_long_windows_has_as_many_steps_and_a_name_of_its_own() -> None:
    folder = mini_yto22.ROOT / "configs/tune"
    studies = [load_study(folder / f"{name}.yaml", ["data.shards=x"]).study for name in ("methods", "methods_long")]
    assert studies[0].path != studies[1].path
    assert studies[0].seeds == studies[1].seeds
    for one in (one for study in studies for one in study.space["method"].values()):
        windows_of_a_step = one.get("localizer.global_batch", 60) / one["data.n_frames"]
        assert one["data.epoch_windows"] / windows_of_a_step == 80
