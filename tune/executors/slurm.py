"""A run as a SLURM job of its own, which lives on when the study's driver does not."""

from __future__ import annotations

import getpass
import json
import time
from collections.abc import Iterable
from pathlib import Path

from colocam_dist.config import Config
from colocam_dist.files import write_atomically
from colocam_dist.slurm.commands import slurm
from colocam_dist.slurm.record import SlurmFolder
from colocam_dist.slurm.states import job_states
from colocam_dist.slurm.submission import order, order_again, submit
from tune.folder import Record, StudyFolder

__all__ = ["SlurmWork", "cancel", "note_states"]

_LAST_LINES = 30  # of the log, for errors
_LATE = 60.0  # seconds after which files of another machine are seen here at the latest, by a network file system
_ENDINGS = ("done.json", "failed.json", "preempted.json")


class SlurmWork:
    """Submits a run, or finds the job of an earlier session.

    Args:
        record: of the run.
        study: whose driver asks SLURM about all jobs together, see :func:`note_states`.
    """

    def __init__(self, record: Record, study: StudyFolder) -> None:
        self._record = record
        self._states = states_path(study)
        self._since = time.time()
        self._jobs: list[str] = []
        self._over: float | None = None  # when SLURM was first heard to say that the job is

    def begin(self, config: Config) -> None:
        """Queue a job, unless one waits or runs.

        Raises:
            ClusterError: SLURM does not take it.
        """
        folder = SlurmFolder(self._record.run)
        self._adopt(folder)
        if not any(state.active for state in job_states(_jobs(self._record)).values()):
            marked = {**config.slurm.sbatch, "comment": str(folder.run)}
            config = config.model_copy(update={"slurm": config.slurm.model_copy(update={"sbatch": marked})})
            if folder.exists:
                again = order_again(folder, [])
                again.configs = [config]
                submit(again, snapshot=False, look=False)
            else:
                # The first job of the study tells whether nodes see its folder.
                look = not any(self._states.parent.glob("*/*/slurm/jobs.jsonl"))
                submit(order([config], config.run.name, chain=False), look=look)
        self._jobs = folder.all_jobs()
        self._since, self._over = time.time(), None

    def _adopt(self, folder: SlurmFolder) -> None:
        """Note a job that was queued by a driver that was killed before it could note it itself."""
        if not folder.exists:
            return
        known = set(folder.all_jobs())
        for job in jobs_with_comment(str(folder.run)):
            if job not in known:
                folder.add_job(0, job)

    def living(self) -> bool:
        """Whether the job waits or runs, as far as was asked since it was queued, or files of its end may come yet."""
        if (self._record.run / "done.json").is_file():  # it will be over before SLURM is asked again
            return False
        try:
            told = json.loads(self._states.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return True
        if told["asked"] <= self._since or any(told["active"].get(job, False) for job in self._jobs):
            self._over = None
            return True
        self._over = self._over or time.monotonic()
        names = {path.name for path in self._record.run.iterdir()}  # also makes such a file system look anew
        return names.isdisjoint(_ENDINGS) and time.monotonic() - self._over < _LATE

    def leave(self) -> None:
        """Nothing: the job goes on, and only the driver cancels it."""

    @property
    def killed(self) -> bool:
        """False: SLURM and the run's own limits decide whether a job is requeued."""
        return False

    def last_words(self) -> str:
        """The end of the newest log of its jobs."""
        logs = [log for job in self._jobs for log in SlurmFolder(self._record.run).log_files(job) if log.stat().st_size]
        if not logs:
            return ""
        newest = max(logs, key=lambda log: log.stat().st_mtime)
        return "\n".join(newest.read_text(errors="replace").splitlines()[-_LAST_LINES:])


def states_path(study: StudyFolder) -> Path:
    """Where the driver writes what SLURM says."""
    return study.path / "job-states.json"


def note_states(study: StudyFolder, records: Iterable[Record], settled: set[str]) -> None:
    """Ask SLURM once about all jobs of a study that are not over, and write its answer down for all of its trials.

    Jobs of trials that are over, but have not been cancelled, are cancelled now: the driver may have been killed, or
    SLURM have been away, in that moment.

    Args:
        study: where to.
        records: all of it.
        settled: jobs of trials that are over which need not be looked at any more; some are added.

    Raises:
        ClusterError: SLURM cannot be asked.
    """
    asked = time.time()
    going: list[str] = []
    over: list[str] = []
    for record in records:
        jobs = _jobs(record)
        if record.end is None:
            going += jobs
        elif not (record.run / "done.json").is_file():
            over += [job for job in jobs if job not in settled]
    states = job_states([*going, *over])
    write_atomically(
        states_path(study), json.dumps({"asked": asked, "active": {job: states[job].active for job in going}})
    )
    left = [job for job in over if states[job].active]
    settled.update(job for job in over if not states[job].active)
    if left:
        slurm("scancel", *left)


def jobs_with_comment(comment: str) -> list[str]:
    """Jobs of this user that wait or run with a comment, oldest first.

    Raises:
        ClusterError: SLURM cannot be asked.
    """
    answer = slurm("squeue", "--noheader", f"--user={getpass.getuser()}", "--format=%i %k")
    rows = [line.strip().partition(" ") for line in answer.splitlines()]
    return sorted((job for job, _, text in rows if text.strip() == comment), key=lambda job: int(job.split("_")[0]))


def cancel(records: Iterable[Record]) -> list[str]:
    """Cancel the jobs of records that are not over; returns them.

    Raises:
        ClusterError: SLURM cannot be asked.
    """
    jobs = [job for record in records for job in _jobs(record)]
    jobs = [job for job, state in job_states(jobs).items() if state.active]
    if jobs:
        slurm("scancel", *jobs)
    return jobs


def _jobs(record: Record) -> list[str]:
    folder = SlurmFolder(record.run)
    return folder.all_jobs() if folder.exists else []
