"""The state of submitted runs in words, from what they left and what SLURM says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from colocam_dist.errors import ClusterError
from colocam_dist.slurm.record import Part, SlurmFolder, add_attempt, attempts_of
from colocam_dist.slurm.status import counts_of, ending_of, last_metrics, metrics_line, status_lines

MARK = '{"stages": ["classifier", "cams", "localizer", "evaluate"]}'


CHAIN = (Part(("classifier",), "done-classifier.json"), Part(("cams", "localizer")))
STEP = {"stage": "localizer", "kind": "train", "epoch": 2, "step": 40, "loss": 1.23456, "frames_per_s": 1234.5}


def start(run: Path, job: str = "101", part: str = "classifier") -> None:
    add_attempt(run, {"event": "start", "part": part, "job": job})


def end(run: Path, reason: str, *, requeue: bool = False, job: str = "101", part: str = "classifier") -> None:
    add_attempt(run, {"event": "end", "part": part, "job": job, "reason": reason, "requeue": requeue})


def test_a_run_that_waits(fake_slurm: Any, submitted: Callable[..., SlurmFolder]) -> None:
    folder = submitted(parts=CHAIN)
    folder.add_job(0, "101")
    fake_slurm.queue("101|PENDING|Resources||0:00|1:00:00|2026-11-25T18:00:00")
    assert status_lines(folder) == [
        f"{folder.run}: not done",
        "  classifier: job 101 PENDING, it waits for free nodes (Resources), expected to start 2026-11-25T18:00:00",
        "  cams+localizer: not queued",
    ]
    fake_slurm.queue("101|PENDING|None||0:00|1:00:00|N/A")
    assert status_lines(folder)[1] == "  classifier: job 101 PENDING"


def test_a_run_that_runs_its_second_part(fake_slurm: Any, submitted: Callable[..., SlurmFolder]) -> None:
    folder = submitted(parts=CHAIN)
    for part, job in enumerate(("101", "102")):
        folder.add_job(part, job)
    for reason in ("time limit", "done"):
        start(folder.run)
        end(folder.run, reason, requeue=reason != "done")
    (folder.run / "done-classifier.json").write_text(MARK)
    (folder.run / "metrics.jsonl").write_text(json.dumps(STEP) + '\n{"stage": "loc')
    fake_slurm.queue("102|RUNNING|None|vn[1-2]|12:03|1:00:00|2026-11-25T15:40:37")
    times = [row["time"] for row in attempts_of(folder.run) if row["event"] == "end"]
    assert status_lines(folder) == [
        f"{folder.run}: not done",
        "  classifier: job 101 UNKNOWN, done",
        "  cams+localizer: job 102 RUNNING, on vn[1-2], 12:03 of 1:00:00",
        f"    {times[0]} classifier, job 101: time limit; requeued",
        f"    {times[1]} classifier, job 101: done",
        "  attempts: time limit 1, done 1",
        "  last figures: localizer train, epoch 2, step 40: loss 1.235, frames_per_s 1234",
    ]


def test_runs_of_an_array_are_told_apart(fake_slurm: Any, submitted: Callable[..., SlurmFolder]) -> None:
    folder = submitted(runs=("a", "b"))
    folder.add_job(0, "101")
    first, second = (folder.run.parent / name for name in ("a", "b"))
    (first / "done.json").write_text(MARK)
    end(second, "failure: exit code 1", job="101_1")
    (second / "failed.json").write_text('{"error": "no luck"}')
    fake_slurm.queue("101_0|COMPLETED|None|vn1|0:01|1:00|N/A", "101_1|FAILED|NonZeroExitCode|vn2|0:02|1:00|N/A")
    assert status_lines(folder) == [
        f"{first}: done",
        "  classifier: job 101_0 COMPLETED, on vn1, 0:01 of 1:00, done",
        f"{second}: failed: no luck",
        "  classifier: job 101_1 FAILED, on vn2, 0:02 of 1:00",
        f"    {attempts_of(second)[0]['time']} classifier, job 101_1: failure: exit code 1",
        "  attempts: failure 1",
    ]


def test_a_submission_without_jobs_needs_no_slurm(fake_slurm: Any, submitted: Callable[..., SlurmFolder]) -> None:
    folder = submitted()
    assert status_lines(folder) == [f"{folder.run}: not done", "  classifier: not queued"]
    folder.add_job(0, "101")
    with pytest.raises(ClusterError, match="SLURM is not here"):
        status_lines(folder)


def test_a_start_without_an_end_was_lost_if_another_one_follows(
    fake_slurm: Any, submitted: Callable[..., SlurmFolder]
) -> None:
    folder = submitted()
    fake_slurm.queue()
    folder.add_job(0, "101")
    start(folder.run)  # the node died
    start(folder.run)
    end(folder.run, "preempted", requeue=True)
    start(folder.run)  # it runs, or nobody knows yet
    lost, _, preempted, _ = (row["time"] for row in attempts_of(folder.run))
    assert status_lines(folder)[2:] == [
        f"    {lost} classifier, job 101: lost (node failure, or requeued by SLURM); requeued",
        f"    {preempted} classifier, job 101: preempted; requeued",
        "  attempts: lost 1, preempted 1",
    ]


def test_ends_are_counted_by_their_reason(tmp_path: Path) -> None:
    assert counts_of(tmp_path) == {}
    for reason in ("failure: exit code 1", "failure: exit code 137, killed", "time limit", "ended by SLURM: CANCELLED"):
        start(tmp_path)
        end(tmp_path, reason)
    for _ in range(3):
        start(tmp_path)
    assert counts_of(tmp_path) == {"failure": 2, "time limit": 1, "ended by SLURM": 1, "lost": 2}


@pytest.mark.parametrize(
    ("files", "ending"),
    [
        ({}, "not done"),
        ({"preempted.json": {"reason": "SIGUSR2"}}, "preempted: SIGUSR2"),
        ({"failed.json": {"error": "no luck"}, "preempted.json": {"reason": "SIGUSR2"}}, "failed: no luck"),
        ({"done.json": {}, "failed.json": {"error": "no luck"}}, "done"),
        ({"done-classifier.json": {}}, "not done"),
    ],
)
def test_how_a_run_ended_is_told_by_its_files(files: dict[str, Any], ending: str, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert ending_of(tmp_path) == ending


def test_the_last_figures_are_those_of_the_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert last_metrics(tmp_path) is None
    path.write_text('{"stage": "loc')
    assert last_metrics(tmp_path) is None
    rows = [{**STEP, "step": step} for step in range(2000)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"stage": "loc')
    assert path.stat().st_size > 1 << 16
    assert last_metrics(tmp_path) == "localizer train, epoch 2, step 1999: loss 1.235, frames_per_s 1234"


def test_a_row_has_the_figures_that_matter() -> None:
    row = {"stage": "classifier", "kind": "validation", "epoch": 3, "step": 60}
    figures = {"corloc": 61.25, "loss": "NaN", "classification": 90, "lr": 0.1, "memory_gib": 1.5}
    assert metrics_line(row | figures) == (
        "classifier validation, epoch 3, step 60: corloc 61.25, classification 90, memory_gib 1.5"
    )
