"""What is refused before anything is queued, in SLURM's own words, and what remains then: nothing."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slurm


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        (["slurm.partition=nope"], ["invalid partition specified: nope", "main: 2 nodes of 4 CPUs", "slurm.partition"]),
        (
            ["slurm.gpus_per_node=7", "slurm.tasks_per_node=1"],
            ["Requested node configuration", "gpu:2", "ask for less"],
        ),
        (["slurm.nodes=6"], ["Requested node configuration", "main: 2 nodes"]),
        (["slurm.memory_gb=9000"], ["Memory specification can not be satisfied|Requested node configuration"]),
        (["slurm.constraint=fpga"], ["Invalid feature specification", "slurm.constraint"]),
        (["slurm.time=2-00:00:00"], ["longer than the partition allows", "01:00:00 at most", "slurm.time"]),
        (["engine.device=cuda"], ["wants GPUs and the job has none", "slurm.gpus_per_node"]),
        (["data.shards=nowhere"], ["nowhere"]),
        (["slurm.nodes=2", "slurm.tasks_per_node=4"], ["global batch cannot be divided", "8 ranks"]),
        (["slurm.nodse=2"], ["slurm.nodse", "did you mean slurm.nodes"]),
        (["slurm.sbatch={partitoin: main}"], ["unrecognized option"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_it_is_refused_before_it_is_queued(cluster: Any, desk: Any, settings: list[str], parts: list[str]) -> None:
    refused = desk.submit("refused", *settings, check=False)
    assert refused.returncode == 2, refused.stdout
    assert "Traceback" not in refused.stderr
    for part in parts:
        assert any(choice in refused.stderr for choice in part.split("|")), refused.stderr
    assert not desk.run("refused").exists()
    assert "refused" not in cluster.ask("squeue", "--noheader", "--format=%j")


def test_a_folder_that_nodes_do_not_see_is_refused(cluster: Any, desk: Any) -> None:
    # The folder is there on both sides, but what is in it is not the same.
    refused = desk.submit("unseen", f"run.folder={cluster.hidden / 'runs'}", check=False)
    shutil.copytree(desk.lab.folder / "shards", cluster.hidden / "shards")
    data = desk.submit("unseen", f"data.shards={cluster.hidden / 'shards'}", check=False)
    for done, missing in ((refused, cluster.hidden / ".colocam-look-"), (data, cluster.hidden / "shards on vn")):
        assert done.returncode == 2, done.stdout
        assert "the nodes do not see what the run needs" in done.stderr
        assert f"missing: {missing}" in done.stderr
        assert "shared file system" in done.stderr
    assert not desk.run("unseen").exists()
    assert [path.name for path in cluster.hidden.iterdir()] == ["shards"]


def test_submitting_takes_less_than_two_seconds_more_than_sbatch(cluster: Any, desk: Any, tmp_path: Path) -> None:
    ours, plain = [], []
    for number in range(3):
        began = time.monotonic()
        desk.submit(f"timed-{number}", "slurm.sbatch={hold: true}")
        ours.append(time.monotonic() - began)
        script = next((desk.run(f"timed-{number}") / "slurm/jobs").glob("*.sh"))
        began = time.monotonic()
        copy = subprocess.run(["sbatch", "--parsable", str(script)], check=True, capture_output=True, text=True)
        plain.append(time.monotonic() - began)
        subprocess.run(["scancel", desk.job(f"timed-{number}"), copy.stdout.strip()], check=True)
    more = statistics.median(ours) - statistics.median(plain)
    assert more < 2.0, f"{more:.2f} s"


def test_without_slurm_it_says_so(desk: Any, tmp_path: Path) -> None:
    shards = desk.lab.folder / "shards"
    done = subprocess.run(
        [*desk.script, f"data.shards={shards}", f"run.folder={tmp_path}", "localizer.global_batch=32"],
        env=os.environ | {"PATH": str(Path(sys.executable).parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "SLURM is not here" in done.stderr
    assert "python launchers/train.py --ranks N" in done.stderr
    assert not list(tmp_path.iterdir())
