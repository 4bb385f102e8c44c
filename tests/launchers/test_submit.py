"""The command line of ``launchers/submit.py`` where there is no SLURM."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from colocam_dist.console import run_console
from colocam_dist.errors import ClusterError
from colocam_dist.slurm.record import Part, SlurmFolder, Submission
from launchers import submit

ROOT = Path(__file__).parents[2]


def called(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """Its exit code, also if the parser ends it."""
    monkeypatch.setattr(sys, "argv", ["submit.py", *map(str, words)])
    try:
        return submit.main()
    except SystemExit as end:
        return int(end.code or 0)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--help"], ["--config", "section.key=value", "--dry-run", "--follow", "--chain", "--array", "--like RUN"]),
        (["status", "--help"], ["submit.py status", "State of a run", "run"]),
        (["logs", "--help"], ["submit.py logs", "The ends of the newest logs", "--rank", "--lines"]),
        (["cancel", "--help"], ["submit.py cancel", "what it has saved stays"]),
        (["resume", "--help"], ["submit.py resume", "Submit again", "--new-code", "--follow", "section.key=value"]),
    ],
    ids=lambda words: words[0] if len(words) < 3 else "",
)
def test_help_is_there_for_every_command(
    words: list[str], parts: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(monkeypatch, *words) == 0
    shown = capsys.readouterr().out
    assert [part for part in parts if part not in shown] == []


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--dry"], "--dry"),
        (["--array"], "--array"),
        (["status"], "run"),
        (["logs", "runs/a", "--rank", "first"], "--rank"),
        (["cancel", "runs/a", "--follow"], "--follow"),
    ],
)
def test_bad_options_end_with_2(
    words: list[str], named: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(monkeypatch, *words) == 2
    assert named in capsys.readouterr().err.splitlines()[-1]


@pytest.fixture
def without_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder, and nothing on the PATH."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "desk").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.chdir(tmp_path / "desk")
    return tmp_path / "desk"


def test_a_dry_run_shows_plan_and_scripts_and_does_nothing(
    without_slurm: Path, tiny_shards: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [f"data.shards={tiny_shards}", "run.name=a", "slurm.nodes=2", "slurm.time=2:30:00"]
    assert (
        called(monkeypatch, settings[0], "--dry-run", *settings[1:], "run.stages=[classifier,evaluate]", "--chain") == 0
    )
    plan, *scripts = capsys.readouterr().out.split("#!/bin/bash")
    assert plan.splitlines()[0] == "nodes      2 x (1 ranks, no GPUs, 3 CPUs for each rank), 150 min at a time"
    assert len(scripts) == 2
    assert all("#SBATCH --nodes=2" in script and "#SBATCH --time=150" in script for script in scripts)
    assert ["--dependency=afterok:JOB" in script for script in scripts] == [False, True]
    assert all(f"afterwards {without_slurm}/runs/a --part {part} " in script for part, script in enumerate(scripts))
    assert list(without_slurm.iterdir()) == []


def test_a_dry_run_of_an_array_names_its_runs(
    without_slurm: Path, tiny_shards: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = without_slurm / "run.yaml"
    path.write_text(f"data: {{shards: {tiny_shards}}}\nrun: {{name: sweep}}\n")
    axes = ["--array", "run.seed=0,1", "--array", "data.n_frames=2,4"]
    assert called(monkeypatch, "--dry-run", "--config", path, *axes) == 0
    shown = capsys.readouterr().out.splitlines()
    names = [f"sweep.seed-{seed}.n_frames-{frames}" for seed in (0, 1) for frames in (2, 4)]
    assert f"runs       {', '.join(names)}" in shown
    assert "#SBATCH --array=0-3%4" in shown
    assert [entry.name for entry in without_slurm.iterdir()] == ["run.yaml"]


def test_the_script_runs_the_python_that_submits(
    without_slurm: Path, tiny_shards: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(monkeypatch, "--dry-run", f"data.shards={tiny_shards}") == 0
    assert f"{shlex.quote(sys.executable)} -u -m submitit.core._submit " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["slurm.nodse=2", "--dry-run"], "slurm.nodse [command line]: unknown setting; did you mean slurm.nodes"),
        (["slurm.time=1h"], "slurm.time [command line]: not a time"),
        (["--array", "run.seed"], "not an axis of an array"),
        (["data.shards=nowhere"], "nowhere"),
        (["slurm.nodes=3"], "the global batch cannot be divided over the ranks"),
        ([], "SLURM is not here"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_user_error_is_a_message_and_exit_code_2(
    words: list[str],
    said: str,
    without_slurm: Path,
    tiny_shards: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["submit.py", f"data.shards={tiny_shards}", *words])
    with pytest.raises(SystemExit) as caught:
        run_console(submit.main)
    assert caught.value.code == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ")
    assert said in shown.err
    assert list(without_slurm.iterdir()) == []


@pytest.mark.parametrize("command", ["status", "logs", "cancel", "resume"])
def test_a_folder_that_was_not_submitted_is_refused(
    command: str, without_slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ClusterError, match="this was not submitted to SLURM"):
        called(monkeypatch, command, "runs/a")


def test_an_unknown_setting_is_refused_without_a_traceback(without_slurm: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "launchers/submit.py"), "data.shards=here", "slurm.nodse=2", "--dry-run"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: 1 problem in the settings\n  - slurm.nodse [command line]: unknown setting")
    assert "Traceback" not in done.stderr


def test_a_run_whose_working_folder_is_gone_is_not_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = str(tmp_path / "gone")
    SlurmFolder(tmp_path / "a").write(Submission((str(tmp_path / "a"),), (Part(("classifier",)),), gone, 1, 1, 60))
    with pytest.raises(ClusterError, match="cannot be entered") as caught:
        called(monkeypatch, "resume", tmp_path / "a")
    assert caught.value.where == gone
