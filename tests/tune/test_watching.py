"""What the driver writes down when Ray Tune says that a trial has a result, is over, or has failed."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from colocam_dist.errors import ClusterError
from tune import watching
from tune.executors import WorkError
from tune.folder import Record
from tune.progress import Progress
from tune.running import OpenStudy
from tune.space import BORN
from tune.watching import Watching

POINT = {"data.n_frames": "2", "run.seed": 0}


class Told(Progress):
    """Notes what it is told; cannot be pickled, as a drawn table."""

    def __init__(self) -> None:
        super().__init__("s", None)
        self.lock = threading.Lock()
        self.started: list[tuple[str, int]] = []
        self.rows: list[tuple[str, int]] = []
        self.ends: list[tuple[str, str, str]] = []

    def begun(self, id: str, facts: Any) -> None:
        self.started.append((id, facts["epochs"]))

    def row(self, id: str, facts: Any, row: Any) -> None:
        self.rows.append((id, row["epoch"]))

    def over(self, id: str, facts: Any, state: str, why: str = "") -> None:
        self.ends.append((id, state, why))


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def study(desk: Any) -> OpenStudy:
    return desk.open()


@pytest.fixture
def cancelled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Trials whose jobs are cancelled."""
    found: list[str] = []
    monkeypatch.setattr(watching, "cancel", lambda records: found.extend(record.id for record in records))
    return found


def of_ray(point: dict[str, Any], record: Record | None = None, epoch: int = 2, error: Any = None) -> Any:
    """A trial as Ray has it."""
    result = {} if record is None else {"id": record.id, "epoch": epoch, "corloc": 1.0, "best_corloc": 1.0}
    return SimpleNamespace(trial_id="t1", config={"point": point}, last_result=result, get_error=lambda: error)


def end_of(record: Record) -> tuple[Any, ...] | None:
    end = record.end
    return None if end is None else (end["state"], end.get("epoch"), end.get("replaced", False))


def test_who_is_over_without_an_end_was_ended_by_the_scheduler(
    study: OpenStudy, told: Told, cancelled: list[str], fake_runs: Any
) -> None:
    record = fake_runs.trial(study, POINT, [10.0, 20.0, 30.0])
    Watching(study, told).on_trial_complete(1, [], of_ray(POINT, record))
    assert end_of(record) == ("stopped", 2, False)
    assert told.ends == [(record.id, "stopped", "")]
    assert cancelled == [], "there are no jobs"


def test_who_has_an_end_keeps_it(study: OpenStudy, told: Told, fake_runs: Any) -> None:
    record = fake_runs.trial(study, POINT, [10.0, 20.0, 30.0], state="finished")
    Watching(study, told).on_trial_complete(1, [], of_ray(POINT, record, 3))
    assert end_of(record) == ("finished", None, False)
    assert told.ends == [(record.id, "finished", "")]


def test_when_the_session_ends_nobody_is_stopped(
    desk: Any, told: Told, cancelled: list[str], fake_runs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = desk.open(executor="slurm")
    record = fake_runs.trial(study, POINT, [10.0])
    watcher = Watching(study, told)
    watcher.on_step_begin(0, [])
    study.folder.leave_path.touch()
    watcher.on_trial_complete(1, [], of_ray(POINT, record))
    watcher.on_trial_error(1, [], of_ray(POINT, record, error=WorkError("the study was asked to stop")))
    assert record.end is None
    assert cancelled == []
    came: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: came.append(number))
    try:
        watcher.on_step_begin(1, [])
        assert came == [signal.SIGUSR1], "Ray Tune is told again"
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_the_job_of_who_is_ended_is_cancelled(desk: Any, told: Told, cancelled: list[str], fake_runs: Any) -> None:
    study = desk.open(executor="slurm")
    record = fake_runs.trial(study, POINT, [10.0, 20.0])
    Watching(study, told).on_trial_complete(1, [], of_ray(POINT, record))
    assert end_of(record) == ("stopped", 2, False)
    assert cancelled == [record.id]


