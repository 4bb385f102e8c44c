"""The state of submitted runs in words: jobs, why they wait, attempts, last figures, and how they ended."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from colocam_dist.slurm.record import DONE, Part, SlurmFolder, attempts_of, job_names
from colocam_dist.slurm.states import JobState, job_states, meaning_of

__all__ = ["counts_of", "ending_of", "last_metrics", "metrics_line", "status_lines"]

_TAIL = 1 << 16
_SHOWN = ("loss", "corloc", "classification", "frames_per_s", "data_wait", "mfu", "memory_gib")


def status_lines(folder: SlurmFolder) -> list[str]:
    """What can be said of a submission now.

    Raises:
        ClusterError: SLURM cannot be asked.
    """
    submission, jobs = folder.read(), folder.jobs()
    states = job_states(folder.all_jobs())
    lines: list[str] = []
    for number, run in enumerate(map(Path, submission.runs)):
        lines.append(f"{run}: {ending_of(run)}")
        for part, facts in enumerate(submission.parts):
            job = job_names(jobs[part], len(submission.runs))[number] if part in jobs else None
            state = None if job is None else states[job]
            lines.append(f"  {facts.name}: {_part(run, facts, state)}")
        lines += [f"    {line}" for line in _attempts(run)]
        counts = counts_of(run)
        if counts:
            lines.append("  attempts: " + ", ".join(f"{reason} {count}" for reason, count in counts.items()))
        last = last_metrics(run)
        if last is not None:
            lines.append(f"  last figures: {last}")
    return lines


def ending_of(run: Path) -> str:
    """How a run ended, by the files that it left."""
    if (run / DONE).is_file():
        return "done"
    for name, key in (("failed.json", "error"), ("preempted.json", "reason")):
        if (run / name).is_file():
            facts = json.loads((run / name).read_text())
            return f"{name.removesuffix('.json')}: {facts.get(key)}"
    return "not done"


def last_metrics(run: Path) -> str | None:
    """The last figures that a run reported."""
    path = run / "metrics.jsonl"
    if not path.is_file():
        return None
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        lines = file.read().split(b"\n")[:-1]
    return metrics_line(json.loads(lines[-1])) if lines else None


def metrics_line(row: dict[str, Any]) -> str:
    """A row of ``metrics.jsonl`` for people."""
    values = ", ".join(f"{name} {row[name]:.4g}" for name in _SHOWN if isinstance(row.get(name), int | float))
    return f"{row['stage']} {row['kind']}, epoch {row['epoch']}, step {row['step']}: {values}"


def _part(run: Path, part: Part, state: JobState | None) -> str:
    if state is None:
        return "not queued"
    facts = [f"job {state.job} {state.state}"]
    if state.state in ("PENDING", "REQUEUED"):
        facts += [meaning_of(state.reason)] if meaning_of(state.reason) else []
        facts += [f"expected to start {state.start}"] if state.start else []
    elif state.nodes:
        facts.append(f"on {state.nodes}, {state.elapsed} of {state.limit}")
    if part.is_done(run):
        facts.append("done")
    return ", ".join(facts)


def _attempts(run: Path) -> list[str]:
    """Ends of attempts, and starts that have none because SLURM took the nodes away."""
    return [
        f"{row['time']} {row['part']}, job {row['job']}: {row['reason']}" + ("; requeued" if row["requeue"] else "")
        for row in _ends(run)
    ]


def counts_of(run: Path) -> dict[str, int]:
    """How often a run's jobs ended, by reason; "lost": SLURM took the nodes away at once."""
    return dict(Counter(row["reason"].partition(" (")[0].partition(":")[0] for row in _ends(run)))


def _ends(run: Path) -> list[dict[str, Any]]:
    """Ends of attempts; a start that was followed by another start was lost."""
    rows = attempts_of(run)
    found = []
    for number, row in enumerate(rows):
        if row["event"] == "end":
            found.append(row)
        elif number + 1 < len(rows) and rows[number + 1]["event"] == "start":
            found.append({**row, "reason": "lost (node failure, or requeued by SLURM)", "requeue": True})
    return found
