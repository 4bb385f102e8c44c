"""Workers' lives: who ends them, and what does not."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from colocam_dist.data.frame_stream import FrameStream
from colocam_dist.data.index import ShotIndex
from colocam_dist.data.order import uniform
from colocam_dist.data.plan import Plan
from colocam_dist.data.stream import WindowSettings, WindowStream

ROOT = Path(__file__).parents[3]
SETTINGS = WindowSettings(2, "adjacent", 1.0, 26, 20, True)

PROGRAM = """
import multiprocessing, os, pickle, sys, time
from colocam_dist.data.order import uniform
from colocam_dist.data.plan import Plan
from colocam_dist.data.stream import WindowSettings, WindowStream

def begin():
    index = pickle.load(open(sys.argv[1], "rb"))
    stream = WindowStream(index, Plan(uniform(40, 0), 2), WindowSettings(2, "adjacent", 1.0, 26, 20, True), workers=2)
    batches = iter(stream)
    next(batches)
    print(*[child.pid for child in multiprocessing.active_children()], flush=True)
    return stream, batches

def inside():
    kept = begin()

if __name__ == "__main__":
    if sys.argv[2] == "child process":
        child = multiprocessing.get_context("spawn").Process(target=inside)
        child.start()
        child.join()
        sys.exit(child.exitcode)
    kept = begin()
    if sys.argv[2] == "killed":
        time.sleep(60)
    if sys.argv[2] == "error":
        raise KeyError("an error of the program")
"""


def alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_for_end(processes: list[int], seconds: float) -> list[int]:
    """Those still alive after at most this time."""
    end = time.monotonic() + seconds
    while (left := [process for process in processes if alive(process)]) and time.monotonic() < end:
        time.sleep(0.05)
    return left


def children() -> list[int]:
    return [child.pid for child in multiprocessing.active_children() if child.pid is not None]


@pytest.fixture
def index(make_index: Callable[..., ShotIndex]) -> ShotIndex:
    return make_index([3] * 40)


def test_close_ends_the_workers(index: ShotIndex) -> None:
    before = set(children())
    stream = WindowStream(index, Plan(uniform(40, 0), 2), SETTINGS, workers=2)
    list(stream)
    workers = set(children()) - before
    batches = iter(stream)
    next(batches)
    assert set(children()) - before == workers  # the same ones in the second epoch
    assert len(workers) == 2
    stream.close()
    assert not wait_for_end(list(workers), 5)


def test_a_forgotten_stream_ends_its_workers(index: ShotIndex) -> None:
    before = set(children())
    stream = WindowStream(index, Plan(uniform(40, 0), 2), SETTINGS, workers=2)
    batches = iter(stream)
    next(batches)
    workers = set(children()) - before
    del stream, batches
    gc.collect()
    assert len(workers) == 2
    assert not wait_for_end(list(workers), 5)


def test_evaluation_ends_its_workers_when_left(index: ShotIndex) -> None:
    before = set(children())
    batches = iter(FrameStream(index, np.arange(90), crop=9, batch=2, workers=2))
    next(batches)
    workers = set(children()) - before
    assert len(workers) == 2
    batches.close()  # type: ignore[attr-defined]
    assert not wait_for_end(list(workers), 5)


def test_stop_signals_do_not_reach_workers_and_their_helper(index: ShotIndex) -> None:
    before = set(children())
    stream = WindowStream(index, Plan(uniform(40, 0), 2), SETTINGS, workers=2)
    batches = iter(stream)
    next(batches)
    workers = set(children()) - before
    helper = {int(Path(f"/proc/{worker}/stat").read_text().rsplit(")", 1)[1].split()[1]) for worker in workers}
    for process in workers | helper:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            os.kill(process, number)
    assert len(list(batches)) == 19
    assert all(map(alive, workers | helper))
    stream.close()
    assert not wait_for_end(list(workers), 5)


def test_the_callers_signal_mask_is_left_alone(index: ShotIndex) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    WindowStream(index, Plan(uniform(40, 0), 2), SETTINGS, workers=1).close()
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["exit", "error", "child process", "killed"])
def test_no_worker_outlives_its_program(index: ShotIndex, tmp_path: Path, ending: str) -> None:
    (tmp_path / "index.pickle").write_bytes(pickle.dumps(index))
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-W", "error", str(tmp_path / "program.py"), str(tmp_path / "index.pickle"), ending]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as program:
        try:
            assert program.stdout is not None
            workers = [int(word) for word in program.stdout.readline().split()]
            assert len(workers) == 2
            if ending == "killed":
                program.kill()
                assert not wait_for_end(workers, 10)
                return
            errors = program.communicate(timeout=60)[1]
        finally:
            program.kill()
    assert not wait_for_end(workers, 5)
    assert program.returncode == (1 if ending == "error" else 0)
    assert ("an error of the program" in errors) == (ending == "error")
    assert "leaked" not in errors


def private_mib(process: int) -> float:
    """Memory that only this process has."""
    text = Path(f"/proc/{process}/smaps_rollup").read_text()
    return sum(int(text.split(f"{name}:")[1].split()[0]) for name in ("Private_Dirty", "Private_Clean")) / 1024


@pytest.mark.slow
def test_memory_stays_flat_over_epochs(make_index: Callable[..., ShotIndex]) -> None:
    index = make_index([6] * 40, size=(180, 240))
    settings = WindowSettings(4, "interval", 1.0, 128, 112, True)
    stream = WindowStream(index, Plan(uniform(40, 0), 4), settings, workers=2)
    sizes: list[float] = []
    for _ in range(30):
        for _batch in stream:
            pass
        gc.collect()
        sizes.append(sum(private_mib(child.pid) for child in multiprocessing.active_children() if child.pid))
        sizes[-1] += private_mib(os.getpid())
    stream.close()
    assert max(sizes[-5:]) < 1.03 * max(sizes[5:15])
