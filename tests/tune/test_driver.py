"""What the driver does around Ray Tune, without Ray."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from colocam_dist.errors import ClusterError
from colocam_dist.slurm.record import SlurmFolder, Submission
from tune import driver
from tune.executors.slurm import states_path
from tune.folder import Record
from tune.running import OpenStudy
from tune.space import BORN


def point(n_frames: int, seed: int = 0, **more: Any) -> dict[str, Any]:
    return {"data.n_frames": str(n_frames), "run.seed": seed, **more}


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def in_order(study: OpenStudy) -> list[dict[str, Any]]:
    return driver._in_order([record.facts["point"] for record in study.folder.records("trial")], study)


def test_points_of_earlier_sessions_come_first(desk: Any, fake_runs: Any) -> None:
    study = desk.open(seeds=[0, 1])
    for one in (point(4), point(1, 1)):
        fake_runs.trial(study, one)
    rest = [point(1), point(2), point(2, 1), point(4, 1)]
    assert in_order(study) == [point(4), point(1, 1), *rest]


def test_points_that_are_none_any_more_are_not_done(desk: Any, fake_runs: Any) -> None:
    fake_runs.trial(desk.open(), point(4))
    fake_runs.trial(desk.open(), point(2))
    assert in_order(desk.open(space={"data.n_frames": [1, 2]})) == [point(2), point(1)]
    space = {"data.n_frames": [2, 4], "data.flip": [True, False]}
    assert in_order(desk.open(space=space)) == desk.open(space=space).space.points()


PBT: dict[str, Any] = {
    "scheduler": {"name": "pbt"},
    "search": "random",
    "samples": 3,
    "space": {"localizer.optimizer.lr": {"low": 0.1, "high": 0.2}},
}


def test_a_population_goes_on_where_its_members_are(desk: Any, fake_runs: Any) -> None:
    study = desk.open(**PBT)
    first, second, third = study.space.points()
    born = {"localizer.optimizer.lr": 0.17, "run.seed": 0, BORN: "ab"}
    records = [fake_runs.trial(study, one) for one in (first, second, born)]
    records[0].finish("stopped", replaced=True)
    assert in_order(study) == [second, born, third], "as many as the population has"


def test_a_population_of_another_space_begins_anew(desk: Any, fake_runs: Any) -> None:
    fake_runs.trial(desk.open(**PBT), desk.open(**PBT).space.points()[0])
    weight = {"localizer.loss.colocalization.weight": {"low": 1, "high": 2}}
    study = desk.open(**{**PBT, "space": {**PBT["space"], **weight}})
    assert in_order(study) == study.space.points()


@pytest.mark.parametrize(
    ("study", "concurrent", "wanted"),
    [
        ({"executor": "slurm"}, 8, (8.0, 0.0)),
        ({}, None, (3.0, 0.0)),
        ({"resources": {"cpus": 5}}, None, (5.0, 0.0)),
        ({"resources": {"gpus": 0.5}}, None, (3.0, None)),
    ],
)
def test_ray_is_told_of_what_there_is(
    study: dict[str, Any],
    concurrent: int | None,
    wanted: tuple[float, float | None],
    desk: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2})
    assert driver._machine(desk.open(**study), concurrent) == wanted


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """In place of Ray: notes what it would have been given; a function in the list is called while Ray starts."""
    given: list[Any] = []

    @contextlib.contextmanager
    def session(token: Path, cpus: float, gpus: float | None) -> Iterator[Path]:
        if given and callable(given[0]):
            given.pop(0)()
        yield token.parent

    def tune(study: OpenStudy, points: Any, known: Any, progress: Any, temporary: Path, concurrent: Any) -> None:
        given.append((points, known, concurrent))

    monkeypatch.setattr(driver, "ray_session", session)
    monkeypatch.setattr(driver, "_tune", tune)
    return given


def test_a_session_begins_without_the_marks_of_the_last_one(desk: Any, ray: list[Any], fake_runs: Any) -> None:
    study = desk.open(concurrent=3)
    fake_runs.trial(study, point(2))
    for mark in ("leave", "done.json"):
        (study.folder.path / mark).touch()
    with study.folder.session({}) as session:
        assert driver.run_trials(study, session)
    assert ray == [([point(2), point(1), point(4)], [point(2)], 3)]
    assert not (study.folder.path / "leave").exists()
    assert not (study.folder.path / "done.json").exists()


def test_tpe_has_no_list_of_points(desk: Any, ray: list[Any], fake_runs: Any) -> None:
    study = desk.open(search="tpe", samples=5)
    fake_runs.trial(study, point(2))
    with study.folder.session({}) as session:
        driver.run_trials(study, session)
    assert ray == [([], [point(2)], None)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_stop_before_ray_is_there_is_heard(
    number: int, desk: Any, ray: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    study = desk.open()
    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    ray.append(lambda: os.kill(os.getpid(), number))
    with study.folder.session({}) as session:
        assert not driver.run_trials(study, session)
    assert ray == [], "no trial was begun"
    assert study.folder.leave_path.exists()
    assert "--resume goes on with it" in caplog.text
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)] == handlers


def test_a_request_to_stop_reaches_trials_and_ray_once(desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = desk.open().folder
    folder.path.mkdir(parents=True)
    with driver._signals(folder) as came:
        told: list[int] = []
        signal.signal(signal.SIGUSR1, lambda number, frame: told.append(number))  # as Ray Tune does
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
    assert came == ["SIGTERM", "SIGINT"]
    assert told == [signal.SIGUSR1]
    assert folder.leave_path.exists()


def test_the_session_is_touched_as_long_as_it_goes_on(desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "_TOUCH_EVERY", 0.005)
    study = desk.open()
    with study.folder.session({}) as session:
        os.utime(session, (1.0, 1.0))
        with driver._background(study, session):
            wait_for(lambda: session.stat().st_mtime > 1.0)
            session.unlink()  # a full disk, or worse
            time.sleep(0.02)
            assert [thread.name for thread in threading.enumerate()].count("touch-session") == 1
        assert "touch-session" not in [thread.name for thread in threading.enumerate()]
        session.touch()


def job(record: Record, number: str) -> None:
    """As if the trial had this job."""
    folder = SlurmFolder(record.run)
    folder.write(Submission((str(record.run),), (), str(record.run), 1, 1, 1))
    folder.add_job(0, number)


def test_slurm_is_asked_at_the_begin_and_at_the_end(desk: Any, fake_runs: Any, fake_slurm: Any) -> None:
    fake_slurm.cluster()
    fake_slurm.queue("11|RUNNING|None|vn1|0:01|1:00:00|N/A", "12|RUNNING|None|vn1|0:01|1:00:00|N/A")
    study = desk.open(executor="slurm", ask_slurm_every=1000)
    lives, over = fake_runs.trial(study, point(1)), fake_runs.trial(study, point(2), state="stopped")
    job(lives, "11")
    job(over, "12")
    with study.folder.session({}) as session:
        with driver._background(study, session):
            time.sleep(0.05)
        told = json.loads(states_path(study.folder).read_text())
    assert told["active"] == {"11": True}
    assert ["12"] in fake_slurm.calls("scancel"), "the driver was killed before it could do so"
    assert driver.cancel_jobs(study) == ["11", "12"]


def test_a_slurm_that_is_away_does_not_end_the_study(
    desk: Any, fake_slurm: Any, fake_runs: Any, caplog: pytest.LogCaptureFixture
) -> None:
    study = desk.open(executor="slurm", ask_slurm_every=0.5)
    job(fake_runs.trial(study, point(1)), "11")
    with study.folder.session({}) as session, driver._background(study, session):
        wait_for(lambda: "SLURM is not here" in caplog.text)
    with pytest.raises(ClusterError):
        driver.cancel_jobs(study)
