"""Trials that begin with the weights of others, and replace them."""

from __future__ import annotations

from typing import Any

import pytest

from tune.folder import Record
from tune.population import end_replaced, inherit, points_of_members
from tune.running import OpenStudy
from tune.space import BORN

POINT = {"data.n_frames": "2", "run.seed": 0}
OTHER = {**POINT, "data.n_frames": "4"}


@pytest.fixture
def study(desk: Any) -> OpenStudy:
    return desk.open()


def checkpoint(record: Record, step: int) -> None:
    folder = record.run / "checkpoints" / "localizer"
    (folder / f"step-{step}").mkdir(parents=True)
    (folder / f"step-{step}" / "state.pt").write_text(str(step))
    (folder / "latest.json").write_text(f'{{"step": {step}}}')
    (folder / ".partial").mkdir(exist_ok=True)


def files(record: Record) -> dict[str, str]:
    folder = record.run / "checkpoints"
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_child_has_the_checkpoints_of_its_parent(study: OpenStudy, fake_runs: Any) -> None:
    parent, child = fake_runs.trial(study, POINT), fake_runs.trial(study, {**POINT, BORN: "ab12"})
    checkpoint(parent, 2)
    inherit(parent, child)
    wanted = {"localizer/step-2/state.pt": "2", "localizer/latest.json": '{"step": 2}'}
    assert files(child) == wanted
    assert not (child.run / "checkpoints" / "localizer" / ".partial").exists()
    checkpoint(parent, 3)
    inherit(parent, child)
    assert files(child) == wanted, "what it has it keeps"


def test_a_checkpoint_that_the_parent_removes_meanwhile_is_no_failure(
    study: OpenStudy, fake_runs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, child = fake_runs.trial(study, POINT), fake_runs.trial(study, {**POINT, BORN: "ab12"})
    waits: list[float] = []

    def pause(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            checkpoint(parent, 4)

    monkeypatch.setattr("tune.population.time.sleep", pause)
    inherit(parent, child)
    assert len(waits) == 2
    assert "localizer/step-4/state.pt" in files(child)
    with pytest.raises(FileNotFoundError):
        inherit(study.folder.trial("none"), fake_runs.trial(study, {**POINT, BORN: "cd34"}))


def test_of_a_member_the_newest_trial_goes_on(study: OpenStudy, fake_runs: Any) -> None:
    born = {**POINT, BORN: "ab"}
    again = {**born, BORN: "cd"}
    records = [fake_runs.trial(study, one) for one in (POINT, OTHER, born, again)]
    for record, member in zip(records, ("1 a", "1 b", "1 a", "1 a"), strict=True):
        record.note_member(member)
    end_replaced(study.folder)
    ends = [record.end and (record.end["state"], record.end["replaced"]) for record in records]
    assert ends == [("stopped", True), None, ("stopped", True), None]
    assert points_of_members(study.folder) == [OTHER, again]


def test_trials_without_a_member_replace_nobody(study: OpenStudy, fake_runs: Any) -> None:
    records = [fake_runs.trial(study, one) for one in (POINT, OTHER)]
    end_replaced(study.folder)
    assert [record.end for record in records] == [None, None]
    assert points_of_members(study.folder) == [POINT, OTHER]
