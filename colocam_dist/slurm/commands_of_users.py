"""What ``launchers/submit.py`` does for the user."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from colocam_dist.errors import ClusterError
from colocam_dist.slurm.commands import slurm
from colocam_dist.slurm.follow import follow
from colocam_dist.slurm.forecast import forecast
from colocam_dist.slurm.record import SlurmFolder
from colocam_dist.slurm.states import job_states
from colocam_dist.slurm.status import status_lines
from colocam_dist.slurm.submission import Order, array_configs, order, order_again, scripts
from colocam_dist.slurm.submission import submit as queue

_ENDING = 90.0  # seconds that SLURM may take to end a job
_LOOK_EVERY = 0.5  # seconds

__all__ = ["cancel", "logs", "resume", "status", "submit"]


def submit(given: argparse.Namespace) -> int:
    """Check, say the plan, and submit."""
    configs = array_configs(given.config, given.overrides, given.array)
    name = array_configs(given.config, given.overrides, [])[0].run.name
    asked = order(configs, name, chain=given.chain)
    print("\n".join(forecast(configs[0], given.like)))
    if len(configs) > 1:
        print("runs       " + ", ".join(Path(run).name for run in asked.submission.runs))
    if given.dry_run:
        print("\n" + "\n".join(scripts(asked)))
        return 0
    return _submit(asked, snapshot=True, follows=given.follow)


def resume(given: argparse.Namespace) -> int:
    """Submit again what is not done, with the code and the settings of the first submission."""
    folder = SlurmFolder.open(given.run)
    place = folder.read().working_folder
    try:
        os.chdir(place)
    except OSError as error:
        raise ClusterError(
            "the folder that the run was submitted in cannot be entered",
            where=place,
            got=error.strerror,
            fix="relative paths in the settings start there: bring it back, or submit the run anew",
        ) from None
    return _submit(order_again(folder, given.overrides), snapshot=given.new_code, follows=given.follow)


def status(given: argparse.Namespace) -> int:
    """State of a run: its jobs, why they wait, what became of earlier attempts, last figures."""
    print("\n".join(status_lines(SlurmFolder.open(given.run))))
    return 0


def logs(given: argparse.Namespace) -> int:
    """The ends of the newest logs."""
    folder = SlurmFolder.open(given.run)
    found = [path for job in folder.all_jobs() for path in folder.log_files(job)]
    if given.rank is not None:
        found = [path for path in found if path.name.rsplit("_", 2)[1] == str(given.rank)]
    if not found:
        raise ClusterError("there are no logs", where=folder.logs, fix="the job may not have started: submit.py status")
    for path in found:
        lines = path.read_text(errors="replace").splitlines()[-given.lines :]
        if lines:
            print(f"==> {path}", *lines, sep="\n")
    return 0


def cancel(given: argparse.Namespace) -> int:
    """Cancel all jobs of a run and wait for their end; what it has saved stays."""
    folder = SlurmFolder.open(given.run)
    active = _active(folder)
    if not active:
        print("no job of the run waits or runs")
        return 0
    for job in active:
        slurm("scancel", job)
    deadline = time.monotonic() + _ENDING
    while _active(folder):
        if time.monotonic() > deadline:
            raise ClusterError(
                "jobs were cancelled and have not ended yet",
                where=folder.run,
                got=", ".join(_active(folder)),
                fix="look again later: python launchers/submit.py status RUN",
            )
        time.sleep(_LOOK_EVERY)
    print("cancelled: " + ", ".join(active))
    return 0


def _active(folder: SlurmFolder) -> list[str]:
    return [state.job for state in job_states(folder.all_jobs()).values() if state.active]


def _submit(asked: Order, *, snapshot: bool, follows: bool) -> int:
    jobs = queue(asked, snapshot=snapshot)
    names = [asked.submission.parts[number].name for number in asked.part_numbers]
    for name, job in zip(names, jobs, strict=True):
        print(f"job {job}: {name}")
    print(f"python launchers/submit.py status {asked.folder.run}")
    return int(not follow(asked.folder, lambda line: print(line, flush=True))) if follows else 0
