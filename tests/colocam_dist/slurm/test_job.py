"""What each rank runs: the part of the submission, and how it leaves."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from submitit.core.utils import DelayedSubmission

from colocam_dist.config import load
from colocam_dist.errors import ConfigError, MemoryLimitError, PreemptedError, RankLostError, ReportedElsewhereError
from colocam_dist.runs.folder import RunFolder
from colocam_dist.slurm.job import TrainJob
from colocam_dist.slurm.record import Part, SlurmFolder, attempts_of

CHAIN = (Part(("classifier",), "done-classifier.json"), Part(("cams", "localizer")))


class Training:
    """In place of the training, which it says nothing of but with what it was called."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[str, ...], str]] = []
        self.place: Path | None = None
        self.error: BaseException | None = None
        self.reason: str | None = None
        self.signal: signal.Signals | None = None

    def __call__(self, config: Any, *, stages: tuple[str, ...], marker: str, stop: Any) -> None:
        assert config.run.on_exists == "resume"
        self.calls.append((config.run.name, stages, marker))
        self.place = Path.cwd()
        if self.signal is not None:
            os.kill(os.getpid(), self.signal)
        self.reason = stop.reason
        if self.error is not None:
            raise self.error


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Training:
    """It keeps torch out as well."""
    module = ModuleType("colocam_dist.training.pipeline")
    module.run = Training()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module.run  # type: ignore[no-any-return]


@pytest.fixture
def job(
    fake_slurm: Any, submitted: Callable[..., SlurmFolder], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., int | str]:
    """Calls a rank: ``job(rank=0, part=0, runs=("a",), **environment)``; returns its exit code, or what it returned."""

    made: dict[tuple[str, ...], SlurmFolder] = {}

    def call(rank: int = 0, part: int = 0, runs: tuple[str, ...] = ("a",), **environment: str) -> int | str:
        if runs not in made:
            made[runs] = submitted(runs, CHAIN, max_requeues=5)
            for name in runs:
                place = f"run.folder={made[runs].run.parent}"
                RunFolder.create(load(None, ["data.shards=here", place, f"run.name={name}"]))
        given = {"SLURM_JOB_ID": "7", "SLURM_PROCID": str(rank), "SLURM_JOB_NODELIST": "vn[1-2]", **environment}
        with monkeypatch.context() as context:
            context.chdir(Path.cwd())  # to come back
            for name, value in given.items():
                context.setenv(name, value)
            try:
                return TrainJob(str(made[runs].run), part)()
            except SystemExit as end:
                return int(end.code or 0)

    return call


def starts(run: Path) -> list[dict[str, Any]]:
    rows = attempts_of(run)
    return [{name: value for name, value in row.items() if name != "time"} for row in rows]


def test_a_rank_does_its_part_and_returns_the_folder(
    job: Callable[..., int | str], training: Training, tmp_path: Path
) -> None:
    assert job() == str(tmp_path / "a")
    assert job(part=1) == str(tmp_path / "a")
    assert training.calls == [
        ("a", ("classifier",), "done-classifier.json"),
        ("a", ("cams", "localizer"), "done.json"),
    ]


def test_relative_paths_start_where_the_run_was_submitted(
    job: Callable[..., int | str], training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    job()
    assert training.place == tmp_path


def test_a_task_of_an_array_does_its_own_run(job: Callable[..., int | str], training: Training, tmp_path: Path) -> None:
    task = {"SLURM_JOB_ID": "8", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1"}
    assert job(runs=("a", "b"), **task) == str(tmp_path / "b")
    assert training.calls == [("b", ("classifier",), "done-classifier.json")]
    assert [row["job"] for row in starts(tmp_path / "b")] == ["7_1"]
    assert starts(tmp_path / "a") == []


def test_rank_0_notes_the_start(job: Callable[..., int | str], training: Training, tmp_path: Path) -> None:
    job(rank=1)
    assert starts(tmp_path / "a") == []
    job(rank=0, SLURM_STEP_NUM_TASKS="8", SLURM_RESTART_COUNT="2")
    row = {"event": "start", "part": "classifier", "job": "7", "nodes": "vn[1-2]", "tasks": "8", "requeues": 2}
    assert starts(tmp_path / "a") == [row]


@pytest.mark.parametrize(
    ("error", "codes"),
    [
        (PreemptedError("asked"), [85, "returned", "returned"]),
        (ReportedElsewhereError("there"), [2, "returned", "returned"]),
        (ConfigError("bad"), [2, 2, 2]),
        (RankLostError("gone"), [86, 86, 86]),
        (MemoryLimitError("full"), [87, 87, 87]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_ranks_leave_so_that_only_rank_0_has_the_code_where_others_only_follow(
    error: Exception, codes: list[int | str], job: Callable[..., int | str], training: Training, tmp_path: Path
) -> None:
    training.error = error
    expected = [str(tmp_path / "a") if code == "returned" else code for code in codes]
    assert [job(rank=rank) for rank in range(3)] == expected


def test_an_error_of_the_program_is_not_hidden(job: Callable[..., int | str], training: Training) -> None:
    training.error = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError, match="a bug"):
        job(rank=1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_is_a_request_that_the_training_sees(
    number: signal.Signals, job: Callable[..., int | str], training: Training, tmp_path: Path
) -> None:
    before = signal.getsignal(number)
    training.signal = number
    assert job() == str(tmp_path / "a")
    assert training.reason == number.name
    assert signal.getsignal(number) is before


def test_a_job_that_slurm_requeued_too_often_ends(
    job: Callable[..., int | str], training: Training, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    assert job(SLURM_RESTART_COUNT="5") == str(tmp_path / "a")
    assert len(training.calls) == 1
    assert [job(rank=rank, SLURM_RESTART_COUNT="6") for rank in (1, 0)] == [str(tmp_path / "a"), 2]
    assert len(training.calls) == 1
    assert len(starts(tmp_path / "a")) == 2
    failed = json.loads((tmp_path / "a/failed.json").read_text())
    assert failed["type"] == "ClusterError"
    assert failed["error"].startswith("the job was requeued too often")
    assert "6 times" in failed["error"]
    assert "slurm.max_requeues=5 at most" in failed["error"]


def test_a_signal_before_it_was_called_makes_submitit_run_the_same_again(tmp_path: Path) -> None:
    again = TrainJob("/runs/a", 1).checkpoint()
    again.dump(tmp_path / "job.pkl")
    call = DelayedSubmission.load(tmp_path / "job.pkl").function
    assert (type(call).__name__, call.folder, call.part) == ("TrainJob", "/runs/a", 1)
