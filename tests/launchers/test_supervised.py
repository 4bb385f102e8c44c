"""The supervisor with the real trainer: two ranks, gloo on the CPU."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from colocam_dist.config import load
from colocam_dist.runs.folder import RunFolder

ROOT = Path(__file__).parents[2]
SMALL = [
    *("data.resize=48", "data.crop=40", "data.n_frames=2", "data.workers=1", "run.stages=[classifier]"),
    *("model.encoder=resnet18", "model.weights=none", "model.output_stride=16", "engine.device=cpu"),
    *("classifier.epochs=3", "classifier.global_batch=4", "classifier.optimizer.lr=0.01", "checkpoint.every_steps=1"),
    *("evaluation.validation_thresholds=50", "log.every_steps=1", "log.tensorboard=false"),
]


def start(shards: Path, run: Path, *more: str, restarts: int = 0) -> subprocess.Popen[str]:
    words = ["--ranks", "2", "--max-restarts", str(restarts), f"data.shards={shards}", f"run.folder={run.parent}"]
    return subprocess.Popen(
        [sys.executable, "launchers/train.py", *words, f"run.name={run.name}", *SMALL, *more],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLOCAM_FAULTS": "allowed"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def losses(run: Path) -> dict[int, float]:
    """Training losses by step; of a repeated step the last one counts."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in lines if row["kind"] == "train"}


def processes_of(run: Path) -> list[Path]:
    """Folders in /proc of what trains this run."""
    found = []
    wanted = {f"run.name={run.name}".encode(), f"run.folder={run.parent}".encode()}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if wanted <= set((process / "cmdline").read_bytes().split(b"\0")):
                found.append(process)
        except OSError:
            continue
    return found


def wait_for_step(step: int, run: Path, process: subprocess.Popen[str]) -> None:
    """Wait until the run has reported a step."""
    deadline = time.monotonic() + 100
    while not (run / "metrics.jsonl").is_file() or step not in losses(run):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


@pytest.fixture(scope="module")
def whole(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Shards, and an undisturbed run on them."""
    folder = tmp_path_factory.mktemp("whole")
    shutil.copytree(tiny_shards, folder / "shards")
    process = start(folder / "shards", folder / "whole")
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert not (folder / "whole" / "restarts.jsonl").exists()
    return folder / "shards", folder / "whole"


@pytest.mark.parametrize(
    "meeting", [pytest.param("static", marks=pytest.mark.slow), pytest.param("c10d", marks=pytest.mark.long)]
)
def test_torchrun_may_start_the_ranks_again_as_well(meeting: str, whole: tuple[Path, Path]) -> None:
    shards, undisturbed = whole
    run = undisturbed.with_name(f"torchrun-{meeting}")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "2"]
    port = str(29500 + os.getpid() % 1000)
    place = ["--master-port", port] if meeting == "static" else ["--standalone"]
    settings = [*SMALL, f"run.folder={run.parent}", f"run.name={run.name}", "run.on_exists=resume"]
    # Rank 0's end is noticed by torchrun, which asks rank 1 to stop; what this one then tells all must not last.
    process = subprocess.run(
        [*launcher, *place, "launchers/train.py", f"data.shards={shards}", *settings, "fault=exception@0:4:forward"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLOCAM_FAULTS": "allowed"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=250,
    )
    assert process.returncode == 0, process.stdout
    assert (run / "done.json").is_file()
    assert losses(run) == losses(undisturbed)
    assert not processes_of(run)


@pytest.mark.slow
def test_a_run_whose_rank_is_killed_ends_as_if_nothing_had_happened(whole: tuple[Path, Path]) -> None:
    shards, undisturbed = whole
    run = undisturbed.with_name("cut")
    process = start(shards, run, restarts=2)
    wait_for_step(7, run, process)
    (victim,) = [one for one in processes_of(run) if b"\0RANK=1\0" in (one / "environ").read_bytes()]
    os.kill(int(victim.name), signal.SIGKILL)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert not processes_of(run)
    assert (run / "done.json").is_file()
    assert not (run / "failed.json").exists()
    (row,) = map(json.loads, (run / "restarts.jsonl").read_text().splitlines())
    assert (row["rank"], row["code"]) == (1, -signal.SIGKILL)
    assert row["seconds_down"] < 3
    assert "rank 1 was killed by SIGKILL; restart 1 of 2" in output
    assert losses(run) == losses(undisturbed)


@pytest.mark.slow
def test_a_supervisor_that_is_stopped_or_killed_leaves_a_whole_run_and_no_process(whole: tuple[Path, Path]) -> None:
    shards, undisturbed = whole
    run = undisturbed.with_name("stopped")
    for number, step, reason, code in (
        (signal.SIGINT, 3, "SIGTERM", 85),  # what ^C becomes for the ranks
        (signal.SIGKILL, 7, "end of supervisor", -signal.SIGKILL),
    ):
        process = start(shards, run, "run.on_exists=resume", restarts=2)
        wait_for_step(step, run, process)
        process.send_signal(number)
        began = time.monotonic()
        process.wait(timeout=30)
        while processes_of(run):
            assert time.monotonic() - began < 15, "processes stay"
            time.sleep(0.05)
        output, _ = process.communicate()
        assert process.returncode == code, output
        assert reason in json.loads((run / "preempted.json").read_text())["reason"], output
        assert not (run / "restarts.jsonl").exists()
    process = start(shards, run, "run.on_exists=resume")
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert losses(run) == losses(undisturbed)


@pytest.mark.slow
def test_a_run_with_too_little_memory_goes_on_in_smaller_micro_batches(whole: tuple[Path, Path]) -> None:
    shards, undisturbed = whole
    run = undisturbed.with_name("halved")
    process = start(shards, run, "fault=out_of_memory@0:4:forward", "engine.on_out_of_memory=halve")
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert "the micro-batches are halved: engine.accumulation=2" in output
    assert load(RunFolder.open(run).config_path).engine.accumulation == 2
    halved, expected = losses(run), losses(undisturbed)
    assert halved.keys() == expected.keys()
    assert all(halved[step] == expected[step] for step in (1, 2, 3)), "steps before it are not repeated"
