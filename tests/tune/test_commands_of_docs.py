"""Every command of docs/studies.md for one machine, in its order, in a small form; the driver is killed on the way."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.reliability_lab import SMALL, Lab  # noqa: E402
from benchmarks.study_kills import processes_of, started_again, trained_twice  # noqa: E402
from tune.settings import load_study  # noqa: E402
from tune.space import Space  # noqa: E402

PAGE = ROOT / "docs/studies.md"
QUICK = ("data.workers=0", "classifier.epochs=1", "localizer.epochs=2", "study.scheduler.grace=1")
SLURM = ("--executor", "launchers/submit.py")


def commands(*, slurm: bool) -> list[str]:
    """Those for a cluster, or the others."""
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.DOTALL)
    found = [line for block in blocks for line in block.splitlines() if line and "benchmarks/" not in line]
    return [line for line in found if any(word in line for word in SLURM) == slurm]


def smaller(command: str, shards: Path) -> list[str]:
    """The same command for small data and a small network."""
    words = [sys.executable, *shlex.split(command)[1:]]
    if "--config" not in words:
        return words
    stages = "run.stages=[classifier,cams,localizer]"
    settings = [word for word in SMALL if not word.startswith(("run.stages", "data.workers", "data.n_frames"))]
    return [*words, *settings, *QUICK, stages, f"data.shards={shards}"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Lab(tmp_path_factory.mktemp("lab")).folder / "shards"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_every_command_does_what_it_says_although_the_driver_is_killed(shards: Path, tmp_path: Path) -> None:
    for name in ("launchers", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE"}
    study = tmp_path / "studies/demo"

    def call(command: str) -> str:
        done = subprocess.run(
            smaller(command, shards), cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    plan, start, resume, retry, report = commands(slurm=False)
    assert "4 trials" in call(plan)
    assert not study.exists()
    driver = subprocess.Popen(smaller(start, shards), cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not any(study.glob("trials/*/metrics.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.1)
    driver.kill()
    driver.wait()
    while processes_of(study) and time.monotonic() < deadline + 30:
        time.sleep(0.1)
    assert processes_of(study) == []
    assert not (study / "done.json").exists()
    assert call(resume).splitlines()[-1] == f"done: {study / 'report.html'}"
    first = json.loads((study / "study.json").read_text())
    assert {trial["state"] for trial in first["trials"]} <= {"finished", "stopped"}
    assert len(first["trials"]) == 4
    assert (started_again(study), trained_twice(study)) == (0, 0)
    assert len(list(study.glob("classifiers/*"))) == 1
    call(retry)
    second = json.loads((study / "study.json").read_text())
    assert [trial["id"] for trial in second["trials"]][:4] == [trial["id"] for trial in first["trials"]]
    assert sorted(trial["seed"] for trial in second["trials"]) == [0] * 4 + [1] * 4
    assert (started_again(study), trained_twice(study)) == (0, 0)
    assert len(list(study.glob("classifiers/*"))) == 2
    (study / "report.html").unlink()
    call(report)
    assert (study / "report.html").exists()
    assert processes_of(study) == []


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_bad_trial_is_reported_and_the_study_goes_on(shards: Path, tmp_path: Path) -> None:
    bad = "bad: {fault: 'exception@0:1:localizer.forward', checkpoint.keep: 3}"
    trial = f"trial: {{good: {{}}, {bad}, LayerCAM: {{run.stages: [classifier, cams]}}}}"
    space = f"{{localizer.loss.colocalization.weight: [0.5], data.n_frames: [1], {trial}}}"
    command = "python -m tune.study --config configs/tune/demo.yaml study.scheduler.name=none study.retries=0"
    words = [*smaller(command, shards), f"study.folder={tmp_path}", f"study.space={space}", "localizer.epochs=1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE", "COLOCAM_FAULTS": "allowed"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "1 of 3 trials failed; the report says why" in done.stdout
    result = json.loads((tmp_path / "demo/study.json").read_text())
    states = [(trial["point"]["trial"], trial["state"]) for trial in result["trials"]]
    assert sorted(states) == [("LayerCAM", "finished"), ("bad", "failed"), ("good", "finished")]
    failed = [trial for trial in result["trials"] if trial["state"] == "failed"]
    assert all("Traceback" in trial["traceback"] for trial in failed)
    assert "Traceback" in (tmp_path / "demo/report.html").read_text()


SHIPPED = sorted([*(ROOT / "configs/tune").glob("*.yaml"), *(ROOT / "configs/paper").glob("*.yaml")])


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_space_of_every_shipped_study_is_one(path: Path, shards: Path) -> None:
    space = Space(load_study(path, [f"data.shards={shards}"]))
    points = [] if "search: tpe" in path.read_text() else space.points()
    for point in points:
        space.config(point)
