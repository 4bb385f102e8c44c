"""Studies whose driver is killed at a random moment, against one that nobody disturbs::

    python benchmarks/study_kills.py --config STUDY.yaml --count 10 [--kills 1] [section.key=value ...]

Each study runs in a folder of its own; its driver is sent KILL so many times, at moments spread over the length of the
undisturbed study, and the study is resumed each time. Then, for every study: the best point and its figure are those of
the undisturbed one; no trial that was over was started again; no epoch of a trial was trained twice after it had been
saved; no process and no job is left.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tune.settings import load_study  # noqa: E402

_LEFT = 30.0  # seconds that processes of a killed driver may take to save and leave


def start(config: Path, settings: list[str], *, resume: bool) -> subprocess.Popen[bytes]:
    """Start a driver."""
    command = [sys.executable, "-m", "tune.study", "--config", str(config), *settings]
    command += ["--resume"] if resume else []
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def processes_of(study: Path, *, jobs: bool = False) -> list[psutil.Process]:
    """Living processes that were started for a study, and those of its Ray; with `jobs` these only, as jobs go on."""
    note = study / "ray-folder"
    marks = ([note.read_text()] if note.exists() else []) + ([] if jobs else [str(study)])
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = " ".join(process.info["cmdline"] or [])
        if process.info["status"] != psutil.STATUS_ZOMBIE and any(mark in words for mark in marks):
            found.append(process)
    return found


def run(config: Path, study: Path, settings: list[str], moments: list[float]) -> dict[str, Any]:
    """A study that is killed and resumed; what it has found."""
    jobs = load_study(config, settings).study.executor == "slurm"
    began, left, resume = time.monotonic(), 0, False
    settings = [*settings, f"study.folder={study.parent}", f"study.name={study.name}"]
    for moment in [*moments, None]:
        driver = start(config, settings, resume=resume)
        try:
            code = driver.wait(moment)
        except subprocess.TimeoutExpired:
            os.kill(driver.pid, signal.SIGKILL)
            driver.wait()
            deadline = time.monotonic() + _LEFT
            while processes_of(study, jobs=jobs) and time.monotonic() < deadline:
                time.sleep(0.2)
            left += len(processes_of(study, jobs=jobs))
            resume = (study / "study.yaml").exists()
            continue
        if code != 0:
            raise RuntimeError(f"the study {study} ended with {code}")
        break
    deadline = time.monotonic() + _LEFT
    while processes_of(study) and time.monotonic() < deadline:  # jobs that were cancelled a moment ago
        time.sleep(0.2)
    result = json.loads((study / "study.json").read_text())
    return {
        "seconds": round(time.monotonic() - began, 1),
        "best": result["best"]["point"],
        "corloc": result["best"]["mean"],
        "trials": dict(Counter(trial["state"] for trial in result["trials"])),
        "again": started_again(study),
        "twice": trained_twice(study),
        "left": left + len(processes_of(study)),
        "overhead": overhead(study),
    }


def started_again(study: Path) -> int:
    """How often something was started that was over, or a job was queued although there was one."""
    count = 0
    for record in study.glob("records/*"):
        end = json.loads((record / "end.json").read_text())
        rows = [json.loads(line) for line in _text(record / "attempts.jsonl").splitlines()]
        count += sum(row["event"] == "start" and row["time"] > end["time"] for row in rows)
    return count + sum(len(_text(path).splitlines()) - 1 for path in study.glob("*/*/slurm/jobs.jsonl"))


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def trained_twice(study: Path) -> int:
    """Epochs whose validation stands in the metrics more than once: an epoch is saved as soon as it is validated."""
    count = 0
    for path in study.glob("*/*/metrics.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        keys = Counter((row["stage"], row["epoch"]) for row in rows if row["kind"] == "validation" and row["epoch"])
        count += sum(number - 1 for number in keys.values())
    return count


def overhead(study: Path) -> float | None:
    """Time between the first start of a process and the last end in which none ran, as a share; None for jobs."""
    spans = []
    for path in study.glob("records/*/attempts.jsonl"):
        begun: dict[int, float] = {}
        for row in map(json.loads, path.read_text().splitlines()):
            if row["event"] == "start":
                begun[row["pid"]] = row["time"]
            elif row["pid"] in begun:
                spans.append((begun.pop(row["pid"]), row["time"]))
    if not spans:
        return None
    spans.sort()
    idle, end = 0.0, spans[0][0]
    for first, last in spans:
        idle, end = idle + max(0.0, first - end), max(end, last)
    return round(idle / (end - spans[0][0]), 4)


def main() -> None:
    """Run, compare, print one line a study, and a summary as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--count", type=int, default=10, help="studies to disturb (default 10)")
    parser.add_argument("--kills", type=int, default=1, help="of each (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_intermixed_args()
    path = load_study(given.config, given.overrides).study.path
    calm = run(given.config, path.with_name(f"{path.name}-calm"), given.overrides, [])
    print(f"calm: {calm}", flush=True)
    moments = random.Random(given.seed)
    good = 0
    for number in range(given.count):
        times = [moments.uniform(1.0, calm["seconds"] / given.kills) for _ in range(given.kills)]
        found = run(given.config, path.with_name(f"{path.name}-{number}"), given.overrides, times)
        same = found["best"] == calm["best"] and found["corloc"] == calm["corloc"]
        sound = same and not found["again"] and not found["twice"] and not found["left"]
        good += sound
        print(
            f"{number}: killed after {[round(one, 1) for one in times]} s: {'good' if sound else 'BAD'} {found}",
            flush=True,
        )
    print(json.dumps({"studies": given.count, "kills_each": given.kills, "good": good, "calm": calm}))
    sys.exit(good != given.count)


if __name__ == "__main__":
    main()
