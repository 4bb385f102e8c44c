"""A SLURM cluster of two virtual nodes for the whole session, and a desk to submit runs from."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from virtual_cluster import VirtualCluster, missing  # noqa: E402

from benchmarks.reliability_lab import SMALL, Lab  # noqa: E402
from colocam_dist.slurm.record import SlurmFolder, attempts_of  # noqa: E402
from colocam_dist.slurm.states import JobState, job_states  # noqa: E402


@pytest.fixture(scope="session")
def cluster() -> Iterator[VirtualCluster]:
    """Nodes vn1 and vn2 with 4 CPUs and 2 GPUs each, partitions main and urgent, one hour at most."""
    if why := missing():
        pytest.skip(f"no virtual SLURM cluster: {why}")
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    try:
        with VirtualCluster(folder, cpus=4) as running:
            yield running
    finally:
        shutil.rmtree(folder)


class Desk:
    """Submits runs of the small data set and waits for what becomes of them."""

    def __init__(self, folder: Path) -> None:
        self.lab = Lab(folder)
        self.runs = folder / "runs"
        self.script = [sys.executable, str(ROOT / "launchers/submit.py")]

    def call(self, *words: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run launchers/submit.py."""
        done = subprocess.run(
            [*self.script, *map(str, words)],
            cwd=ROOT,  # a checkout, whose code the job must not take
            env=os.environ | {"PYTHONPATH": str(ROOT), "COLOCAM_FAULTS": "allowed", "OMP_WAIT_POLICY": "PASSIVE"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    def submit(self, name: str, *words: object, ranks: int = 2, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Submit a run of so many ranks on two nodes; each has data of its own, and finds no CAMs of another."""
        shards = self.lab.folder / f"shards-of-{name}"
        if not shards.exists():
            shutil.copytree(self.lab.folder / "shards", shards)
        size = ["slurm.nodes=2", f"slurm.tasks_per_node={ranks // 2}", "slurm.cpus_per_task=2", "slurm.time=10"]
        return self.call(
            *SMALL, f"data.shards={shards}", f"run.folder={self.runs}", f"run.name={name}", *size, *words, check=check
        )

    def run(self, name: str) -> Path:
        """Folder of a run, also of one elsewhere if its path is given."""
        return self.runs / name

    def states(self, name: str) -> list[JobState]:
        return list(job_states(SlurmFolder.open(self.run(name)).all_jobs()).values())

    def job(self, name: str) -> str:
        return SlurmFolder.open(self.run(name)).all_jobs()[-1]

    def wait(self, name: str, until: Callable[[], bool] | None = None, seconds: float = 500.0) -> None:
        """Until something is so; without it, until no job of the run is left."""
        ended = until or (lambda: not any(state.active for state in self.states(name)))
        deadline = time.monotonic() + seconds
        while not ended():
            assert time.monotonic() < deadline, self.story(name)
            time.sleep(0.2)

    def wait_for_step(self, name: str, step: int, stage: str = "localizer") -> None:
        self.wait(name, lambda: any(key[0] == stage and key[1] >= step for key in self.lab.losses(self.run(name))))

    def finish(self, name: str) -> Path:
        """Wait for the end, which must be a good one."""
        self.wait(name)
        assert (self.run(name) / "done.json").exists(), self.story(name)
        return self.run(name)

    def story(self, name: str) -> str:
        """What is known of a run, for failures."""
        return self.call("status", self.run(name)).stdout + self.call("logs", self.run(name), check=False).stdout

    def ends(self, name: str) -> list[dict[str, Any]]:
        return [row for row in attempts_of(self.run(name)) if row["event"] == "end"]

    def json(self, name: str, file: str) -> Any:
        return json.loads((self.run(name) / file).read_text())


@pytest.fixture(scope="session")
def desk(cluster: VirtualCluster, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(tmp_path_factory.mktemp("desk"))
