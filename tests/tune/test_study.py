"""The command of a study: what it checks, its exit codes and its messages; trials are done by a fake."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from colocam_dist.config import load
from colocam_dist.console import PREEMPTED
from colocam_dist.errors import ColocamError, ConfigError, RunError
from shards.dataset import BuildOptions, build_dataset
from shards.images import PictureRule
from shards.sources.frames_csv import read_frames_csv
from tune.results import StudyResult
from tune.running import OpenStudy
from tune.settings import load_study
from tune.study import main


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[StudyResult]:
    """What reports were written of; they take seconds, and have tests of their own."""
    written: list[StudyResult] = []

    def write(result: StudyResult) -> Path:
        written.append(result)
        return result.folder / "report.html"

    monkeypatch.setattr("tune.study.write_study_report", write)
    return written


class Trials:
    """Does the trials of a study: each has its number of frames as its CorLoc."""

    def __init__(self, fake_runs: Any) -> None:
        self.fake_runs = fake_runs
        self.sessions: list[list[dict[str, Any]]] = []  # ends of the trials as each session found them
        self.finishes = True
        self.fails: tuple[str, ...] = ()
        self.error: Exception | None = None

    def __call__(self, study: OpenStudy, session: Path) -> bool:
        assert session.is_file()
        assert load_study(study.folder.settings_path).config() == study.file.config(), "written down before"
        self.sessions.append([record.end or {} for record in study.folder.records("trial")])
        if self.error is not None:
            raise self.error
        for point in study.space.points():
            if point["data.n_frames"] in self.fails:
                self.fake_runs.trial(study, point, state="failed", error="bad luck")
            else:
                self.fake_runs.trial(study, point, [float(point["data.n_frames"])], state="finished")
        return self.finishes


@pytest.fixture
def trials(fake_runs: Any, reports: list[StudyResult], monkeypatch: pytest.MonkeyPatch) -> Trials:
    made = Trials(fake_runs)
    monkeypatch.setattr("tune.driver.run_trials", made)
    return made


Run = Callable[..., int]


@pytest.fixture
def run(desk: Any, reports: list[StudyResult], trials: Trials, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command with words after --config; keyword arguments are settings of the study's file."""

    def call(*words: str, **study: Any) -> int:
        monkeypatch.setattr(sys, "argv", ["study.py", "--config", str(desk.write(**study)), *words])
        return main()

    return call


def refused(run: Run, *words: str, **study: Any) -> ColocamError:
    with pytest.raises(ColocamError) as caught:
        run(*words, **study)
    return caught.value


def folder(desk: Any) -> Path:
    return Path(desk.folder / "studies" / "s")


