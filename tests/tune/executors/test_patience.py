from __future__ import annotations

from typing import Any

import pytest

from colocam_dist.errors import ClusterError
from tune.executors import WorkError, patience


class Work:
    """Refused with these words, one after another, then taken."""

    def __init__(self, *words: str) -> None:
        self.words = list(words)
        self.begun = 0

    def begin(self, config: Any) -> None:
        if self.words:
            raise ClusterError("SLURM refuses", got=self.words.pop(0))
        self.begun += 1


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Time that passes by sleeping only."""
    now = [0.0]
    monkeypatch.setattr(patience.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(patience.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


def begin(work: Any, leaving: Any = lambda: None) -> None:
    patience.begin(work, None, leaving)  # type: ignore[arg-type]


def test_a_controller_that_restarts_is_waited_for(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    work = Work("sbatch: error: Unable to contact slurm controller (connect failure)", "Socket timed out on send/recv")
    begin(work)
    assert work.begun == 1
    assert 14.0 < clock[0] < 16.0
    assert "tried again in 10 s" in caplog.text


def test_it_is_not_waited_for_for_ever(clock: list[float]) -> None:
    work = Work(*["slurm_load_jobs error: Unable to contact slurm controller"] * 99)
    with pytest.raises(ClusterError, match="slurm_load_jobs"):
        begin(work)
    assert 600.0 < clock[0] < 662.0


def test_what_will_not_pass_is_an_error_at_once(clock: list[float]) -> None:
    with pytest.raises(ClusterError, match="invalid partition"):
        begin(Work("sbatch: error: invalid partition specified: nope"))
    assert clock[0] == 0.0


def test_a_study_that_is_to_stop_does_not_wait(clock: list[float]) -> None:
    def leaving() -> None:
        if clock[0] > 2.0:
            raise WorkError("the study was asked to stop")

    with pytest.raises(WorkError):
        begin(Work(*["Socket timed out"] * 9), leaving)
    assert clock[0] < 3.0
