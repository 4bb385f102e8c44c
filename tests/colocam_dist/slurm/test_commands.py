"""SLURM's commands: what they print, and how it is said that they refuse."""

from __future__ import annotations

import os
from typing import Any

import pytest

from colocam_dist.errors import ClusterError
from colocam_dist.slurm.commands import fields_of, outside_of_jobs, slurm

JOB = (
    "JobId=1 JobName=t1.sh UserId=root(0) GroupId=root(0) MCS_label=N/A Priority=4294901759 Nice=0 Account=(null) "
    "QOS=(null) JobState=RUNNING Reason=None Dependency=(null) Requeue=1 Restarts=0 BatchFlag=1 Reboot=0 ExitCode=0:0 "
    "RunTime=00:00:06 TimeLimit=00:05:00 TimeMin=N/A SubmitTime=2026-11-25T15:40:37 PreemptTime=2026-11-25T15:42:18 "
    "SuspendTime=None Command=/scratch/t1.sh WorkDir=/home/me StdErr=/tmp/a b.out Power= "
)


def test_the_fields_of_a_job_are_read() -> None:
    assert fields_of(JOB) == {
        "JobId": "1",
        "JobName": "t1.sh",
        "UserId": "root(0)",
        "GroupId": "root(0)",
        "MCS_label": "N/A",
        "Priority": "4294901759",
        "Nice": "0",
        "Account": "(null)",
        "QOS": "(null)",
        "JobState": "RUNNING",
        "Reason": "None",
        "Dependency": "(null)",
        "Requeue": "1",
        "Restarts": "0",
        "BatchFlag": "1",
        "Reboot": "0",
        "ExitCode": "0:0",
        "RunTime": "00:00:06",
        "TimeLimit": "00:05:00",
        "TimeMin": "N/A",
        "SubmitTime": "2026-11-25T15:40:37",
        "PreemptTime": "2026-11-25T15:42:18",
        "SuspendTime": "None",
        "Command": "/scratch/t1.sh",
        "WorkDir": "/home/me",
        "StdErr": "/tmp/a b.out",
        "Power": "",
    }


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        ("", {}),
        ("slurm_load_jobs error: Invalid job id specified", {}),
        ("TRES=cpu=4,mem=2G,node=2 Power=\n", {"TRES": "cpu=4,mem=2G,node=2", "Power": ""}),
        ("Comment=a sentence in words  Requeue=1", {"Comment": "a sentence in words", "Requeue": "1"}),
        ("ReqB:S:C:T=0:0:*:* Socks/Node=*", {"ReqB:S:C:T": "0:0:*:*", "Socks/Node": "*"}),
    ],
)
def test_values_go_on_until_the_next_name(line: str, fields: dict[str, str]) -> None:
    assert fields_of(line) == fields


def test_a_command_gets_its_words_and_its_answer_is_returned(fake_slurm: Any) -> None:
    fake_slurm.add("squeue", "echo one; echo two; echo not this >&2")
    assert slurm("squeue", "--jobs=1,2", "a b", "") == "one\ntwo\n"
    assert fake_slurm.calls("squeue") == [["--jobs=1,2", "a b", ""]]


def test_without_slurm_it_is_said_what_to_do(fake_slurm: Any) -> None:
    with pytest.raises(ClusterError) as caught:
        slurm("sbatch", "job.sh")
    assert str(caught.value) == (
        "SLURM is not here\n"
        "  got: no sbatch on the PATH\n"
        "  fix: submit on a login node of the cluster (perhaps: module load slurm); without SLURM use "
        "python launchers/train.py --ranks N"
    )


