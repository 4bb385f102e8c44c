"""Tells what happens to a submission, as it happens, until it is over."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from colocam_dist.slurm.record import SlurmFolder, attempts_of
from colocam_dist.slurm.states import job_states, meaning_of
from colocam_dist.slurm.status import ending_of, metrics_line

__all__ = ["follow"]


def follow(folder: SlurmFolder, say: Callable[[str], None], every: float = 2.0) -> bool:
    """Say every new state and figure; returns, when no job is left, whether all runs are done.

    Interrupting it does nothing to the jobs.

    Args:
        folder: of the submission.
        say: is given one line at a time.
        every: seconds between looks.

    Raises:
        ClusterError: SLURM cannot be asked.
    """
    runs = [Path(run) for run in folder.read().runs]
    told: dict[str, str] = {}
    read = {run: (run / "metrics.jsonl").stat().st_size if (run / "metrics.jsonl").is_file() else 0 for run in runs}
    attempts = {run: len(attempts_of(run)) for run in runs}
    while True:
        states = job_states(folder.all_jobs())
        for run in runs:
            name = f"{run.name}: " if len(runs) > 1 else ""
            rows = attempts_of(run)
            for row in rows[attempts[run] :]:
                if row["event"] == "end":
                    say(f"{name}{row['part']}: {row['reason']}" + ("; requeued" if row["requeue"] else ""))
            attempts[run] = len(rows)
            for line in _new_lines(run / "metrics.jsonl", read, run):
                say(name + metrics_line(json.loads(line)))
        for job, state in states.items():
            why = meaning_of(state.reason) if state.state == "PENDING" else ""
            words = state.state + (f", {why}" if why else "")
            words += f" on {state.nodes}" if state.state == "RUNNING" else ""
            if told.get(job) != words:
                told[job] = words
                say(f"job {job}: {words}")
        if not any(state.active for state in states.values()):
            for run in runs:
                say(f"{run}: {ending_of(run)}")
            return all(ending_of(run) == "done" for run in runs)
        time.sleep(every)


def _new_lines(path: Path, read: dict[Path, int], run: Path) -> list[str]:
    """Whole lines that came since the last call; a file that became shorter was cut to its last whole line."""
    if not path.is_file():
        return []
    read[run] = min(read[run], path.stat().st_size)
    with path.open("rb") as file:
        file.seek(read[run])
        text = file.read()
    end = text.rfind(b"\n") + 1
    read[run] += end
    return text[:end].decode().splitlines()