def test_a_slurm_or_disk_that_fails_does_not_end_the_study(
    desk: Any, told: Told, fake_runs: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    study = desk.open(executor="slurm")
    record = fake_runs.trial(study, POINT, [10.0, 20.0])

    def away(records: Any) -> None:
        raise ClusterError("SLURM does not answer")

    def full(record: Record, state: str, **facts: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(watching, "cancel", away)
    monkeypatch.setattr(Record, "finish", full)
    watcher = Watching(study, told)
    watcher.on_trial_complete(1, [], of_ray(POINT, record))
    watcher.on_trial_error(1, [], of_ray(POINT, record, error=WorkError("x")))
    assert "could not be written down that trial" in caplog.text
    assert "SLURM does not answer" in caplog.text
    assert "a trial has failed and left no record: x" in caplog.text


def test_rows_are_passed_on(study: OpenStudy, told: Told, fake_runs: Any) -> None:
    record = fake_runs.trial(study, POINT, [10.0, 20.0])
    watcher = Watching(study, told)
    for epoch in (1, 2):
        trial = of_ray(POINT, record, epoch)
        watcher.on_trial_result(epoch, [], trial, trial.last_result)
    assert told.rows == [(record.id, 1), (record.id, 2)]
    assert record.end is None


def test_what_pbt_has_replaced_is_over(desk: Any, told: Told, cancelled: list[str], fake_runs: Any) -> None:
    study = desk.open(executor="slurm")
    first, second = fake_runs.trial(study, POINT, [10.0]), fake_runs.trial(study, {**POINT, BORN: "ab"}, [20.0])
    other = fake_runs.trial(study, {**POINT, "run.seed": 1}, [5.0])
    watcher = Watching(study, told)
    for record in (first, second, second):
        trial = of_ray(POINT, record, 1)
        watcher.on_trial_result(1, [], trial, trial.last_result)
    trial = of_ray(POINT, other)
    trial.trial_id = "t2"
    watcher.on_trial_result(1, [], trial, trial.last_result)
    assert [end_of(record) for record in (first, second, other)] == [("stopped", None, True), None, None]
    assert cancelled == [first.id]
    assert told.ends == [(first.id, "replaced", "")]


class RayTaskError(Exception):
    """As Ray wraps what an actor raised."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(f"ray::StudyTrial.train()\n{cause}")
        self.cause = cause


@pytest.mark.parametrize(
    ("error", "message", "traceback"),
    [
        (RayTaskError(OSError(28, "No space left")), "[Errno 28] No space left", "ray::StudyTrial.train()"),
        (WorkError("killed"), "killed", "killed"),
        (None, "its actor was lost", ""),
    ],
)
def test_a_failure_that_only_ray_knows_of_is_written_down(
    error: Any, message: str, traceback: str, desk: Any, told: Told, cancelled: list[str], fake_runs: Any
) -> None:
    study = desk.open(executor="slurm")
    record = fake_runs.trial(study, POINT, [10.0])
    Watching(study, told).on_trial_error(1, [], of_ray(POINT, record, error=error))
    end = record.end
    assert end is not None
    assert (end["state"], end["error"]) == ("failed", message)
    assert end["traceback"].startswith(traceback)
    assert told.ends == [(record.id, "failed", message)]
    assert cancelled == [record.id]


def test_what_the_trial_itself_said_of_its_failure_stands(study: OpenStudy, told: Told, fake_runs: Any) -> None:
    record = fake_runs.trial(study, POINT, [10.0], state="failed", error="loss is NaN", traceback="T")
    Watching(study, told).on_trial_error(1, [], of_ray(POINT, record, error=RayTaskError(WorkError("other"))))
    assert told.ends == [(record.id, "failed", "loss is NaN")]


def test_settings_that_contradict_each_other_do_not_end_the_study(
    desk: Any, told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    space = {"data.n_frames": [1, 4], "localizer.global_batch": [8, 2]}
    study = desk.open("data.n_frames=1", space=space, search="tpe", samples=2)
    point = {"data.n_frames": "4", "localizer.global_batch": "2", "run.seed": 0}
    watcher = Watching(study, told)
    watcher.on_trial_start(1, [], of_ray(point))
    watcher.on_trial_error(1, [], of_ray(point, error=RayTaskError(ValueError("smaller than a window"))))
    assert "a trial has failed and left no record: smaller than a window" in caplog.text
    assert told.ends == []


def test_a_trial_is_shown_as_soon_as_it_is_begun(study: OpenStudy, told: Told) -> None:
    Watching(study, told).on_trial_start(0, [], of_ray(POINT))
    assert told.started == [(study.trial(POINT).id, study.space.config(POINT).localizer.epochs)]


def test_ray_can_write_it_down_although_a_table_is_drawn(study: OpenStudy, told: Told) -> None:
    pickle.loads(pickle.dumps(Watching(study, told)))