def test_a_command_that_does_not_answer_is_given_up(fake_slurm: Any) -> None:
    fake_slurm.add("squeue", "exec sleep 20")
    with pytest.raises(ClusterError) as caught:
        slurm("squeue", "--me", timeout=0.1)
    assert str(caught.value) == (
        "SLURM does not answer\n  where: squeue --me\n  got: nothing for 0.1 s\n  fix: try again later"
    )


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("invalid partition specified: nope", "set slurm.partition"),
        ("Batch job submission failed: User's group not permitted to use this partition", "set slurm.partition"),
        (
            "Batch job submission failed: Invalid account or account/partition combination specified",
            "set slurm.account",
        ),
        ("Batch job submission failed: Invalid qos specification", "set slurm.qos"),
        ("Batch job submission failed: Job violates accounting/QOS policy (job submit limit)", "set slurm.qos"),
        ("Batch job submission failed: Requested time limit is invalid (missing or exceeds some limit)", "slurm.time"),
        ("Batch job submission failed: Invalid feature specification", "set slurm.constraint"),
        ("Batch job submission failed: Invalid generic resource (gres) specification", "slurm.gpus_per_node"),
        ("Batch job submission failed: Requested node configuration is not available", "ask for less: slurm.nodes"),
        ("Batch job submission failed: Node count specification invalid", "ask for less: slurm.nodes"),
        ("Batch job submission failed: More processors requested than permitted", "ask for less: slurm.nodes"),
        ("CPU count per node can not be satisfied", "ask for less: slurm.nodes"),
        ("Memory specification can not be satisfied", "ask for less: slurm.nodes"),
        (
            "Batch job submission failed: Unable to contact slurm controller (connect failure)",
            "is the controller up (scontrol ping)",
        ),
        ("resolve_ctls_from_dns_srv: res_nsearch error: DNS SRV lookup failed", "SLURM_CONF"),
        ("If munged is up, restart with --num-threads=10", "is munge running"),
        ("Batch job submission failed: Protocol authentication error", "is munge running"),
    ],
)
def test_a_refusal_has_the_words_of_slurm_and_a_hint(words: str, hint: str, fake_slurm: Any) -> None:
    fake_slurm.add("sbatch", f'echo "sbatch: error: {words}" >&2; exit 1')
    with pytest.raises(ClusterError) as caught:
        slurm("sbatch", "job.sh", where="the job")
    error = caught.value
    assert (error.what, error.where, error.got) == ("SLURM refuses", "the job", f"sbatch: error: {words}")
    assert error.fix is not None
    assert hint in error.fix


@pytest.mark.parametrize(
    ("body", "got"),
    [
        ("echo 'first ' >&2; echo >&2; echo second >&2; exit 3", "first / second"),
        ("echo only here; exit 3", "only here"),
        ("exit 3", "exit code 3"),
    ],
)
def test_a_refusal_of_another_kind_has_no_hint(body: str, got: str, fake_slurm: Any) -> None:
    fake_slurm.add("scontrol", body)
    with pytest.raises(ClusterError) as caught:
        slurm("scontrol", "show", "job", "7")
    assert str(caught.value) == f"SLURM refuses\n  where: scontrol show job 7\n  got: {got}"


INSIDE = {
    "SLURM_JOB_ID": "7",
    "SLURM_NTASKS": "4",
    "SLURM_CPU_BIND": "quiet",
    "SBATCH_CPU_BIND": "none",
    "SBATCH_MEM_BIND_TYPE": "local",
}
KEPT = {"SLURM_CONF": "/etc/slurm.conf", "SBATCH_ACCOUNT": "vision", "PATH_OF_MINE": "x"}


def test_inside_of_a_job_its_traces_are_hidden_and_come_back(fake_slurm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (INSIDE | KEPT).items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with outside_of_jobs():
        assert dict(os.environ) == {name: value for name, value in before.items() if name not in INSIDE}
    assert dict(os.environ) == before
    with pytest.raises(RuntimeError, match="in between"), outside_of_jobs():
        raise RuntimeError("in between")
    assert dict(os.environ) == before


def test_outside_of_jobs_nothing_is_hidden(fake_slurm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CLUSTERS", "big")
    before = dict(os.environ)
    with outside_of_jobs():
        assert dict(os.environ) == before
