"""States of jobs: what squeue and sacct say, and what it means."""

from __future__ import annotations

from typing import Any

import pytest

from colocam_dist.errors import ClusterError
from colocam_dist.slurm.states import UNKNOWN, JobState, job_states, meaning_of

FORGOTTEN = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"


def test_nobody_is_asked_about_no_jobs(fake_slurm: Any) -> None:
    assert job_states([]) == {}


def test_squeue_tells_of_many_jobs_at_once(fake_slurm: Any) -> None:
    fake_slurm.queue(
        "8|PENDING|Priority||0:00|1:00:00|2026-11-25T18:00:00",
        "7|RUNNING|None|vn[1-2]|12:03|1:00:00|2026-11-25T15:40:37",
        "6|PENDING|(Resources)||0:00|1:00:00|N/A",
        "not a line of the table",
    )
    assert job_states(["7", "8", "7", "6"]) == {
        "7": JobState("7", "RUNNING", "None", "vn[1-2]", "12:03", "1:00:00", "2026-11-25T15:40:37"),
        "8": JobState("8", "PENDING", "Priority", "", "0:00", "1:00:00", "2026-11-25T18:00:00"),
        "6": JobState("6", "PENDING", "(Resources)", "", "0:00", "1:00:00", ""),
    }
    assert fake_slurm.calls("squeue") == [
        ["--noheader", "--array", "--states=all", "--jobs=7,8,6", "--format=%i|%T|%r|%N|%M|%l|%S"]
    ]


def test_tasks_of_an_array_are_asked_for_by_the_number_of_the_array(fake_slurm: Any) -> None:
    fake_slurm.queue("7_0|COMPLETED|None|vn1|0:03|1:00|N/A", "7_1|RUNNING|None|vn2|0:02|1:00|N/A")
    states = job_states(["7_0", "7_1"])
    assert [(state.job, state.state, state.nodes) for state in states.values()] == [
        ("7_0", "COMPLETED", "vn1"),
        ("7_1", "RUNNING", "vn2"),
    ]
    assert fake_slurm.calls("squeue")[0][3] == "--jobs=7"


def test_what_squeue_has_forgotten_is_asked_of_sacct(fake_slurm: Any) -> None:
    fake_slurm.queue("9|RUNNING|None|vn1|0:03|1:00|N/A")
    answer = (
        "7|CANCELLED by 1000|vn1|00:01:00|01:00:00|2026-11-25T15:40:37",
        "8_0|COMPLETED|vn[1-2]|00:02:00|01:00:00|2026-11-25T15:40:37",
        "8_[1-3]|PENDING|None assigned|00:00:00|01:00:00|Unknown",
        "9|PENDING|None assigned|00:00:00|01:00:00|Unknown",
        "10||None assigned|00:00:00|01:00:00|Unknown",
    )
    fake_slurm.add("sacct", "cat <<'END'\n" + "\n".join(answer) + "\nEND")
    assert job_states(["7", "8_0", "8_1", "9", "10"]) == {
        "7": JobState("7", "CANCELLED", "", "vn1", "00:01:00", "01:00:00", "2026-11-25T15:40:37"),
        "8_0": JobState("8_0", "COMPLETED", "", "vn[1-2]", "00:02:00", "01:00:00", "2026-11-25T15:40:37"),
        "8_1": JobState("8_1", UNKNOWN),
        "9": JobState("9", "RUNNING", "None", "vn1", "0:03", "1:00", ""),
        "10": JobState("10", UNKNOWN, "", "", "00:00:00", "01:00:00", "Unknown"),
    }
    columns = "--format=JobID,State,NodeList,Elapsed,Timelimit,Start"
    assert fake_slurm.calls("sacct") == [
        ["--noheader", "--parsable2", "--allocations", "--array", "--jobs=7,8,9,10", columns]
    ]


def test_sacct_is_not_asked_in_vain(fake_slurm: Any) -> None:
    fake_slurm.queue("7|RUNNING|None|vn1|0:03|1:00|N/A")
    fake_slurm.add("sacct")
    job_states(["7"])
    assert fake_slurm.calls("sacct") == []


@pytest.mark.parametrize("sacct", [None, "echo 'Slurm accounting storage is disabled' >&2; exit 1", "exit 0"])
def test_a_forgotten_job_is_unknown_and_not_active(sacct: str | None, fake_slurm: Any) -> None:
    fake_slurm.add("squeue", FORGOTTEN)
    if sacct is not None:
        fake_slurm.add("sacct", sacct)
    states = job_states(["7", "8_1"])
    assert states == {"7": JobState("7", UNKNOWN), "8_1": JobState("8_1", UNKNOWN)}
    assert not any(state.active for state in states.values())


def test_a_controller_that_is_away_is_no_forgotten_job(fake_slurm: Any) -> None:
    fake_slurm.add("squeue", "echo 'squeue: error: Unable to contact slurm controller (connect failure)' >&2; exit 1")
    fake_slurm.add("sacct", "echo '7|COMPLETED|vn1|00:01:00|01:00:00|2026-11-25T15:40:37'")
    with pytest.raises(ClusterError, match="connect failure"):
        job_states(["7"])


@pytest.mark.parametrize(
    ("states", "active"),
    [
        (("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "STOPPED"), True),
        (
            ("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY", "BOOT_FAIL"),
            False,
        ),
        (("DEADLINE", "REVOKED", UNKNOWN), False),
    ],
)
def test_a_job_is_active_as_long_as_it_may_still_run(states: tuple[str, ...], active: bool) -> None:
    assert {state: JobState("7", state).active for state in states} == dict.fromkeys(states, active)


@pytest.mark.parametrize(
    ("reason", "meaning"),
    [
        ("", ""),
        ("None", ""),
        ("Priority", "jobs of higher priority are first (Priority)"),
        ("Resources", "it waits for free nodes (Resources)"),
        ("BeginTime", "it was requeued a moment ago and is eligible soon (BeginTime)"),
        ("Dependency", "it waits for the part before it (Dependency)"),
        ("DependencyNeverSatisfied", "an earlier part failed, so that it will never start: cancel it"),
        ("JobHeldUser", "it is held: scontrol release JOB"),
        ("launch failed requeued held", "it could not be started on a node"),
        ("ReqNodeNotAvail, UnavailableNodes:vn1", "nodes that it needs are down, drained or reserved"),
        ("InvalidQOS", "slurm.qos is not valid"),
        ("QOSMaxGRESPerUser", "a limit of the quality of service is reached (QOSMaxGRESPerUser)"),
        ("AssocGrpGRES", "a limit of the account or of the user is reached"),
        ("PartitionTimeLimit", "slurm.time is longer than the partition allows"),
        ("SomethingNew", "SomethingNew"),
    ],
)
def test_reasons_are_said_in_plain_words(reason: str, meaning: str) -> None:
    said = meaning_of(reason)
    assert said.startswith(meaning)
    assert bool(said) == bool(meaning)
    assert not said or reason in said
