"""Jobs on a real SLURM: they train what one machine trains, and finish whatever is done to them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.reliability_lab import differences
from colocam_dist.slurm.status import counts_of

pytestmark = pytest.mark.slurm

# The lower the rate of stage 2, the less weighs a ReLU whose input rounding moves over 0: at 0.01 the terms of four and
# of two ranks agreed to 3e-7 for three steps on a CPU without AVX-512, to 2e-5 in the fourth, to 7e-4 in the twelfth.
BOTH = (
    *("classifier.epochs=1", "localizer.epochs=3", "localizer.optimizer.lr=0.0001"),
    *("checkpoint.every_steps=2", "data.workers=0", "engine.threads=1"),
)


TERMS = ("partial_cross_entropy", "size_barrier", "frame_crf", "colocalization")


def _is_step(row: dict[str, Any]) -> bool:
    return row["stage"] == "localizer" and row["kind"] == "train"


@pytest.fixture(scope="module")
def whole(desk: Any) -> Path:
    """A job of two nodes with one rank each that nobody disturbs."""
    desk.submit("whole", *BOTH)
    return desk.finish("whole")


def test_two_nodes_train_what_one_machine_trains(desk: Any, whole: Path) -> None:
    local = desk.lab.run("local", *BOTH)  # python launchers/train.py --ranks 2
    assert differences(local.folder, whole) == ""
    # The second stage alone, from the same weights: the first one's steps, from random weights, amplify rounding.
    given = ("run.stages=[cams,localizer]", f"classifier.from_run={whole}", "data.workers=0")
    desk.submit("four", *BOTH, *given, "slurm.gpus_per_node=2", ranks=4)
    four = desk.finish("four")
    assert desk.json("four", "done.json")["world"] == 4
    assert desk.lab.receipts(four)["localizer"] == desk.lab.receipts(whole)["localizer"]
    ours, theirs = ([row for row in desk.lab._rows(run) if _is_step(row)] for run in (four, whole))
    assert len(ours) == len(theirs) == 12
    for our, their in zip(ours, theirs, strict=True):
        assert all(our[term] == pytest.approx(their[term], rel=1e-6) for term in TERMS), (our, their)
        # The terms have both signs, and their sum may be small.
        assert our["loss"] == pytest.approx(their["loss"], abs=1e-6 * sum(abs(their[term]) for term in TERMS))


def test_a_job_finishes_although_its_nodes_are_taken_away(cluster: Any, desk: Any, whole: Path) -> None:
    """Preempted by a job of higher priority, requeued by scontrol, a rank killed, and a node that dies."""
    name = "disturbed"
    desk.submit(name, *BOTH, "slurm.partition=main", "slurm.cpus_per_task=4", "fault=kill@1:8:localizer.forward")
    desk.wait_for_step(name, 1, "classifier")
    urgent = ["sbatch", "--parsable", "--partition=urgent", "--nodes=2", "--ntasks-per-node=4", "--output=/dev/null"]
    subprocess.run([*urgent, "--wrap=sleep 1"], check=True, capture_output=True)
    desk.wait(name, lambda: len(desk.ends(name)) == 1)
    desk.wait_for_step(name, 2)
    subprocess.run(["scontrol", "requeue", desk.job(name)], check=True)
    desk.wait_for_step(name, 7)  # the fault strikes in the next step
    desk.wait(name, lambda: len(desk.ends(name)) == 2)
    desk.wait_for_step(name, 9)
    cluster.kill_node("vn2")
    desk.wait(name, lambda: desk.states(name)[0].state != "RUNNING")
    cluster.start_node("vn2")
    run = desk.finish(name)
    assert differences(whole, run) == ""
    reasons = [row["reason"] for row in desk.ends(name)]
    assert reasons[0] == "preempted"
    assert reasons[1].startswith("failure: exit code 137")
    assert reasons[-1] == "done"
    assert counts_of(run)["lost"] == 2  # by scontrol and with the node
    assert "lost (node failure, or requeued by SLURM)" in desk.story(name)


def test_the_time_limit_is_survived(desk: Any) -> None:
    """A real one: SLURM warns a job of one minute at some time of that minute."""
    settings = ("run.stages=[classifier]", "classifier.epochs=10", "data.workers=0", "engine.threads=1")
    slow = ",".join(f"slow@0:{step}:{phase}" for step in range(1, 41) for phase in ("data", "forward", "backward"))
    desk.submit("limited", *settings, f"fault={slow}", "slurm.time=1", "slurm.warning=20")
    undisturbed = desk.lab.run("unlimited", *settings)
    run = desk.finish("limited")
    *before, last = [row["reason"] for row in desk.ends("limited")]
    assert before
    assert set(before) == {"time limit"}
    assert last == "done"
    assert differences(undisturbed.folder, run) == ""
    steps = [row["step"] for row in desk.lab._rows(run) if row["kind"] == "train"]
    assert steps == list(range(1, 41))  # nothing is done twice, nothing is left out


def test_a_cancelled_run_leaves_no_process_and_can_go_on(cluster: Any, desk: Any, whole: Path) -> None:
    name = "cancelled"
    desk.submit(name, *BOTH)
    desk.wait_for_step(name, 3)
    refused = desk.submit(name, *BOTH, "run.on_exists=resume", check=False)
    assert refused.returncode == 2
    assert "has a job that is not over" in refused.stderr
    assert f"cancelled: {desk.job(name)}" in desk.call("cancel", desk.run(name)).stdout
    began = time.monotonic()
    desk.wait(name)
    desk.wait(name, lambda: not [pid for node in cluster.names for pid in _training(cluster, node)], seconds=10)
    assert time.monotonic() - began < 10
    assert desk.states(name)[0].state == "CANCELLED"
    assert not (desk.run(name) / "done.json").exists()
    desk.call("resume", desk.run(name))
    assert differences(whole, desk.finish(name)) == ""
    done = desk.call("resume", desk.run(name), check=False)
    assert done.returncode == 2
    assert "nothing is left to do" in done.stderr


def _training(cluster: Any, node: str) -> list[int]:
    found = []
    for pid in cluster.processes_on(node):
        words = Path(f"/proc/{pid}/cmdline")
        if words.exists() and b"python" in words.read_bytes():
            found.append(pid)
    return found


def test_a_chain_runs_one_stage_a_job_and_its_code_is_that_of_the_submission(desk: Any, whole: Path) -> None:
    name = "chain"
    desk.submit(name, *BOTH, "run.stages=[classifier,cams,localizer]", "--chain", "slurm.sbatch={hold: true}")
    code = desk.run(name) / "slurm/code/colocam_dist/__init__.py"
    code.write_text(code.read_text() + f"open({str(desk.run(name) / 'from-snapshot')!r}, 'w').close()\n")
    states = desk.states(name)
    assert [state.state for state in states] == ["PENDING"] * 3
    assert "it is held" in desk.story(name)
    subprocess.run(["scontrol", "release", *(state.job for state in states)], check=True)
    run = desk.finish(name)
    assert differences(whole, run) == ""
    assert (run / "from-snapshot").exists()
    assert [row["part"] for row in desk.ends(name)] == ["classifier", "cams", "localizer"]
    assert {path.name for path in run.glob("done*.json")} == {"done-classifier.json", "done-cams.json", "done.json"}
    assert desk.json(name, "done.json")["stages"] == ["localizer"]
    local = desk.lab.folder / "runs/local/config.yaml"
    if local.exists():  # the settings of the run, not those of its last part
        assert (run / "config.yaml").read_text().count("- cams") == 1


def test_ranks_run_in_the_container_and_the_environment_of_the_settings(
    desk: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The container program is a stand-in that notes how it is called, and runs what it is given."""
    program = tmp_path / "apptainer"
    program.write_text(f'#!/bin/bash\necho "$@" >> {tmp_path}/calls\nshift 4\nexec "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}")
    settings = [
        *("run.stages=[classifier]", "data.workers=0", "classifier.epochs=0", "slurm.container=image.sif"),
        *("slurm.container_options=[--bind,/data]", f"slurm.setup=['echo set up > {tmp_path}/set-up']"),
        "slurm.environment={NAME: two words}",
        f"slurm.srun=['--task-prolog={tmp_path}/prolog']",
    ]
    (tmp_path / "prolog").write_text(f'#!/bin/bash\necho "$NAME $SLURM_PROCID $OMP_NUM_THREADS" >> {tmp_path}/tasks\n')
    (tmp_path / "prolog").chmod(0o755)
    desk.submit("contained", *settings)
    desk.finish("contained")
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len(calls) == 3  # two ranks, and what decides afterwards
    assert all(call.startswith("exec --bind /data image.sif python -") for call in calls)
    assert (tmp_path / "set-up").read_text() == "set up\n"
    assert sorted((tmp_path / "tasks").read_text().splitlines()) == ["two words 0 2", "two words 1 2"]


def test_an_array_trains_a_run_for_each_value_and_a_failed_part_ends_its_chain(desk: Any) -> None:
    settings = ("run.stages=[classifier,cams]", "data.workers=0", "classifier.epochs=3", "--chain")
    size = ("slurm.nodes=1", "slurm.cpus_per_task=2", "slurm.max_restarts=0")
    slow = ",".join(f"slow@0:{step}:data" for step in range(2, 12))
    desk.submit("sweep", *settings, *size, "--array", "run.seed=0,1", f"fault=exception@0:2:forward,{slow}")
    desk.wait("sweep")
    names = ["sweep.seed-0", "sweep.seed-1"]
    assert [desk.ends(name)[-1]["reason"] for name in names] == ["failure: exit code 1"] * 2
    assert all("injected" in desk.json(name, "failed.json")["error"] for name in names)
    assert [state.state for state in desk.states("sweep")] == ["FAILED"] * 2 + ["CANCELLED"] * 2
    desk.call("resume", desk.run("sweep"))  # each fault strikes once
    task = desk.states("sweep")[1].job
    assert task.endswith("_1")  # the last one, whose number is that of the array too
    desk.wait("sweep", lambda: len(desk.lab.losses(desk.run(names[1]))) >= 3)
    subprocess.run(["scancel", "--signal=USR2", task], check=True)
    desk.wait("sweep")
    reasons = [[row["reason"] for row in desk.ends(name)][1:] for name in names]
    assert reasons == [["done"] * 2, ["asked to stop", "done", "done"]], desk.story("sweep")
    assert all((desk.run(name) / "done.json").exists() for name in names), desk.story("sweep")
    assert desk.lab.losses(desk.run(names[0])) != desk.lab.losses(desk.run(names[1]))
    story = desk.story("sweep")
    assert story.count("COMPLETED") == 4
