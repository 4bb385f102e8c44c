"""Tells what happens to a submission, as it happens, until it is over."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from colocam_dist.errors import ClusterError
from colocam_dist.slurm.record import SlurmFolder, attempts_of
from colocam_dist.slurm.states import JobState, job_states, meaning_of
from colocam_dist.slurm.status import ending_of, metrics_line

__all__ = ["follow"]

_FIRST = 120.0  # seconds
_PATIENCE = 600.0  # seconds for which a busy controller may not answer
_LATE = 60.0  # seconds after which files of another machine are seen here at the latest


def follow(folder: SlurmFolder, say: Callable[[str], None], every: float = 2.0) -> bool:
    """Say every new state and figure; returns, when no job is left, whether all runs are done.

    Interrupting it does nothing to the jobs.

    Args:
        folder: of the submission.
        say: is given one line at a time.
        every: seconds between looks in the first minutes; later five times as long.

    Raises:
        ClusterError: SLURM cannot be asked for ten minutes.
    """
    began = time.monotonic()
    answered = began
    over: float | None = None
    runs = [Path(run) for run in folder.read().runs]
    told: dict[str, str] = {}
    read = {run: (run / "metrics.jsonl").stat().st_size if (run / "metrics.jsonl").is_file() else 0 for run in runs}
    attempts = {run: len(attempts_of(run)) for run in runs}
    while True:
        now = time.monotonic()
        pause = every if now - began < _FIRST else 5 * every
        try:
            states = job_states(folder.all_jobs())
        except ClusterError:
            if now - answered > _PATIENCE:
                raise
            time.sleep(pause)
            continue
        answered = now
        for run in runs:
            name = f"{run.name}: " if len(runs) > 1 else ""
            for news in (*_new_ends(run, attempts), *_new_figures(run, read)):
                say(name + news)
        for job, state in states.items():
            words = _words(state)
            if told.get(job) != words:
                told[job] = words
                say(f"job {job}: {words}")
        if not any(state.active for state in states.values()):
            over = over or now
            done = all(ending_of(run) == "done" for run in runs)
            if not done and now - over < _LATE and all(state.state == "COMPLETED" for state in states.values()):
                time.sleep(every)
                continue
            for run in runs:
                say(f"{run}: {ending_of(run)}")
            return done
        time.sleep(pause)


def _new_ends(run: Path, told: dict[Path, int]) -> list[str]:
    rows = attempts_of(run)
    ends = [row for row in rows[told[run] :] if row["event"] == "end"]
    told[run] = len(rows)
    return [f"{row['part']}: {row['reason']}" + ("; requeued" if row["requeue"] else "") for row in ends]


def _new_figures(run: Path, read: dict[Path, int]) -> list[str]:
    return [metrics_line(json.loads(line)) for line in _new_lines(run / "metrics.jsonl", read, run)]


def _words(state: JobState) -> str:
    why = meaning_of(state.reason) if state.state == "PENDING" else ""
    return state.state + (f", {why}" if why else "") + (f" on {state.nodes}" if state.state == "RUNNING" else "")


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
