"""Decides, when the ranks of a job have ended, whether the job goes on; run by the batch script on the first node.

Not by a rank: whatever happened to the ranks, the batch script is still there, and all ranks have left in peace. It
looks at the exit code, at what SLURM says of the job, and at earlier attempts. Only the standard library is needed,
so that it runs at once.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from colocam_dist.files import write_atomically
from colocam_dist.slurm.commands import fields_of
from colocam_dist.slurm.record import SlurmFolder, Submission, add_attempt, attempts_of

__all__ = ["REQUEUE", "Verdict", "decide", "seconds_of"]

REQUEUE = 85
"""Exit code that tells the batch script to requeue the job: that of a run which was asked to stop."""

FRUITLESS = 3
"""Failures, or time limits, in a row with the same newest checkpoint, after which the job is not requeued."""

_SAVED = ("checkpoints/*/latest.json", "*/*/checkpoints/*/latest.json", "records/*/end.json")
"""Where new checkpoints are seen: of a run, or of the runs of a study; and which of these are over."""

_USER_ERROR, _OUT_OF_MEMORY = 2, 87
_OF_THE_USER = ("ConfigError", "DataError", "RunError", "WeightsError")
_KILLED_EARLY = (128 + 15, 128 + 10, 128 + 12)  # TERM, USR1, USR2 before a rank could note them
_EARLY = 75.0  # seconds: SLURM may send the warning up to a minute before it is due
_MEANINGS = {86: "lost another rank, or hung", 134: "abort", 137: "killed", 139: "segmentation fault"}


@dataclass(frozen=True)
class Verdict:
    """What became of an attempt.

    Attributes:
        reason: "done", "time limit", "preempted", "asked to stop", "failure", "error", "out of memory", "ended by
            SLURM"; a failure and an error have details after a colon.
        requeue: whether the job goes on.
        refusal: why it does not although it could; "" = nothing to say.
    """

    reason: str
    requeue: bool = False
    refusal: str = ""


def decide(
    code: int,
    job: Mapping[str, str],
    earlier: Sequence[Mapping[str, Any]],
    submission: Submission,
    *,
    done: bool,
    saved: Sequence[str],
) -> Verdict:
    """What became of an attempt, and whether the job goes on.

    Args:
        code: the highest exit code of the ranks, or 128 + the number of the signal that killed one.
        job: what SLURM says of the job.
        earlier: ends of earlier attempts of the same job, oldest first.
        submission: with its limits.
        done: whether the part's last file is there.
        saved: the newest checkpoints.
    """
    if done:
        return Verdict("done")
    if job.get("JobState") != "RUNNING":  # cancelled, or already being requeued by SLURM: its decision stands
        return Verdict(f"ended by SLURM: {job.get('JobState', 'unknown')}")
    if code == _USER_ERROR:
        return Verdict("error, which a new start does not mend")
    if code == _OUT_OF_MEMORY:
        return Verdict("out of memory")
    if code == REQUEUE or code in _KILLED_EARLY:
        stopped = _unless_fruitless(_who_asked(job, submission.warning), earlier, saved)
        return _within_limit(stopped, job, submission)
    if code == 0:
        return Verdict("failure: all ranks ended without an error, but the part is not done")
    failure = f"failure: exit code {code}" + (f", {_MEANINGS[code]}" if code in _MEANINGS else "")
    return _within_limit(_after_failure(failure, earlier, submission.max_restarts, saved), job, submission)


def _who_asked(job: Mapping[str, str], warning: int) -> str:
    if job.get("PreemptTime", "None") != "None":
        return "preempted"
    left = seconds_of(job.get("TimeLimit", "")) - seconds_of(job.get("RunTime", "0"))
    return "time limit" if left <= warning + _EARLY else "asked to stop"


def _unless_fruitless(reason: str, earlier: Sequence[Mapping[str, Any]], saved: Sequence[str]) -> Verdict:
    """Time limits that come before the first step after a start would go on forever."""
    if reason == "time limit" and _in_a_row(reason, earlier, saved) >= FRUITLESS:
        return Verdict(reason, refusal=f"its time ended {FRUITLESS} times in a row without a new checkpoint")
    return Verdict(reason, requeue=True)


def _in_a_row(reason: str, earlier: Sequence[Mapping[str, Any]], saved: Sequence[str]) -> int:
    """How often attempts have ended in this way, one after another and with the same checkpoints; this one included."""
    number = 1
    for row in reversed(earlier):
        if row["reason"] != reason or list(row["saved"]) != list(saved):
            break
        number += 1
    return number


def _after_failure(
    failure: str, earlier: Sequence[Mapping[str, Any]], max_restarts: int, saved: Sequence[str]
) -> Verdict:
    failures = [row for row in earlier if row["reason"].startswith("failure")]
    if sum(row["requeue"] for row in failures) >= max_restarts:
        return Verdict(failure, refusal=f"it has been started again {max_restarts} times after failures")
    fruitless = _in_a_row(failure, earlier, saved)
    if fruitless >= FRUITLESS:
        return Verdict(failure, refusal=f"it failed {fruitless} times in a row without a new checkpoint")
    return Verdict(failure, requeue=True)


def _within_limit(verdict: Verdict, job: Mapping[str, str], submission: Submission) -> Verdict:
    requeues = int(job.get("Restarts", "0"))
    if verdict.requeue and requeues >= submission.max_requeues:
        return Verdict(verdict.reason, refusal=f"it has been requeued {requeues} times")
    return verdict


def _blamed(code: int, run: Path) -> int:
    """The exit code of the rank whose error ended the attempt: srun tells the highest, that of those who lost it."""
    failed = run / "failed.json"
    if code in (0, REQUEUE) or not failed.is_file():  # each start removes it, so that it is of this attempt
        return code
    kind = json.loads(failed.read_text()).get("type")
    return {**dict.fromkeys(_OF_THE_USER, _USER_ERROR), "MemoryLimitError": _OUT_OF_MEMORY}.get(kind, code)


def seconds_of(time: str) -> float:
    """A time as ``scontrol show job`` prints it, "[days-]hours:minutes:seconds"; infinity for any other word."""
    days, _, rest = time.rpartition("-")
    parts = rest.split(":")
    if not all(part.isdecimal() for part in parts) or (days and not days.isdecimal()):
        return math.inf
    seconds = 0
    for part in parts:
        seconds = seconds * 60 + int(part)
    return int(days or 0) * 86400 + seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Decide, write it down; returns the exit code for the batch script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the run or of the group of runs")
    parser.add_argument("--part", type=int, required=True)
    parser.add_argument("--code", type=int, required=True, help="exit code of srun")
    parser.add_argument("--id", required=True, help="of the job, or of the task of the array")
    parser.add_argument("--job", required=True, help="what scontrol show job --oneliner says")
    given = parser.parse_args(arguments)
    submission = SlurmFolder(given.folder).read()
    run, part = Path(submission.runs[int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))]), submission.parts[given.part]
    job = fields_of(given.job)
    known = {"event": "end", "part": part.name, "job": given.id}  # a resumed run has another job, with its own limits
    ends = [row for row in attempts_of(run) if known.items() <= row.items()]
    saved = sorted(path.read_text() for pattern in _SAVED for path in run.glob(pattern))
    verdict = decide(_blamed(given.code, run), job, ends, submission, done=part.is_done(run), saved=saved)
    add_attempt(
        run, {**known, "code": given.code, "reason": verdict.reason, "requeue": verdict.requeue, "saved": saved}
    )
    going_on = "the job is requeued" if verdict.requeue else verdict.refusal or "the job ends"
    print(f"{verdict.reason}; {going_on}", file=sys.stderr)
    if verdict.requeue:
        return REQUEUE
    if verdict.reason == "done":
        return 0
    if not (run / "failed.json").exists():
        error = verdict.reason + (f"; not requeued: {verdict.refusal}" if verdict.refusal else "")
        write_atomically(run / "failed.json", json.dumps({"error": error, "type": "ClusterError"}, indent=1) + "\n")
    return given.code if given.code not in (0, REQUEUE) else 1


if __name__ == "__main__":
    sys.exit(main())