def test_a_study_leaves_its_settings_its_best_recipe_and_a_mark(
    run: Run, desk: Any, trials: Trials, reports: list[StudyResult], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("data.flip=false") == 0
    assert trials.sessions == [[]]
    (result,) = reports
    assert (result.finished, result.sessions, len(result.trials)) == (True, 1, 3)
    assert result.command == f"python -m tune.study --config {desk.path} data.flip=false"
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("best: data.n_frames 4; CorLoc (percent) on the validation split")
    assert out[0].endswith(": 4.0")
    assert out[1:] == [f"done: {folder(desk) / 'report.html'}"]
    assert json.loads((folder(desk) / "done.json").read_text()) == {"stages": ["study"]}
    settings = load_study(folder(desk) / "study.yaml")
    assert (settings.study.base, settings.config().data.flip) == (None, False)
    assert load(folder(desk) / "best.yaml").data.n_frames == 4


def test_a_study_without_a_figure_is_no_success(
    run: Run, desk: Any, trials: Trials, capsys: pytest.CaptureFixture[str]
) -> None:
    trials.fails = ("1", "2", "4")
    assert run() == 1
    out = capsys.readouterr().out
    assert f"no trial has a figure yet; their records are in {folder(desk) / 'records'}" in out
    assert "3 of 3 trials failed; the report says why" in out
    assert not (folder(desk) / "done.json").exists()
    assert not (folder(desk) / "best.yaml").exists()


def test_one_bad_trial_does_not_matter(run: Run, trials: Trials, capsys: pytest.CaptureFixture[str]) -> None:
    trials.fails = ("4",)
    assert run() == 0
    out = capsys.readouterr().out
    assert "best: data.n_frames 2" in out
    assert "1 of 3 trials failed" in out


def test_a_study_that_was_asked_to_stop_says_so_by_its_exit_code(
    run: Run, desk: Any, trials: Trials, reports: list[StudyResult]
) -> None:
    trials.finishes = False
    assert run() == PREEMPTED
    assert not reports[0].finished
    assert not (folder(desk) / "done.json").exists()
    trials.finishes = True
    assert run("--resume") == 0
    assert (folder(desk) / "done.json").exists()
    assert [result.sessions for result in reports] == [1, 2]


def test_a_study_that_exists_is_not_begun_again(run: Run, desk: Any, trials: Trials) -> None:
    run()
    before = sorted(path for path in folder(desk).rglob("*"))
    error = refused(run)
    assert isinstance(error, RunError)
    assert (error.what, error.where) == ("a study of this name exists", folder(desk))
    assert "--resume" in str(error.fix)
    assert sorted(path for path in folder(desk).rglob("*")) == before
    assert run(name="other") == 0


@pytest.mark.parametrize("option", ["--resume", "--report", "--cancel"])
def test_what_does_not_exist_cannot_be_gone_on_with(option: str, run: Run, desk: Any, trials: Trials) -> None:
    error = refused(run, option)
    assert (error.what, error.where) == ("there is no such study", folder(desk))
    assert trials.sessions == []
    assert not folder(desk).exists()


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("localizer.epochs=4", "localizer.epochs (3 -> 4)"),
        ("data.flip=false", "data.flip (True -> False)"),
        ("engine.precision=bf16", "engine.precision (fp32 -> bf16)"),
        ("run.stages=[classifier,cams,localizer]", "stages ("),
    ],
)
def test_runs_keep_what_they_have_in_common(override: str, named: str, run: Run, desk: Any, trials: Trials) -> None:
    run()
    error = refused(run, "--resume", override)
    assert error.what == "the study to resume has runs with other settings"
    assert str(error.got).startswith(named)
    assert (error.where, len(trials.sessions)) == (folder(desk) / "study.yaml", 1)


def test_shards_that_were_built_anew_are_noticed(
    run: Run, desk: Any, trials: Trials, tiny_shards: Path, tiny_frames: Path, tmp_path: Path
) -> None:
    shards = Path(shutil.copytree(tiny_shards, tmp_path / "shards"))
    here = f"data.shards={shards}"
    run(here)
    assert run("--resume", here) == 0
    shutil.rmtree(shards)
    rule = PictureRule(keep_up_to=0, short_side=0, quality=95)
    options = BuildOptions(rule, frames_per_piece=4, shard_mb=0.02)
    build_dataset(read_frames_csv(tiny_frames, rule), shards, options)
    error = refused(run, "--resume", here)
    assert error.what == "the shards are not those that the study has begun with"
    assert str(error.got).startswith("other contents in split 'test', split 'train'")
    assert len(trials.sessions) == 2
    (folder(desk) / "data.json").unlink()  # of an earlier version
    assert run("--resume", here) == 0


def test_a_study_may_become_larger_and_work_elsewhere(run: Run, desk: Any, trials: Trials) -> None:
    run()
    assert run("--resume", "study.space.data.n_frames=[1,2,4,8]", "study.seeds=[0,1]", "engine.device=cpu") == 0
    assert len(OpenStudy.at(folder(desk)).folder.records("trial")) == 8
    assert [len(session) for session in trials.sessions] == [0, 3]


def test_a_recipe_that_has_changed_since_is_noticed(run: Run, desk: Any) -> None:
    run()
    desk.recipe.write_text(desk.recipe.read_text() + "evaluation: {iou: 0.7}\n")
    assert "evaluation.iou (0.5 -> 0.7)" in str(refused(run, "--resume").got)


def test_failures_are_tried_again_only_if_asked(run: Run, trials: Trials) -> None:
    trials.fails = ("2",)
    run()
    assert isinstance(refused(run, "--retry-failed"), ConfigError)
    assert "--retry-failed goes with --resume" in str(refused(run, "--retry-failed", name="new"))
    run("--resume")
    trials.fails = ()
    run("--resume", "--retry-failed")
    states = [sorted(end.get("state", "") for end in session) for session in trials.sessions]
    both = ["failed", "finished", "finished"]
    assert states == [[], both, ["", "finished", "finished"]]


