"""A run as a SLURM job of its own, which lives on when the study's driver does not."""

from __future__ import annotations

import getpass
import json
import time
from collections.abc import Iterable
from pathlib import Path

from colocam_dist.config import Config
from colocam_dist.errors import ClusterError
from colocam_dist.files import write_atomically
from colocam_dist.slurm.commands import slurm
from colocam_dist.slurm.record import SlurmFolder
from colocam_dist.slurm.states import job_states
from colocam_dist.slurm.submission import order, order_again, submit
from tune.folder import Record, StudyFolder

__all__ = ["SlurmWork", "cancel", "note_states"]

_CANCEL_TIME = 60.0  # seconds that jobs may take to end


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

    def begin(self, config: Config) -> None:
        """Queue a job, unless one waits or runs.

        Raises:
            ClusterError: SLURM does not take it.
        """
        folder = SlurmFolder(self._record.run)
        self._adopt(folder)
        known = folder.all_jobs() if folder.exists else []
        if not any(state.active for state in job_states(known).values()):
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
        self._since = time.time()

    def _adopt(self, folder: SlurmFolder) -> None:
        """Note a job that was queued by a driver that was killed before it could note it itself."""
        if not folder.exists:
            return
        known = set(folder.all_jobs())
        for job in jobs_with_comment(str(folder.run)):
            if job not in known:
                folder.add_job(0, job)

    def living(self) -> bool:
        """Whether the job waits or runs, as far as was asked since it was queued."""
        try:
            told = json.loads(self._states.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return True
        return told["asked"] <= self._since or any(told["active"].get(job, False) for job in self._jobs)

    def end(self) -> None:
        """Cancel the job and wait until it has ended."""
        jobs = cancel(self._record)
        deadline = time.monotonic() + _CANCEL_TIME
        while any(state.active for state in job_states(jobs).values()):
            if time.monotonic() > deadline:
                raise ClusterError("a job was cancelled and has not ended yet", where=self._record.run, got=jobs)
            time.sleep(0.5)


def states_path(study: StudyFolder) -> Path:
    """Where the driver writes what SLURM says."""
    return study.path / "job-states.json"


def note_states(study: StudyFolder, records: Iterable[Record]) -> None:
    """Ask SLURM once about all jobs of a study that are not over, and write its answer down for all of its trials.

    Raises:
        ClusterError: SLURM cannot be asked.
    """
    asked = time.time()
    folders = [SlurmFolder(record.run) for record in records if record.end is None]
    jobs = [job for folder in folders if folder.exists for job in folder.all_jobs()]
    active = {job: state.active for job, state in job_states(jobs).items()}
    write_atomically(states_path(study), json.dumps({"asked": asked, "active": active}))


def jobs_with_comment(comment: str) -> list[str]:
    """Jobs of this user that wait or run with a comment, oldest first.

    Raises:
        ClusterError: SLURM cannot be asked.
    """
    answer = slurm("squeue", "--noheader", f"--user={getpass.getuser()}", "--format=%i %k")
    rows = [line.strip().partition(" ") for line in answer.splitlines()]
    return sorted((job for job, _, text in rows if text.strip() == comment), key=lambda job: int(job.split("_")[0]))


def cancel(record: Record) -> list[str]:
    """Cancel the job of a record, if there is one that is not over; returns it.

    Raises:
        ClusterError: SLURM cannot be asked.
    """
    folder = SlurmFolder(record.run)
    jobs = folder.all_jobs() if folder.exists else []
    jobs = [job for job, state in job_states(jobs).items() if state.active]
    if jobs:
        slurm("scancel", *jobs)
    return jobs
