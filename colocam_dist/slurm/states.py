"""What SLURM knows about jobs: one question for many of them, and what its answers mean."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass

from colocam_dist.errors import ClusterError
from colocam_dist.slurm.commands import slurm

__all__ = ["UNKNOWN", "JobState", "job_states", "meaning_of"]

UNKNOWN = "UNKNOWN"
"""State of a job that SLURM has forgotten, which says nothing about how it ended."""

_ACTIVE = (
    "PENDING",
    "CONFIGURING",
    "RUNNING",
    "COMPLETING",
    "SUSPENDED",
    "REQUEUED",
    "REQUEUE_HOLD",
    "RESIZING",
    "SIGNALING",
    "STAGE_OUT",
    "STOPPED",
    "REQUEUE_FED",
    "SPECIAL_EXIT",
)
_FORMAT = "%i|%T|%r|%N|%M|%l|%S"

_MEANINGS = (
    ("Priority", "jobs of higher priority are first"),
    ("Resources", "it waits for free nodes"),
    ("BeginTime", "it was requeued a moment ago and is eligible soon"),
    ("DependencyNeverSatisfied", "an earlier part failed, so that it will never start: cancel it"),
    ("Dependency", "it waits for the part before it"),
    ("JobHeldUser", "it is held: scontrol release JOB"),
    ("JobHeldAdmin", "an administrator holds it"),
    (
        "launch failed requeued held",
        "it could not be started on a node, perhaps because the run's folder is not "
        "visible there; mend that, then scontrol release JOB",
    ),
    ("job requeued in held state", "it is held: scontrol release JOB"),
    ("PartitionTimeLimit", "slurm.time is longer than the partition allows"),
    ("PartitionNodeLimit", "the partition does not allow so many nodes, or they are down"),
    ("PartitionDown", "the partition is down"),
    ("PartitionInactive", "the partition is inactive"),
    ("ReqNodeNotAvail", "nodes that it needs are down, drained or reserved"),
    ("NodeDown", "a node that it needs is down"),
    ("Licenses", "it waits for a license"),
    ("Reservation", "it waits for its reservation"),
    ("InvalidAccount", "slurm.account is not valid"),
    ("InvalidQOS", "slurm.qos is not valid"),
    ("QOS", "a limit of the quality of service is reached"),
    ("Assoc", "a limit of the account or of the user is reached"),
    ("MaxCpuPerAccount", "a limit of the account is reached"),
)


@dataclass(frozen=True)
class JobState:
    """A job as SLURM sees it.

    Attributes:
        job: its number; for a task of an array "number_task".
        state: SLURM's word for it, or :data:`UNKNOWN`.
        reason: why it is in this state, in SLURM's words; "" = none given.
        nodes: on which it runs or ran.
        elapsed: how long it has run.
        limit: how long it may run.
        start: when it started or is expected to; "" = not known.
    """

    job: str
    state: str
    reason: str = ""
    nodes: str = ""
    elapsed: str = ""
    limit: str = ""
    start: str = ""

    @property
    def active(self) -> bool:
        """Whether it waits, runs, or is about to do so again."""
        return self.state in _ACTIVE


def job_states(jobs: Iterable[str]) -> dict[str, JobState]:
    """The states of jobs: from ``squeue``, which forgets them after some minutes, then from ``sacct`` if it works.

    Raises:
        ClusterError: SLURM cannot be asked.
    """
    wanted = list(dict.fromkeys(jobs))
    if not wanted:
        return {}
    numbers = ",".join(dict.fromkeys(job.partition("_")[0] for job in wanted))
    found = _from_squeue(numbers)
    if any(job not in found for job in wanted):
        found = _from_sacct(numbers) | found
    return {job: found.get(job, JobState(job, UNKNOWN)) for job in wanted}


def meaning_of(reason: str) -> str:
    """A reason in plain words; "" if it says nothing."""
    if reason in ("", "None"):
        return ""
    for word, meaning in _MEANINGS:
        if word in reason:
            return f"{meaning} ({reason})"
    return reason


def _from_squeue(numbers: str) -> dict[str, JobState]:
    try:
        answer = slurm("squeue", "--noheader", "--array", "--states=all", f"--jobs={numbers}", f"--format={_FORMAT}")
    except ClusterError as error:
        if "Invalid job id" in str(error.got):  # said if it knows none of them
            return {}
        raise
    rows = [line.split("|") for line in answer.splitlines() if line.count("|") == _FORMAT.count("|")]
    return {row[0]: JobState(*(value.replace("N/A", "").strip() for value in row)) for row in rows}


def _from_sacct(numbers: str) -> dict[str, JobState]:
    if shutil.which("sacct") is None:
        return {}
    columns = "--format=JobID,State,NodeList,Elapsed,Timelimit,Start"
    try:
        answer = slurm("sacct", "--noheader", "--parsable2", "--allocations", "--array", f"--jobs={numbers}", columns)
    except ClusterError:  # many clusters keep no accounts
        return {}
    found = {}
    for line in answer.splitlines():
        row = line.split("|")
        if len(row) == columns.count(",") + 1 and re.fullmatch(r"\d+(_\d+)?", row[0]):
            state = row[1].split()[0] if row[1].split() else UNKNOWN  # "CANCELLED by 1000"
            nodes = "" if row[2] == "None assigned" else row[2]
            found[row[0]] = JobState(row[0], state, "", nodes, row[3], row[4], row[5])
    return found