def test_a_dry_run_prints_the_points_and_does_nothing(
    run: Run, desk: Any, trials: Trials, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--dry-run", seeds=[5]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out == [*(f"data.n_frames={n}  run.seed=5" for n in (1, 2, 4)), "3 trials"]
    space = {"localizer.optimizer.lr": {"low": 0.1, "high": 0.2}}
    assert run("--dry-run", space=space, search="tpe", samples=6, seeds=[1, 2]) == 0
    assert capsys.readouterr().out == "6 points x 2 seeds, proposed one after another\n"
    assert trials.sessions == []
    assert not folder(desk).exists()


@pytest.mark.parametrize("words", [("--dry-run",), ()])
def test_points_that_cannot_be_run_are_found_before_anything_is_written(
    words: tuple[str, ...], run: Run, desk: Any, trials: Trials
) -> None:
    space = {"data.n_frames": [1, 4], "localizer.global_batch": [8, 2]}
    error = refused(run, *words, "data.n_frames=1", space=space)
    assert "1 point of the search space cannot be run" in str(error)
    assert trials.sessions == []
    assert not folder(desk).exists()


def test_a_typo_costs_nothing(run: Run, desk: Any) -> None:
    assert "did you mean data.n_frames" in str(refused(run, "data.nframes=1"))
    assert "did you mean data.n_frames" in str(refused(run, space={"data.nframes": [1]}))
    assert not folder(desk).exists()


def test_a_report_is_of_the_study_as_it_is(run: Run, desk: Any, trials: Trials, reports: list[StudyResult]) -> None:
    trials.finishes = False
    run("data.flip=false")
    assert run("--report") == 0
    assert (reports[-1].finished, reports[-1].sessions, len(trials.sessions)) == (False, 1, 1)
    assert "data.flip=false" in reports[-1].command
    trials.finishes = True
    run("--resume", "data.flip=false", "study.space.data.n_frames=[1,2,4,8]")
    assert run("--report", "study.seeds=[7]") == 0
    assert reports[-1].finished
    assert reports[-1].dimensions == {"data.n_frames": [1, 2, 4, 8]}, "not as another command line has it"
    assert reports[-1].seeds == (0,)


def test_jobs_are_cancelled(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, trials: Trials
) -> None:
    run(executor="slurm")
    capsys.readouterr()
    jobs: list[str] = []
    monkeypatch.setattr("tune.driver.cancel_jobs", lambda study: jobs)
    assert run("--cancel", executor="slurm") == 0
    assert capsys.readouterr().out == "no job of the study waits or runs\n"
    jobs += ["3", "4"]
    assert run("--cancel", executor="slurm") == 0
    assert capsys.readouterr().out == "cancelled: 3, 4\n"
    assert len(trials.sessions) == 1


def test_the_executor_can_be_chosen_by_an_option(run: Run, desk: Any) -> None:
    run("--executor", "slurm", "data.flip=false")
    assert load_study(folder(desk) / "study.yaml").study.executor == "slurm"


def test_a_study_for_an_allocation_is_submitted_or_done_if_it_is_inside(
    run: Run, desk: Any, trials: Trials, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[tuple[Path, list[str]]] = []

    def submit(study: OpenStudy, words: list[str]) -> str:
        given.append((study.folder.path, words))
        return "17"

    monkeypatch.setattr("tune.allocation.submit_study", submit)
    monkeypatch.delenv("COLOCAM_STUDY_ALLOCATION", raising=False)
    assert run("--executor", "allocation") == 0
    assert "job 17: study s" in capsys.readouterr().out
    assert given == [(folder(desk), ["--config", str(desk.path), "--executor", "allocation"])]
    assert trials.sessions == []
    monkeypatch.setenv("COLOCAM_STUDY_ALLOCATION", "1")
    assert run("--executor", "allocation") == 0
    assert len(trials.sessions) == 1


def test_a_crash_of_the_driver_frees_the_study(run: Run, desk: Any, trials: Trials) -> None:
    trials.error = KeyError("crash")
    with pytest.raises(KeyError):
        run()
    trials.error = None
    assert run("--resume") == 0
    assert [session.get("executor") for session in OpenStudy.at(folder(desk)).folder.sessions()] == ["local"] * 2


@pytest.mark.parametrize(
    "words", [["--report", "--dry-run"], ["--executor", "cloud"], ["--resum"], ["--cancel", "--report"]]
)
def test_bad_options_end_with_status_2(words: list[str], run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(*words)
    assert caught.value.code == 2
    assert words[0].split("=")[0] in capsys.readouterr().err
