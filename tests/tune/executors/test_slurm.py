"""Runs as SLURM jobs: queued once, found again after a kill, cancelled when the study says so."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from colocam_dist.config import Config, load
from colocam_dist.errors import ClusterError
from colocam_dist.slurm.record import SlurmFolder
from tune.executors import slurm as executor
from tune.executors.slurm import SlurmWork, cancel, jobs_with_comment, note_states, states_path
from tune.folder import Record, StudyFolder

SQUEUE = """
case "$*" in
*"%i %k"*) cat "$here/comments" ;;
*) cat "$here/queue" ;;
esac
"""


@pytest.fixture(autouse=True)
def _desk(fake_slurm: Any, small_package: Path) -> None:
    """A cluster that takes everything and knows no jobs, and a package that is quickly copied."""
    fake_slurm.cluster()
    fake_slurm.add("squeue", SQUEUE)
    fake_slurm.set("comments", "")


@pytest.fixture
def study(tmp_path: Path) -> StudyFolder:
    return StudyFolder(tmp_path / "study")


@pytest.fixture
def record(study: StudyFolder) -> Record:
    made = study.trial("abc")
    made.begin({})
    return made


def settings(record: Record, shards: Path, *overrides: str) -> Config:
    place = [f"run.folder={record.run.parent}", f"run.name={record.id}", "run.on_exists=resume"]
    return load(None, [f"data.shards={shards}", "model.weights=none", "slurm.python=python", *place, *overrides])


@pytest.fixture
def config(record: Record, tiny_shards: Path) -> Config:
    return settings(record, tiny_shards)


def queue(fake_slurm: Any, **states: str) -> None:
    """What squeue knows: job101="RUNNING"."""
    rows = [f"{job.removeprefix('job')}|{state}|None|vn1|0:01|1:00:00|N/A\n" for job, state in states.items()]
    fake_slurm.set("queue", "".join(rows))


def queued(fake_slurm: Any) -> int:
    return sum(not call[0].startswith("--") for call in fake_slurm.calls("sbatch"))


def script_of(record: Record, job: str) -> str:
    return (SlurmFolder(record.run).logs / f"{job}_submission.sh").read_text()


def test_a_run_becomes_a_job_that_can_be_told_by_its_comment(
    study: StudyFolder, record: Record, config: Config, fake_slurm: Any
) -> None:
    work = SlurmWork(record, study)
    work.begin(config)
    assert SlurmFolder(record.run).all_jobs() == ["101"]
    assert f"#SBATCH --comment={record.run}\n" in script_of(record, "101")
    assert load(record.run / "config.yaml").data == config.data
    assert work.living()
    assert not work.killed
    assert len(fake_slurm.calls("srun")) == 1, "a node is asked whether it sees the folder of the study"


def test_nodes_are_asked_for_the_first_job_only(
    study: StudyFolder, record: Record, config: Config, tiny_shards: Path, fake_slurm: Any
) -> None:
    SlurmWork(record, study).begin(config)
    other = study.trial("def")
    SlurmWork(other, study).begin(settings(other, tiny_shards))
    assert queued(fake_slurm) == 2
    assert len(fake_slurm.calls("srun")) == 1


def test_what_the_user_asks_sbatch_for_stays(study: StudyFolder, record: Record, tiny_shards: Path) -> None:
    SlurmWork(record, study).begin(settings(record, tiny_shards, "slurm.sbatch={mail-user: me, comment: mine}"))
    script = script_of(record, "101")
    assert "--mail-user=me" in script or "--mail_user=me" in script
    assert f"--comment={record.run}\n" in script


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "COMPLETING", "REQUEUED"])
def test_a_job_that_is_not_over_is_followed_not_doubled(
    state: str, study: StudyFolder, record: Record, config: Config, fake_slurm: Any
) -> None:
    SlurmWork(record, study).begin(config)
    queue(fake_slurm, job101=state)
    work = SlurmWork(record, study)
    work.begin(config)
    assert queued(fake_slurm) == 1
    note_states(study, [record], set())
    assert work.living()


def test_a_job_that_was_lost_is_queued_again_with_the_same_code(
    study: StudyFolder, record: Record, config: Config, fake_slurm: Any
) -> None:
    SlurmWork(record, study).begin(config)
    mark = SlurmFolder(record.run).code / "mark"
    mark.touch()
    (record.run / "failed.json").write_text("{}")
    queue(fake_slurm, job101="CANCELLED")
    SlurmWork(record, study).begin(config)
    assert SlurmFolder(record.run).all_jobs() == ["102"]
    assert f"--comment={record.run}\n" in script_of(record, "102")
    assert mark.exists()
    assert not (record.run / "failed.json").exists()


def test_after_a_kill_between_sbatch_and_the_note_the_job_is_found(
    study: StudyFolder, record: Record, config: Config, fake_slurm: Any
) -> None:
    SlurmWork(record, study).begin(config)
    (record.run / "slurm" / "jobs.jsonl").unlink()
    fake_slurm.set("comments", f"99 {record.run}x\n101 {record.run}\n102 (null)\n103\n")
    queue(fake_slurm, job101="PENDING")
    work = SlurmWork(record, study)
    work.begin(config)
    assert queued(fake_slurm) == 1
    assert SlurmFolder(record.run).all_jobs() == ["101"]
    note_states(study, [record], set())
    assert work.living()
    assert cancel([record]) == ["101"]


@pytest.mark.parametrize("left", ["config.yaml", "slurm"])
def test_after_a_kill_before_sbatch_the_job_is_queued(
    left: str, study: StudyFolder, record: Record, config: Config, fake_slurm: Any
) -> None:
    SlurmWork(record, study).begin(config)
    (record.run / "slurm" / "jobs.jsonl").unlink()
    if left == "config.yaml":  # it came as far as the settings of the run
        (record.run / "slurm" / "submission.json").unlink()
    SlurmWork(record, study).begin(config)
    assert queued(fake_slurm) == 2
    assert SlurmFolder(record.run).all_jobs() == ["102"]


def test_a_refusal_is_told_and_nothing_is_left(
    study: StudyFolder, record: Record, config: Config, fake_slurm: Any
) -> None:
    fake_slurm.set("last", "100")
    with pytest.raises(ClusterError, match="SLURM refuses"):
        SlurmWork(record, study).begin(config)
    assert not record.run.exists()
    fake_slurm.set("last", "999")
    SlurmWork(record, study).begin(config)
    assert SlurmFolder(record.run).all_jobs() == ["101"]


def test_jobs_of_a_comment_come_oldest_first(fake_slurm: Any) -> None:
    fake_slurm.set("comments", "100 a b\n99 a b\n98 a\n1000_2 a b\n")
    assert jobs_with_comment("a b") == ["99", "100", "1000_2"]
    (call,) = fake_slurm.calls("squeue")
    assert call[0] == "--noheader"
    assert call[1].startswith("--user=")


def test_only_an_answer_after_the_start_tells_whether_it_lives(
    study: StudyFolder, record: Record, config: Config, fake_slurm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = {"asked": time.time(), "active": {"101": False}}
    work = SlurmWork(record, study)
    work.begin(config)
    assert work.living(), "nobody has asked"
    states_path(study).write_text(json.dumps(old))
    assert work.living(), "asked before"
    states_path(study).write_text("{")
    assert work.living()
    queue(fake_slurm, job101="RUNNING")
    note_states(study, [record], set())
    assert work.living()
    queue(fake_slurm, job101="FAILED")
    note_states(study, [record], set())
    monkeypatch.setattr(executor, "_LATE", 0.0)
    assert not work.living()
    states_path(study).write_text(json.dumps({"asked": time.time() + 1, "active": {"7": True}}))
    assert not work.living()


@pytest.mark.parametrize("ending", ["done.json", "failed.json", "preempted.json"])
def test_files_of_other_machines_may_be_late(
    ending: str,
    study: StudyFolder,
    record: Record,
    config: Config,
    fake_slurm: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work = SlurmWork(record, study)
    work.begin(config)
    states_path(study).write_text(json.dumps({"asked": time.time() + 1, "active": {"101": False}}))
    now = 1000.0
    monkeypatch.setattr(executor.time, "monotonic", lambda: now)
    assert work.living(), "over, says SLURM, but how it ended may not be seen here yet"
    now += 59.0
    assert work.living()
    (record.run / ending).write_text("{}")
    assert not work.living()
    (record.run / ending).unlink()
    now += 2.0
    assert not work.living(), "nothing will come any more"


def test_a_run_that_is_done_is_not_waited_for(
    study: StudyFolder, record: Record, config: Config, fake_slurm: Any
) -> None:
    work = SlurmWork(record, study)
    work.begin(config)
    queue(fake_slurm, job101="COMPLETING")
    note_states(study, [record], set())
    assert work.living()
    (record.run / "done.json").write_text("{}")
    assert not work.living()


def test_slurm_is_asked_once_about_all_jobs(
    study: StudyFolder, record: Record, config: Config, tiny_shards: Path, fake_slurm: Any
) -> None:
    other, idle = study.trial("def"), study.trial("ghi")
    SlurmWork(record, study).begin(config)
    SlurmWork(other, study).begin(settings(other, tiny_shards))
    before = len(fake_slurm.calls("squeue"))
    queue(fake_slurm, job101="RUNNING", job102="COMPLETED")
    note_states(study, [record, other, idle], set())
    assert len(fake_slurm.calls("squeue")) == before + 1
    told = json.loads(states_path(study).read_text())
    assert told["active"] == {"101": True, "102": False}
    assert abs(told["asked"] - time.time()) < 60


def test_a_job_whose_trial_is_over_is_cancelled_until_it_ends(
    study: StudyFolder, record: Record, config: Config, fake_slurm: Any
) -> None:
    SlurmWork(record, study).begin(config)
    record.finish("stopped")  # and then the driver was killed
    settled: set[str] = set()
    queue(fake_slurm, job101="RUNNING")
    for _ in range(2):
        note_states(study, [record], settled)
    assert fake_slurm.calls("scancel") == [["101"], ["101"]]
    assert json.loads(states_path(study).read_text())["active"] == {}
    queue(fake_slurm, job101="CANCELLED")
    note_states(study, [record], settled)
    assert settled == {"101"}
    asked = len(fake_slurm.calls("squeue"))
    note_states(study, [record], settled)
    assert len(fake_slurm.calls("squeue")) == asked, "nothing is left to ask"
    assert len(fake_slurm.calls("scancel")) == 2


def test_a_job_that_has_done_its_trial_is_left_alone(
    study: StudyFolder, record: Record, config: Config, fake_slurm: Any
) -> None:
    SlurmWork(record, study).begin(config)
    (record.run / "done.json").write_text("{}")
    record.finish("finished")
    queue(fake_slurm, job101="COMPLETING")
    note_states(study, [record], set())
    assert fake_slurm.calls("scancel") == []


def test_a_slurm_that_is_away_is_an_error_and_the_last_answer_stays(
    study: StudyFolder, record: Record, config: Config, fake_slurm: Any
) -> None:
    SlurmWork(record, study).begin(config)
    queue(fake_slurm, job101="RUNNING")
    note_states(study, [record], set())
    before = states_path(study).read_text()
    fake_slurm.add("squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(ClusterError, match="SLURM refuses"):
        note_states(study, [record], set())
    assert states_path(study).read_text() == before


def test_jobs_are_cancelled_together_if_they_are_not_over(
    study: StudyFolder, record: Record, config: Config, tiny_shards: Path, fake_slurm: Any
) -> None:
    records = [record, study.trial("def"), study.trial("ghi"), study.trial("never")]
    for one in records[:3]:
        SlurmWork(one, study).begin(settings(one, tiny_shards))
    queue(fake_slurm, job101="RUNNING", job102="COMPLETED", job103="PENDING")
    assert cancel(records) == ["101", "103"]
    assert fake_slurm.calls("scancel") == [["101", "103"]]
    queue(fake_slurm)
    assert cancel(records) == []
    assert cancel([]) == []


def test_a_job_that_is_left_goes_on(study: StudyFolder, record: Record, config: Config, fake_slurm: Any) -> None:
    work = SlurmWork(record, study)
    work.begin(config)
    queue(fake_slurm, job101="RUNNING")
    work.leave()
    assert fake_slurm.calls("scancel") == []


def test_the_last_words_are_those_of_the_newest_log(study: StudyFolder, record: Record, config: Config) -> None:
    work = SlurmWork(record, study)
    assert work.last_words() == ""
    work.begin(config)
    assert work.last_words() == ""
    logs = SlurmFolder(record.run).logs
    (logs / "101_0_log.out").write_text("a\nb\n")
    (logs / "101_0_log.err").write_text("")
    assert work.last_words() == "a\nb"
    (logs / "101_1_log.err").write_text("\n".join(map(str, range(100))))
    os.utime(logs / "101_0_log.out", (1.0, 1.0))
    assert work.last_words() == "\n".join(map(str, range(70, 100)))
