"""What a submission leaves in the run's folder, so that any later command knows what was asked and what became of it.

::

    runs/<name>/slurm/
      submission.json   what was asked: runs, parts, limits, code; written before the first job is queued
      jobs.jsonl        one JSON object a line: every job that was queued for a part
      code/             the package as it was when it was submitted: later edits do not matter
      jobs/             what submitit writes: batch scripts, pickled calls, logs of every rank

    runs/<name>/array.json       which array does the run, if one does
    runs/<name>/attempts.jsonl   one JSON object a line: each start and each end of the job's ranks, and why
"""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from colocam_dist.errors import ClusterError
from colocam_dist.files import WholeLines, write_atomically

__all__ = ["DONE", "Part", "SlurmFolder", "Submission", "add_attempt", "attempts_of", "job_names"]

DONE = "done.json"
"""What a run has when all of it is done."""

_ATTEMPTS, _GROUP = "attempts.jsonl", "array.json"


@dataclass(frozen=True)
class Part:
    """What one job does of each run.

    Attributes:
        stages: of ``run.stages``, in their order.
        marker: file in the run's folder that is written last, when the part is done.
    """

    stages: tuple[str, ...]
    marker: str = DONE

    @property
    def name(self) -> str:
        """For people."""
        return "+".join(self.stages)

    def is_done(self, run: Path) -> bool:
        """Whether a run has done all of it; a marker of fewer stages is one of an earlier, smaller run."""
        marker = run / self.marker
        return marker.is_file() and set(self.stages) <= set(json.loads(marker.read_text())["stages"])


@dataclass(frozen=True)
class Submission:
    """What was asked.

    Attributes:
        runs: absolute folders; several are the tasks of an array, in this order.
        parts: jobs that run one after another.
        working_folder: absolute; relative paths in the settings start there.
        max_requeues: how often a job may be requeued, whoever does it.
        max_restarts: how often of these after a failure.
        warning: seconds before the end of its time at which the job is told.
        code: version, commit, and whether there were changes since.
    """

    runs: tuple[str, ...]
    parts: tuple[Part, ...]
    working_folder: str
    max_requeues: int
    max_restarts: int
    warning: int
    code: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, facts: dict[str, Any]) -> Submission:
        """What :func:`dataclasses.asdict` made a dictionary of."""
        parts = tuple(Part(tuple(part["stages"]), part["marker"]) for part in facts["parts"])
        return cls(**{**facts, "runs": tuple(facts["runs"]), "parts": parts})


class SlurmFolder:
    """The files of a submission.

    Args:
        run: folder of the run, or of the group of runs that an array has.
    """

    def __init__(self, run: Path) -> None:
        self.run = run.absolute()
        self.path = self.run / "slurm"
        self.code = self.path / "code"
        self.logs = self.path / "jobs"

    @classmethod
    def open(cls, run: Path) -> SlurmFolder:
        """Of a run that was submitted.

        Raises:
            ClusterError: it was not.
        """
        folder = cls(run)
        group = folder.group()
        if group is not None:
            raise ClusterError(
                "the run is a task of an array", where=run, fix=f"give the folder of the array: {group.run}"
            )
        if not folder.exists:
            raise ClusterError(
                "this was not submitted to SLURM",
                where=run,
                wanted="the folder of a run, or of an array, that launchers/submit.py has submitted",
            )
        return folder

    @property
    def _file(self) -> Path:
        return self.path / "submission.json"

    @property
    def exists(self) -> bool:
        """Whether something was submitted."""
        return self._file.is_file()

    def note_group(self, group: SlurmFolder) -> None:
        """Note in a run's folder that an array does it."""
        write_atomically(self.run / _GROUP, json.dumps({"array": str(group.run)}) + "\n")

    def group(self) -> SlurmFolder | None:
        """Of the array that does the run; None if it is none's."""
        pointer = self.run / _GROUP
        return SlurmFolder(Path(json.loads(pointer.read_text())["array"])) if pointer.is_file() else None

    def write(self, submission: Submission) -> None:
        """Write what was asked."""
        write_atomically(self._file, json.dumps(dataclasses.asdict(submission), indent=1) + "\n")

    def read(self) -> Submission:
        """What was asked."""
        return Submission.from_dict(json.loads(self._file.read_text()))

    def add_job(self, part: int, job: str) -> None:
        """Note that a job was queued for a part."""
        _append(self.path / "jobs.jsonl", {"part": part, "job": job})

    def jobs(self) -> dict[int, str]:
        """The newest job of each part that has one."""
        return {row["part"]: row["job"] for row in _rows(self.path / "jobs.jsonl")}

    def all_jobs(self) -> list[str]:
        """The newest jobs of all parts, as ``squeue`` names them: one for each run if they are arrays."""
        jobs = self.jobs()
        tasks = len(self.read().runs) if jobs else 0
        return [name for part in sorted(jobs) for name in job_names(jobs[part], tasks)]

    def log_files(self, job: str) -> list[Path]:
        """Logs of a job, those of the ranks in their order."""
        found = self.logs.glob(f"{job}_*_log.*")
        return sorted(found, key=lambda path: (int(path.name.removeprefix(f"{job}_").split("_")[0]), path.suffix))


def job_names(job: str, runs: int) -> list[str]:
    """How SLURM names what a job does for each run."""
    return [job] if runs == 1 else [f"{job}_{run}" for run in range(runs)]


def add_attempt(run: Path, row: dict[str, Any]) -> None:
    """Append to the run's attempts."""
    _append(run / _ATTEMPTS, row)


def attempts_of(run: Path) -> list[dict[str, Any]]:
    """All starts and ends of a run's jobs so far, oldest first."""
    return _rows(run / _ATTEMPTS)


def _append(path: Path, row: dict[str, Any]) -> None:
    lines = WholeLines(path)
    try:
        lines.write(json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **row}))
        lines.sync()
    finally:
        lines.close()


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    text = path.read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
