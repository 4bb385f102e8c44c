"""What each rank of a job runs: a part of a run, until it is done or somebody wants the nodes back."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import submitit

from colocam_dist.config import load
from colocam_dist.console import run_console
from colocam_dist.errors import ClusterError, PreemptedError, ReportedElsewhereError
from colocam_dist.files import write_atomically
from colocam_dist.slurm.record import Part, SlurmFolder, add_attempt
from colocam_dist.training.signals import StopRequests

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

__all__ = ["TrainJob"]


class TrainJob:
    """Called by submitit in every task of a job.

    From its first line no signal ends the process: a request to stop is obeyed at the end of a training step by all
    ranks together. It leaves with the exit codes of the other launchers, so 85 = saved, requeue me.

    Args:
        folder: of the run or of the group of runs; it has a ``slurm/submission.json``.
        part: which part of the submission.
    """

    def __init__(self, folder: str, part: int) -> None:
        self.folder = folder
        self.part = part

    def checkpoint(self) -> DelayedSubmission:
        """What submitit is to run after a signal that came before this object was called: the same again."""
        return submitit.helpers.DelayedSubmission(self)

    def __call__(self) -> str:
        """Do the part; returns the run's folder."""
        with StopRequests() as stop:
            submission = SlurmFolder(Path(self.folder)).read()
            os.chdir(submission.working_folder)
            run = Path(submission.runs[int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))])
            try:
                run_console(lambda: _work(run, submission.parts[self.part], submission.max_requeues, stop))
            except SystemExit as end:
                if end.code != 0:
                    raise
        return str(run)


def _work(run: Path, part: Part, max_requeues: int, stop: StopRequests) -> int:
    first = os.environ.get("SLURM_PROCID", "0") == "0"
    if part.is_done(run):  # a task of an array that is resumed for the sake of others
        return 0
    try:
        if first:
            _note_start(run, part)
        _check_requeues(run, max_requeues, first)
        config = load(run / "config.yaml", ["run.on_exists=resume"])
        from colocam_dist.training.pipeline import run as train  # imports torch, which takes seconds

        train(config, stages=part.stages, marker=part.marker, stop=stop)
    except (PreemptedError, ReportedElsewhereError):
        # An exit code other than 0 makes srun kill the other ranks. Rank 0 has it, when it has written everything down.
        if first:
            raise
    return 0


def _note_start(run: Path, part: Part) -> None:
    facts = {"event": "start", "part": part.name, "job": _name()}
    facts |= {"nodes": os.environ.get("SLURM_JOB_NODELIST", ""), "tasks": os.environ.get("SLURM_STEP_NUM_TASKS", "1")}
    add_attempt(run, {**facts, "requeues": _requeues()})


def _check_requeues(run: Path, most: int, first: bool) -> None:
    """SLURM requeues jobs by itself, after the loss of a node for example, so the limit is looked at here as well."""
    if _requeues() <= most:
        return
    error = ClusterError(
        "the job was requeued too often",
        where=run,
        got=f"{_requeues()} times",
        wanted=f"slurm.max_requeues={most} at most",
        fix="find out why (attempts.jsonl), then: python launchers/submit.py resume RUN slurm.max_requeues=...",
    )
    if first:
        write_atomically(run / "failed.json", json.dumps({"error": str(error), "type": "ClusterError"}, indent=1))
        raise error
    raise ReportedElsewhereError(str(error))


def _name() -> str:
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array else os.environ.get("SLURM_JOB_ID", "")


def _requeues() -> int:
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))
