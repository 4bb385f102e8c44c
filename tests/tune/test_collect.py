"""From the folder of a study to what it has found."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from colocam_dist.config import dump, load
from colocam_dist.slurm.record import add_attempt
from shards.build import main
from tune.collect import RULE, best_settings, collect
from tune.folder import Record
from tune.results import TrialResult
from tune.running import OpenStudy
from tune.space import BORN


def point(n_frames: int = 2, seed: int = 0, **more: Any) -> dict[str, Any]:
    return {"data.n_frames": str(n_frames), "run.seed": seed, **more}


def only(study: OpenStudy) -> TrialResult:
    (trial,) = collect(study).trials
    return trial


def test_a_study_that_has_not_begun_has_nothing(desk: Any) -> None:
    result = collect(desk.open(seeds=[0, 1]))
    assert (result.name, result.trials, result.shared, result.sessions, result.wall_seconds) == ("s", [], [], 0, 0)
    assert result.dimensions == {"data.n_frames": [1, 2, 4]}
    assert (result.seeds, result.command, result.finished, result.rule) == ((0, 1), "", False, RULE)
    assert (result.search, result.scheduler) == ("grid", "none")


def test_dimensions_and_ways_are_told(desk: Any) -> None:
    space = {
        "localizer.optimizer.lr": {"low": 0.01, "high": 0.1, "log": True},
        "localizer.seeds.n_fg": {"low": 1, "high": 5, "integer": True},
        "method": {"a": {}, "b": {"data.flip": False}},
    }
    overrides = ("data.caveats=[small]", "study.search_seed=1")
    study = desk.open(*overrides, space=space, search="random", samples=7, scheduler={"name": "asha", "grace": 2})
    result = collect(study, command="python x", finished=True)
    assert result.dimensions == {
        "localizer.optimizer.lr": [0.01, 0.1, "log"],
        "localizer.seeds.n_fg": [1.0, 5.0, "linear"],
        "method": ["a", "b"],
    }
    assert (result.search, result.scheduler) == ("random, 7 points", "asha, grace 2, reduction 3")
    assert (result.command, result.finished, result.caveats) == ("python x", True, ["small"])
    assert {"colocam-dist", "torch", "ray", "python", "machine"} <= result.versions.keys()


def test_caveats_are_those_of_the_data_and_of_the_settings(desk: Any, tiny_frames: Path, tmp_path: Path) -> None:
    where = ["--input", str(tiny_frames), "--output", str(tmp_path / "shards")]
    main(["--source", "frames-csv", *where, "--workers", "1", "--caveat", "Drawn.", "--caveat", "Small."])
    study = desk.open(f"data.shards={tmp_path / 'shards'}", "data.caveats=[Painted., Small.]")
    assert collect(study).caveats == ["Drawn.", "Small.", "Painted."]
    (tmp_path / "shards/val.manifest.json").unlink()
    unknown, *others = collect(study).caveats
    assert "could not be read" in unknown
    assert str(tmp_path / "shards") in unknown
    assert others == ["Painted.", "Small."]


@pytest.mark.parametrize(
    ("end", "done", "started", "state"),
    [
        (None, False, False, "waiting"),
        (None, False, True, "running"),
        (None, True, True, "finished"),
        ("finished", True, True, "finished"),
        ("stopped", False, True, "stopped"),
        ("stopped", True, True, "stopped"),
        ("failed", False, True, "failed"),
        ("failed", False, False, "failed"),
    ],
)
def test_states(end: str | None, done: bool, started: bool, state: str, desk: Any, fake_runs: Any) -> None:
    study = desk.open()
    record = fake_runs.trial(study, point())
    if started:
        record.add_attempt("start", pid=1)
    if done:
        fake_runs.done(record.run)
    if end:
        record.finish(end)
    assert only(study).state == state


def test_a_trial_has_all_that_the_report_shows(desk: Any, fake_runs: Any) -> None:
    study = desk.open()
    record = fake_runs.trial(study, point(4, 3), [10.0, 30.0, 20.0], state="finished")
    (record.run / "metrics.json").write_text('{"split": "test"}')
    trial = only(study)
    assert (trial.id, trial.number, trial.point, trial.seed) == (record.id, 1, {"data.n_frames": 4}, 3)
    assert [(row.epoch, row.corloc, row.classification) for row in trial.epochs] == [
        (1, 10.0, 50.0),
        (2, 30.0, 50.0),
        (3, 20.0, 50.0),
    ]
    assert trial.best is not None
    assert trial.best.epoch == 2
    assert (trial.total_epochs, trial.run, trial.test) == (3, record.run, {"split": "test"})
    assert (trial.error, trial.traceback, trial.attempts) == (None, None, 1)


def test_numbers_are_the_order_of_begin(desk: Any, fake_runs: Any) -> None:
    study = desk.open()
    ids = [fake_runs.trial(study, point(n, seed)).id for n, seed in ((4, 0), (1, 1), (2, 0))]
    assert [(trial.id, trial.number) for trial in collect(study).trials] == list(zip(ids, (1, 2, 3), strict=True))


def test_failures_are_told_in_short_and_in_full(desk: Any, fake_runs: Any) -> None:
    study = desk.open()
    fake_runs.trial(study, point(), [10.0], state="failed", error="loss is NaN", traceback="T")
    trial = only(study)
    assert (trial.error, trial.traceback) == ("loss is NaN", "T")
    assert [row.epoch for row in trial.epochs] == [1]


def test_of_a_stopped_trial_only_what_the_scheduler_saw_counts(desk: Any, fake_runs: Any) -> None:
    study = desk.open()
    fake_runs.trial(study, point(), [10.0, 20.0, 30.0], state="stopped", epoch=2)
    trial = only(study)
    assert [row.epoch for row in trial.epochs] == [1, 2]
    assert trial.total_epochs == 3


def test_what_pbt_replaced_has_saved_nothing(desk: Any, fake_runs: Any) -> None:
    study = desk.open()
    fake_runs.trial(study, point(), [10.0, 20.0], state="stopped", replaced=True)
    trial = only(study)
    assert (trial.state, trial.total_epochs) == ("stopped", 2)


def test_the_untrained_network_counts_as_in_the_run_itself(desk: Any, fake_runs: Any) -> None:
    study = desk.open()
    record = fake_runs.trial(study, point(), [10.0, 30.0, 20.0], state="finished")
    fake_runs.rows(record.run, [35.0], first=0)
    (record.run / "metrics.json").write_text("{}")
    trial = only(study)
    assert [(row.epoch, row.corloc) for row in trial.epochs] == [(0, 35.0), (1, 10.0), (2, 30.0), (3, 20.0)]
    assert trial.best is not None
    assert (trial.best.epoch, trial.best.corloc, trial.test) == (0, 35.0, {})
    assert "35.0 (epoch 0, seed 0)" in best_settings(study, trial)


@pytest.mark.parametrize(
    ("parent", "child", "own"),
    [
        ([10.0, 30.0, 99.0], [40.0], True),
        ([10.0, 30.0, 99.0], [20.0], False),
        ([10.0, 30.0, 99.0], [30.0], False),
        ([35.0, 30.0], [33.0], False),
        ([10.0, 30.0, 20.0, 99.0], [], False),
    ],
    ids=["better", "worse", "equal", "the grandparent's", "nothing left to train"],
)
def test_a_member_of_a_population_has_the_test_figure_of_its_own_weights_only(
    parent: list[float], child: list[float], own: bool, desk: Any, fake_runs: Any
) -> None:
    study = desk.open()
    ids: list[str] = []
    # Each goes on from where the one before stood: the parent trained on meanwhile, which its child does not have.
    for number, (corlocs, first) in enumerate(((parent[:1], 0), (parent[1:], 1), (child, 2))):
        record = fake_runs.trial(study, point(**({BORN: str(number)} if number else {})))
        record.facts_path.write_text(json.dumps({**record.facts, "parent": ids[-1] if ids else None}))
        fake_runs.rows(record.run, corlocs, first=first)
        ids.append(record.id)
    fake_runs.done(record.run)
    (record.run / "metrics.json").write_text('{"split": "test"}')
    trial = collect(study).trials[-1]
    assert [row.corloc for row in trial.epochs] == child
    assert trial.test == ({"split": "test"} if own else None)


LAYERCAM = {"method": {"LayerCAM": {"run.stages": ["classifier", "cams"]}, "CoLo-CAM": {}}}


def test_without_stage_2_the_figure_is_that_of_the_classifier(desk: Any, fake_runs: Any) -> None:
    study = desk.open(space=LAYERCAM)
    one = fake_runs.trial(study, {"method": "LayerCAM", "run.seed": 0})
    fake_runs.trial(study, {"method": "CoLo-CAM", "run.seed": 0}, [20.0])
    classifier = study.folder.classifier(one.facts["shared"])
    assert collect(study).trials[0].epochs == []
    classifier.begin({"encoder": "resnet18"})
    fake_runs.rows(classifier.run, [11.0, 33.0, 22.0], stage="classifier")
    result = collect(study)
    layercam, colocam = result.trials
    assert [(row.epoch, row.corloc) for row in layercam.epochs] == [(0, 33.0)]
    assert (layercam.total_epochs, colocam.total_epochs) == (0, 3)
    assert layercam.shared == colocam.shared == classifier.id
    (shared,) = result.shared
    assert (shared.key, shared.encoder, shared.corloc, shared.trials) == (classifier.id, "resnet18", 33.0, 2)
    fake_runs.rows(classifier.run, [44.0], stage="classifier", first=0)
    result = collect(study)
    assert [row.corloc for row in result.trials[0].epochs] == [result.shared[0].corloc] == [44.0]


def attempts(record: Record, *rows: tuple[str, float], last_sign: float) -> None:
    for number, (event, at) in enumerate(rows):
        record.add_attempt(event, time=at, pid=number // 2)
    record.path.mkdir(exist_ok=True)
    record.log.touch()
    os.utime(record.log, (last_sign, last_sign))


@pytest.mark.parametrize(
    ("rows", "last_sign", "seconds", "starts"),
    [
        ([], 0.0, 0.0, 0),
        ([("start", 100.0), ("end", 160.0)], 160.0, 60.0, 1),
        ([("start", 100.0), ("end", 160.0), ("start", 1000.0), ("end", 1005.0)], 1005.0, 65.0, 2),
        ([("start", 100.0)], 130.0, 30.0, 1),
        ([("start", 100.0)], 50.0, 0.0, 1),
    ],
    ids=["never", "once", "twice", "end not seen", "clocks"],
)
def test_time_is_that_of_the_processes(
    rows: list[tuple[str, float]], last_sign: float, seconds: float, starts: int, desk: Any, fake_runs: Any
) -> None:
    study = desk.open(resources={"gpus": 0.5})
    attempts(fake_runs.trial(study, point()), *rows, last_sign=last_sign)
    trial = only(study)
    assert trial.seconds == pytest.approx(seconds)
    assert trial.gpu_hours == pytest.approx(seconds / 3600 * 0.5)
    assert trial.attempts == max(1, starts)


def test_ends_that_were_noted_later_belong_to_their_start(desk: Any, fake_runs: Any) -> None:
    study = desk.open()
    record = fake_runs.trial(study, point())
    for event, pid, at in (
        ("start", 1, 100.0),
        ("end", 1, 150.0),  # noted by the next start, after a night
        ("start", 2, 5000.0),
        ("end", 1, 5001.0),  # and by whoever watched it
        ("end", 2, 5020.0),
    ):
        record.add_attempt(event, pid=pid, time=at)
    assert only(study).seconds == pytest.approx(70.0)


def test_an_end_that_nobody_saw_is_not_after_the_next_start(desk: Any, fake_runs: Any) -> None:
    study = desk.open()
    record = fake_runs.trial(study, point())
    for event, pid, at in (("start", 1, 100.0), ("start", 2, 130.0), ("end", 2, 140.0)):
        record.add_attempt(event, pid=pid, time=at)
    record.log.touch()
    os.utime(record.log, (140.0, 140.0))
    trial = only(study)
    assert (trial.seconds, trial.attempts) == (pytest.approx(40.0), 2)


def test_time_and_restarts_of_jobs_count_as_well(desk: Any, fake_runs: Any) -> None:
    study = desk.open("slurm.nodes=2", "slurm.gpus_per_node=4", executor="slurm", space={"data.n_frames": [1]})
    record = fake_runs.trial(study, point(1))
    record.run.mkdir(parents=True, exist_ok=True)
    for event, at in (
        ("start", "2026-11-25T23:59:30+0000"),
        ("end", "2026-11-26T01:00:30+0100"),
        ("start", "2026-11-25T19:01:00-0500"),
        ("end", "2026-11-26T05:31:10+0530"),
    ):
        add_attempt(record.run, {"event": event, "part": "x", "time": at})
    (record.run / "restarts.jsonl").write_text("{}\n{}\n")
    trial = only(study)
    assert trial.seconds == pytest.approx(60.0 + 10.0)
    assert trial.gpu_hours == pytest.approx(70.0 / 3600 * 8)
    assert trial.attempts == 4


def test_sessions_add_up(desk: Any) -> None:
    study = desk.open()
    for number, seconds in enumerate((100.0, 50.0)):
        with study.folder.session({"command": f"command {number}"}) as file:
            pass
        began = json.loads(file.read_text())["began"]
        os.utime(file, (began + seconds, began + seconds))
    result = collect(study)
    assert (result.sessions, result.command) == (2, "command 1")
    assert result.wall_seconds == pytest.approx(150.0)


def config_of(text: str, tmp_path: Path) -> Any:
    path = tmp_path / "best.yaml"
    path.write_text(text)
    return load(path)


SPACE = {
    "data.n_frames": [1, 2, 4],
    "localizer.optimizer.lr": [1e-3, 2e-2],
    "method": {"a": {"localizer.loss.frame_crf": {"weight": 0.0}}, "b": {}},
}


def test_the_best_settings_are_a_recipe_of_the_same_run(desk: Any, fake_runs: Any, tmp_path: Path) -> None:
    study = desk.open(space=SPACE)
    where = {**point(4, 3), "localizer.optimizer.lr": "0.001", "method": "a"}
    fake_runs.trial(study, where, [10.0, 30.25, 20.0], state="finished")
    text = best_settings(study, only(study))
    config = config_of(text, tmp_path)
    place = {"name": "s-best", "folder": Path("runs")}
    wanted = study.space.config(where)
    assert config == wanted.model_copy(update={"run": wanted.run.model_copy(update=place)})
    assert (config.localizer.loss.frame_crf.weight, config.run.seed) == (0.0, 3)
    assert config.classifier.from_run is None
    assert config.run.stages == ("classifier", "cams", "localizer", "evaluate")
    head = text.splitlines()[:2]
    assert head[0] == "# The best point of the study s: data.n_frames 4, localizer.optimizer.lr 0.001, method a."
    assert head[1] == f"# Its {RULE}: 30.2 (epoch 2, seed 3)."


def test_without_a_figure_there_is_no_line_about_it(desk: Any, fake_runs: Any) -> None:
    study = desk.open()
    fake_runs.trial(study, point())
    assert "# Its" not in best_settings(study, only(study))


def test_a_recipe_says_which_settings_its_classifier_was_not_trained_with(
    desk: Any, fake_runs: Any, tmp_path: Path
) -> None:
    space = {"data.n_frames": [4], "data.epoch_windows": [12, 24], "data.flip": [False], "evaluation.cams": [[]]}
    apart = ["localizer", "data.n_frames", "data.epoch_windows", "evaluation.cams"]
    study = desk.open("data.epoch_windows=12", space=space, one_classifier_for=apart)
    for windows in ("12", "24"):
        where = {**point(4), "data.epoch_windows": windows, "data.flip": "false", "evaluation.cams": "[]"}
        record = fake_runs.trial(study, where, [30.0], state="finished")
        classifier = study.folder.classifier(record.facts["shared"])
        classifier.run.mkdir(parents=True, exist_ok=True)
        (classifier.run / "config.yaml").write_text(dump(study.classifier_settings(where)))
    same, other = (best_settings(study, trial) for trial in collect(study).trials)
    assert "classifier" not in same.partition("run:")[0]
    head = [line for line in other.splitlines() if line.startswith("#")][2:]
    assert head == [
        "# Its classifier is shared, and was trained with other settings: data.epoch_windows (24 -> 12).",
        f"# classifier.from_run={classifier.run} takes it; without that, another one is trained.",
    ]
    assert config_of(other, tmp_path).data.epoch_windows == 24


def test_the_best_point_need_not_be_one_of_the_space_as_it_is_now(desk: Any, fake_runs: Any, tmp_path: Path) -> None:
    fake_runs.trial(desk.open(), point(4), [50.0], state="finished")
    study = desk.open(space={"data.n_frames": [1], "localizer.optimizer.lr": [0.1, 0.2]})
    result = collect(study)
    assert [trial.point for trial in result.trials] == [{"data.n_frames": 4}]
    assert config_of(best_settings(study, result.trials[0]), tmp_path).data.n_frames == 4


def test_a_trial_that_another_space_names_otherwise_is_shown_by_the_new_one(desk: Any, fake_runs: Any) -> None:
    before = fake_runs.trial(desk.open(), point(4), [50.0], state="finished")
    study = desk.open(space={"data.n_frames": [4], "localizer.optimizer.lr": [0.01, 0.2]})
    after = fake_runs.trial(study, {**point(4), "localizer.optimizer.lr": "0.01"})
    assert after.id == before.id, "0.01 is the default"
    assert only(study).point == {"data.n_frames": 4, "localizer.optimizer.lr": 0.01}


def test_a_recipe_of_a_population_says_that_it_is_not_all(desk: Any, fake_runs: Any) -> None:
    study = desk.open()
    record = fake_runs.trial(study, point(**{BORN: "ab"}), [10.0])
    text = "this recipe alone does not repeat it"
    assert text not in best_settings(study, only(study))
    parent = fake_runs.trial(study, point(4))
    record.facts_path.write_text(json.dumps({**record.facts, "parent": parent.id}))
    assert text in best_settings(study, collect(study).trials[0])
