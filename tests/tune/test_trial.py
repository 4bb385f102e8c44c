"""Trials as Ray Tune sees them, without its actors."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from colocam_dist.config import dump
from tune import trial
from tune.space import BORN
from tune.trial import StudyTrial

POINT = {"data.n_frames": "2", "run.seed": 0}


class FakeRunner:
    """Notes what it is made of."""

    made: list[FakeRunner] = []  # noqa: RUF012

    def __init__(self, study: Any, point: Any, parent: str | None, member: str) -> None:
        self.point, self.parent, self.member, self.left = point, parent, member, 0
        self.record = SimpleNamespace(id=f"id of {point['data.n_frames']}")
        FakeRunner.made.append(self)

    def next(self) -> dict[str, Any]:
        return {"epoch": 1}

    def leave(self) -> None:
        self.left += 1


@pytest.fixture
def actor(desk: Any, monkeypatch: pytest.MonkeyPatch) -> StudyTrial:
    """What an actor has, after its setup in another folder."""
    study = desk.open()
    study.folder.path.mkdir(parents=True)
    study.folder.settings_path.write_text(dump(study.file))
    monkeypatch.setattr(trial, "TrialRunner", FakeRunner)
    monkeypatch.setattr(FakeRunner, "made", [])
    monkeypatch.chdir("/")
    made = StudyTrial.__new__(StudyTrial)
    made._trial_info = SimpleNamespace(trial_id="t1")
    made.setup({"point": POINT}, str(study.folder.path), str(desk.folder))
    assert Path.cwd() == desk.folder
    return made


def test_the_work_begins_with_the_first_step(actor: StudyTrial) -> None:
    assert FakeRunner.made == []
    assert actor.save_checkpoint("") == {"id": None}
    assert actor.step() == actor.step() == {"epoch": 1}
    (runner,) = FakeRunner.made
    assert (runner.point, runner.parent, runner.member) == (POINT, None, "0 t1")
    assert actor.save_checkpoint("") == {"id": "id of 2"}


def test_members_of_different_sessions_are_different(actor: StudyTrial, desk: Any) -> None:
    for _ in range(2):
        with desk.open().folder.session({}):
            pass
    actor.step()
    assert FakeRunner.made[0].member == "2 t1"


def test_another_trial_in_the_same_actor_begins_anew(actor: StudyTrial) -> None:
    actor.step()
    other = {**POINT, "data.n_frames": "4", BORN: "ab"}
    assert actor.reset_config({"point": other})
    assert FakeRunner.made[0].left == 1
    actor.load_checkpoint({"id": "id of 2"})
    actor.step()
    assert (FakeRunner.made[1].point, FakeRunner.made[1].parent) == (other, "id of 2")
    actor.cleanup()
    assert [runner.left for runner in FakeRunner.made] == [1, 1]


def test_without_a_checkpoint_there_is_no_parent(actor: StudyTrial) -> None:
    actor.load_checkpoint(None)
    actor.step()
    assert FakeRunner.made[0].parent is None
    actor.reset_config({"point": POINT})
    actor.cleanup()
    assert FakeRunner.made[0].left == 1
