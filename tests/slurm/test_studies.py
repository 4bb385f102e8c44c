"""Every command of docs/studies.md for a cluster, in its order, in a small form; drivers are killed, jobs requeued."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.reliability_lab import SMALL
from benchmarks.study_kills import trained_twice
from colocam_dist.slurm.record import SlurmFolder
from colocam_dist.slurm.states import job_states

pytestmark = pytest.mark.slurm

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/studies.md"
QUICK = (
    *("data.workers=0", "classifier.epochs=1", "localizer.epochs=2", "study.scheduler.grace=1"),
    *("slurm.cpus_per_task=1", "study.ask_slurm_every=1", "run.stages=[classifier,cams,localizer]"),
)


def commands() -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.DOTALL)
    found = [line for block in blocks for line in block.splitlines()]
    return [line for line in found if "--executor" in line or "launchers/submit.py" in line]


class Place:
    """A folder in which the commands are given."""

    def __init__(self, folder: Path, shards: Path) -> None:
        for name in ("launchers", "configs"):
            (folder / name).symlink_to(ROOT / name)
        shutil.copytree(shards, folder / "shards")
        self.folder = folder
        self.environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE"}

    def words(self, command: str) -> list[str]:
        """A command in a small form."""
        words = [sys.executable, *shlex.split(command)[1:]]
        if "--config" not in words:
            return words
        settings = [word for word in SMALL if not word.startswith(("run.stages", "data.workers", "data.n_frames"))]
        return [*words, *settings, *QUICK, f"data.shards={self.folder / 'shards'}"]

    def call(self, command: str) -> str:
        """Give a command, which must succeed."""
        done = subprocess.run(
            self.words(command), cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    def result(self, name: str) -> dict[str, Any]:
        return json.loads((self.folder / "studies" / name / "study.json").read_text())


@pytest.fixture
def place(cluster: Any, desk: Any, tmp_path: Path) -> Place:
    return Place(tmp_path, desk.lab.folder / "shards")


def wait(until: Callable[[], object], seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline, "it has not become so in time"
        time.sleep(0.1)


def figures(result: dict[str, Any]) -> dict[str, list[float]]:
    """CorLoc of each epoch by trial."""
    return {trial["id"]: [row["corloc"] for row in trial["epochs"]] for trial in result["trials"]}


def test_studies_on_a_cluster(place: Place) -> None:
    start, resume, cancel, allocation, logs = commands()
    jobs = place.folder / "studies/jobs"

    # Each trial is a job; the driver is killed while the first ones run, and they go on.
    with subprocess.Popen(
        place.words(start), cwd=place.folder, env=place.environment, stderr=subprocess.DEVNULL
    ) as one:
        wait(lambda: any(jobs.glob("trials/*/metrics.jsonl")))
        one.send_signal(signal.SIGKILL)
    assert place.call(resume).splitlines()[-1] == f"done: {jobs / 'report.html'}"
    found = place.result("jobs")
    assert {trial["state"] for trial in found["trials"]} <= {"finished", "stopped"}
    assert len(found["trials"]) == 4
    assert trained_twice(jobs) == 0
    folders = [SlurmFolder(run) for run in (*jobs.glob("trials/*"), *jobs.glob("classifiers/*"))]
    assert [len((folder.path / "jobs.jsonl").read_text().splitlines()) for folder in folders] == [1] * 5
    wait(lambda: not any(state.active for folder in folders for state in job_states(folder.all_jobs()).values()), 60)
    assert "no job of the study waits or runs" in place.call(cancel)

    # The whole study in one job, which is requeued on the way; it has the same figures.
    inside = place.folder / "studies/inside"
    place.call(allocation)
    for package in ("colocam_dist", "tune"):  # the job's code is that of the submission, not what lies here meanwhile
        (place.folder / package).mkdir()
        (place.folder / package / "__init__.py").write_text("raise SystemExit('code of the working folder')\n")
    wait(lambda: any(inside.glob("trials/*/metrics.jsonl")))
    (job,) = SlurmFolder(inside).all_jobs()
    subprocess.run(["scontrol", "requeue", job], check=True)
    wait(lambda: (inside / "done.json").exists(), 500)
    wait(lambda: not job_states([job])[job].active, 60)
    again = place.result("inside")
    assert len(again["trials"]) == 4
    same = figures(again)
    assert all(rows[: len(same[id])] == same[id][: len(rows)] for id, rows in figures(found).items())
    assert trained_twice(inside) == 0
    assert "epoch" in place.call(logs)
