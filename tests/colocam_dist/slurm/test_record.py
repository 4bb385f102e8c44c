"""What a submission leaves: what was asked, its jobs, attempts and logs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from colocam_dist.errors import ClusterError
from colocam_dist.slurm.record import Part, SlurmFolder, Submission, add_attempt, attempts_of, job_names

CHAIN = (Part(("classifier",), "done-classifier.json"), Part(("cams", "localizer")))


def test_what_was_asked_is_read_as_it_was_written(tmp_path: Path) -> None:
    asked = Submission(
        ("/runs/a", "/runs/b"), CHAIN, "/home/me", 100, 3, 120, code={"version": "1", "commit": "ab", "changed": True}
    )
    folder = SlurmFolder(tmp_path / "group")
    folder.write(asked)
    assert SlurmFolder.open(tmp_path / "group").read() == asked
    assert [path.name for path in folder.path.iterdir()] == ["submission.json"]


def test_parts_have_names_and_the_last_one_ends_the_run() -> None:
    assert [(part.name, part.marker) for part in CHAIN] == [
        ("classifier", "done-classifier.json"),
        ("cams+localizer", "done.json"),
    ]


def test_paths_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = SlurmFolder(Path("runs/a"))
    assert [folder.run, folder.code, folder.logs] == [
        tmp_path / path for path in ("runs/a", "runs/a/slurm/code", "runs/a/slurm/jobs")
    ]


def test_a_run_that_was_not_submitted_is_refused(tmp_path: Path) -> None:
    (tmp_path / "slurm").mkdir()
    with pytest.raises(ClusterError, match="this was not submitted to SLURM") as caught:
        SlurmFolder.open(tmp_path)
    assert caught.value.where == tmp_path


def test_the_newest_job_of_a_part_counts(submitted: Callable[..., SlurmFolder]) -> None:
    folder = submitted(parts=CHAIN)
    assert (folder.jobs(), folder.all_jobs()) == ({}, [])
    for part, job in ((0, "101"), (1, "102"), (1, "103")):
        folder.add_job(part, job)
    assert folder.jobs() == {0: "101", 1: "103"}
    assert folder.all_jobs() == ["101", "103"]


def test_an_array_has_a_job_for_each_run(submitted: Callable[..., SlurmFolder]) -> None:
    folder = submitted(runs=("a", "b"), parts=CHAIN)
    folder.add_job(1, "102")
    folder.add_job(0, "101")
    assert folder.all_jobs() == ["101_0", "101_1", "102_0", "102_1"]
    assert job_names("101", 1) == ["101"]


def test_a_line_that_was_cut_off_is_ignored_and_then_removed(submitted: Callable[..., SlurmFolder]) -> None:
    folder = submitted()
    jobs = folder.path / "jobs.jsonl"
    folder.add_job(0, "101")
    whole = jobs.read_text()
    jobs.write_text(whole + '{"part": 0, "jo')
    assert folder.jobs() == {0: "101"}
    folder.add_job(0, "102")
    assert folder.jobs() == {0: "102"}
    assert [json.loads(line)["job"] for line in jobs.read_text().splitlines()] == ["101", "102"]
    jobs.write_text('{"part"')
    assert folder.jobs() == {}


def test_attempts_are_kept_in_their_order_with_their_times(tmp_path: Path) -> None:
    assert attempts_of(tmp_path) == []
    add_attempt(tmp_path, {"event": "start", "job": "1"})
    with (tmp_path / "attempts.jsonl").open("a") as file:
        file.write('{"event": "lo')
    add_attempt(tmp_path, {"event": "end", "job": "1"})
    rows = attempts_of(tmp_path)
    assert all(time.strptime(row.pop("time"), "%Y-%m-%dT%H:%M:%S%z") for row in rows)
    assert rows == [{"event": "start", "job": "1"}, {"event": "end", "job": "1"}]


def test_logs_of_a_job_are_in_the_order_of_the_ranks(tmp_path: Path) -> None:
    folder = SlurmFolder(tmp_path)
    folder.logs.mkdir(parents=True)
    others = ["1_submission.sh", "1_submitted.pkl", "1_0_result.pkl", "11_0_log.out", "2_0_log.out", "1_0_log"]
    for name in ["1_10_log.out", "1_2_log.out", "1_2_log.err", "1_0_log.err", "1_0_log.out", *others]:
        (folder.logs / name).touch()
    assert [path.name for path in folder.log_files("1")] == [
        "1_0_log.err",
        "1_0_log.out",
        "1_2_log.err",
        "1_2_log.out",
        "1_10_log.out",
    ]


def test_logs_of_a_task_of_an_array_are_its_own(tmp_path: Path) -> None:
    folder = SlurmFolder(tmp_path)
    folder.logs.mkdir(parents=True)
    for task in (1, 11):
        for rank in (10, 9):
            (folder.logs / f"7_{task}_{rank}_log.out").touch()
    assert [path.name for path in folder.log_files("7_1")] == ["7_1_9_log.out", "7_1_10_log.out"]
