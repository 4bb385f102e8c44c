"""What a job that holds a study does; the job itself is in tests/slurm."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import tune.allocation
import tune.ray_session
from colocam_dist.console import RANK_LOST, run_console
from colocam_dist.slurm.afterwards import decide
from colocam_dist.slurm.record import Submission
from tune.allocation import PART, driver_words


@pytest.mark.parametrize(
    ("given", "begun", "requeued", "words"),
    [
        (["--config", "s.yaml"], False, False, ["--config", "s.yaml"]),
        (["--config", "s.yaml"], True, True, ["--config", "s.yaml", "--resume"]),
        (["--resume", "--retry-failed", "a.b=1"], True, False, ["--resume", "--retry-failed", "a.b=1"]),
        (["--resume", "--retry-failed", "a.b=1"], True, True, ["--resume", "a.b=1"]),
    ],
)
def test_failures_are_forgotten_by_the_first_start_of_a_job_only(
    given: list[str], begun: bool, requeued: bool, words: list[str]
) -> None:
    assert driver_words(given, begun=begun, requeued=requeued) == words


@pytest.mark.parametrize("who", ["head", "other node", "driver"])
def test_nodes_that_do_not_come_are_a_failure_after_which_the_job_starts_again(
    who: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune.allocation, "_START_TIME", 0.0)
    monkeypatch.setattr(tune.ray_session, "_JOIN_TIME", 0.0)
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(nodes=lambda: [{"Alive": True}, {"Alive": False}]))
    wait = {
        "head": lambda: tune.allocation._await_port("127.0.0.1", 1),
        "other node": lambda: tune.allocation._lend_node(tune.allocation._Meeting(tmp_path)),
        "driver": lambda: tune.ray_session._await_nodes(2),
    }[who]
    with pytest.raises(SystemExit) as caught:
        run_console(wait)  # type: ignore[arg-type]
    assert caught.value.code == RANK_LOST
    submission = Submission((str(tmp_path),), (PART,), "/", max_requeues=9, max_restarts=1, warning=60)
    assert decide(RANK_LOST, {"JobState": "RUNNING"}, [], submission, done=False, saved=[]).requeue


def test_a_job_that_starts_again_takes_another_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "1999")
    ports = set()
    for start in ("0", "1"):
        monkeypatch.setenv("SLURM_RESTART_COUNT", start)
        ports.add(tune.allocation._Meeting(tmp_path).port)
    assert ports == {7399, 6400}
