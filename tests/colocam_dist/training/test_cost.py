from __future__ import annotations

from pathlib import Path

import pytest
import torch

from colocam_dist.errors import RunError
from colocam_dist.training import cost as module
from colocam_dist.training.cost import StageCost

CPU = torch.device("cpu")


def test_space_that_cannot_suffice_is_noticed_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 2_999_999})())
    with pytest.raises(RunError, match=r"too little space(.|\n)*about 0.00 GB: 3 of 1.0 MB(.|\n)*checkpoint.keep"):
        StageCost("localizer", 10, 7, 0, CPU).before(tmp_path / "not" / "there", 10**6, 2)
    line = StageCost("localizer", 10, 7, 21, CPU).before(tmp_path, 10**6, 1)
    assert line.startswith("localizer: 49 of 70 steps to do (10 epochs of 7); checkpoints of about 1.0 MB, at most 2")
    with pytest.raises(RunError, match=r"11 of 1\.0 MB"):
        StageCost("localizer", 10, 7, 0, CPU).before(tmp_path, 10**6, None)
    assert not caplog.records
    line = StageCost("localizer", 10, 7, 0, CPU).before(tmp_path, 10**6, 2, must_fit=False)
    assert line.startswith("localizer: 70 of 70 steps to do")
    assert "too little space" in caplog.text, "those who would rather go on without are told, and go on"


def test_checkpoints_of_earlier_processes_are_no_lack_of_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = 3_500_000
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": free})())
    StageCost("localizer", 10, 7, 0, CPU).before(tmp_path, 10**6, 2)
    for step in (7, 14):  # two of them later, a killed run is resumed with the space that an undisturbed one would have
        (tmp_path / f"step-{step}").mkdir()
        (tmp_path / f"step-{step}" / "tensors.pt").write_bytes(bytes(10**6))
    free = 1_500_000
    StageCost("localizer", 10, 7, 14, CPU).before(tmp_path, 10**6, 2)
    free = 900_000
    with pytest.raises(RunError, match=r"0\.00 GB free, 0\.00 GB of checkpoints"):
        StageCost("localizer", 10, 7, 14, CPU).before(tmp_path, 10**6, 2)
    StageCost("localizer", 10, 7, 70, CPU).before(tmp_path, 10**6, 2)  # nothing is left to do


def test_time_is_foretold_once_after_the_first_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(module.time, "perf_counter", lambda: now)
    cost = StageCost("classifier", 4, 50, 0, CPU)
    lines = []
    for step in range(60):
        now += 9.0 if step == 0 else 0.5  # the first step is slow and does not count
        lines.append(cost.step())
    (line,) = [line for line in lines if line]
    assert lines.index(line) == 19
    assert line.startswith("classifier: 500 ms a step, so about 90 s of training are left") or "2 min" in line
    with cost.saving():
        now += 2.0
    spent = cost.after()
    assert spent.pop("saving_seconds") == 2.0
    spent["seconds"] -= 2.0
    assert (spent["steps"], spent["seconds"]) == (60, 9.0 + 59 * 0.5)
    assert spent["memory_gib"] > 0


def test_a_short_stage_foretells_nothing() -> None:
    cost = StageCost("classifier", 1, 20, 0, CPU)
    assert [cost.step() for _ in range(20)] == [None] * 20
