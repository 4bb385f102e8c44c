"""Following a submission: every news once, and the right verdict at the end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from colocam_dist.errors import ClusterError
from colocam_dist.slurm import follow as follow_module
from colocam_dist.slurm import follow as module
from colocam_dist.slurm.follow import follow
from colocam_dist.slurm.record import SlurmFolder, add_attempt

MARK = '{"stages": ["classifier", "cams", "localizer", "evaluate"]}'


ROW = {"stage": "classifier", "kind": "train", "epoch": 1, "step": 1, "loss": 0.5}
SAID = "classifier train, epoch 1, step {}: loss 0.5"


def metrics(run: Path, *steps: int, tail: str = "") -> None:
    """Append rows of metrics."""
    with (run / "metrics.jsonl").open("a") as file:
        file.write("".join(json.dumps({**ROW, "step": step}) + "\n" for step in steps) + tail)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[Iterator[None]], None]:
    """What happens between two looks: each pause goes on to the next yield, and there must be as many."""

    def play(happens: Iterator[None]) -> None:
        monkeypatch.setattr(
            module, "time", SimpleNamespace(sleep=lambda seconds: next(happens), monotonic=time.monotonic)
        )

    return play


def test_all_that_happens_is_said_once(
    fake_slurm: Any, submitted: Callable[..., SlurmFolder], script: Callable[[Iterator[None]], None]
) -> None:
    folder = submitted()
    run = folder.run
    folder.add_job(0, "101")
    metrics(run, 1)  # of an earlier job
    add_attempt(run, {"event": "end", "part": "classifier", "job": "100", "reason": "old", "requeue": False})
    fake_slurm.queue("101|PENDING|None||0:00|1:00|N/A")
    said: list[str] = []

    def happens() -> Iterator[None]:
        fake_slurm.queue("101|PENDING|Resources||0:00|1:00|N/A")
        yield
        fake_slurm.queue("101|RUNNING|None|vn1|0:01|1:00|N/A")
        add_attempt(run, {"event": "start", "part": "classifier", "job": "101"})
        metrics(run, 2, tail='{"stage": ')
        yield
        said.append("-")
        path = run / "metrics.jsonl"
        path.write_text(path.read_text().removesuffix('{"stage": '))
        metrics(run, 3, 4)
        yield
        add_attempt(run, {"event": "end", "part": "classifier", "job": "101", "reason": "preempted", "requeue": True})
        fake_slurm.queue("101|PENDING|BeginTime||0:00|1:00|N/A")
        yield
        (run / "done.json").write_text(MARK)
        metrics(run, 5)
        add_attempt(run, {"event": "end", "part": "classifier", "job": "101", "reason": "done", "requeue": False})
        fake_slurm.queue("101|COMPLETED|None|vn1|0:09|1:00|N/A")
        yield

    script(happens())
    assert follow(folder, said.append) is True
    assert said == [
        "job 101: PENDING",
        "job 101: PENDING, it waits for free nodes (Resources)",
        SAID.format(2),
        "job 101: RUNNING on vn1",
        "-",
        SAID.format(3),
        SAID.format(4),
        "classifier: preempted; requeued",
        "job 101: PENDING, it was requeued a moment ago and is eligible soon (BeginTime)",
        "classifier: done",
        SAID.format(5),
        "job 101: COMPLETED",
        f"{run}: done",
    ]


def test_all_runs_of_an_array_must_be_done(fake_slurm: Any, submitted: Callable[..., SlurmFolder]) -> None:
    folder = submitted(runs=("a", "b"))
    folder.add_job(0, "101")
    runs = [folder.run.parent / name for name in ("a", "b")]
    fake_slurm.queue("101_0|COMPLETED|None|vn1|0:01|1:00|N/A", "101_1|FAILED|None|vn1|0:01|1:00|N/A")
    (runs[0] / "done.json").write_text(MARK)
    (runs[1] / "failed.json").write_text('{"error": "no luck"}')
    said: list[str] = []
    assert follow(folder, said.append) is False
    assert said == [
        "job 101_0: COMPLETED",
        "job 101_1: FAILED",
        f"{runs[0]}: done",
        f"{runs[1]}: failed: no luck",
    ]
    (runs[1] / "failed.json").unlink()
    (runs[1] / "done.json").write_text(MARK)
    assert follow(folder, said.append) is True


def test_news_of_an_array_have_the_name_of_the_run(
    fake_slurm: Any, submitted: Callable[..., SlurmFolder], script: Callable[[Iterator[None]], None]
) -> None:
    folder = submitted(runs=("a", "b"))
    folder.add_job(0, "101")
    fake_slurm.queue("101_0|COMPLETED|None|vn1|0:01|1:00|N/A", "101_1|RUNNING|None|vn2|0:01|1:00|N/A")
    said: list[str] = []

    def happens() -> Iterator[None]:
        said.clear()
        run = folder.run.parent / "b"
        metrics(run, 7)
        add_attempt(run, {"event": "end", "part": "classifier", "job": "1", "reason": "time limit", "requeue": True})
        yield
        said.append("-")
        fake_slurm.queue()
        yield

    script(happens())
    assert follow(folder, said.append) is False
    assert said[:3] == ["b: classifier: time limit; requeued", f"b: {SAID.format(7)}", "-"]


@pytest.mark.parametrize(
    ("marker", "verdict"), [("done.json", True), ("done-classifier.json", False), ("preempted.json", False)]
)
def test_the_verdict_is_that_of_the_files_when_slurm_has_forgotten_the_job(
    marker: str, verdict: bool, fake_slurm: Any, submitted: Callable[..., SlurmFolder]
) -> None:
    folder = submitted()
    folder.add_job(0, "101")
    fake_slurm.queue()
    (folder.run / marker).write_text("{}")
    assert follow(folder, lambda line: None) is verdict


def test_a_controller_that_is_away_for_long_ends_it_with_an_error(
    fake_slurm: Any, submitted: Callable[..., SlurmFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow_module, "_PATIENCE", 0.3)
    folder = submitted()
    folder.add_job(0, "101")
    began = time.monotonic()
    with pytest.raises(ClusterError, match="SLURM is not here"):
        follow(folder, lambda line: None, every=0.05)
    assert time.monotonic() - began > 0.3
