"""Real ranks in processes of their own, killed without warning, and continued by another number of ranks."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from colocam_dist.data.index import ShotIndex
from colocam_dist.data.order import uniform

ROOT = Path(__file__).parents[3]

PROGRAM = """
import hashlib, json, os, sys, time
from pathlib import Path
from colocam_dist.data.index import ShotIndex
from colocam_dist.data.order import uniform
from colocam_dist.data.plan import Place, Plan
from colocam_dist.data.stream import WindowSettings, WindowStream

def main():
    shards, out, rank, world, workers, last, epochs, pause = sys.argv[1:]
    index = ShotIndex.open(Path(shards), "train")
    place = Place(int(rank), int(world))
    settings = WindowSettings(3, "gaussian", 0.6, 26, 20, True)
    plan = Plan(uniform(len(index.shots), 9), 6, last)
    stream = WindowStream(index, plan, settings, place=place, workers=int(workers))
    states = sorted(Path(out).glob("state-*.json"))
    if states:
        stream.load_state_dict(json.loads(states[-1].read_text()))
    done = len(states)
    share = plan.share(place.world)
    while stream.epoch < int(epochs):
        for batch in stream:
            time.sleep(float(pause))
            tensors = [v.numpy() for v in vars(batch).values() if hasattr(v, "numpy")]
            for window in range(share):
                digest = hashlib.sha256(b"".join(t[window].tobytes() for t in tensors)).hexdigest()
                name = f"window-{done:04d}-{place.rank * share + window}"
                # A step counts once all its windows and the state behind it are there, like a checkpoint.
                Path(out, name + ".part").write_text(f"{int(batch.shot_ids_W[window])} {digest}")
                Path(out, name + ".part").rename(Path(out, name))
            while place.rank == 0 and len(list(Path(out).glob(f"window-{done:04d}-?"))) < 6:
                time.sleep(0.002)
            if place.rank == 0:
                Path(out, "part").write_text(json.dumps(stream.state_dict()))
                Path(out, "part").rename(Path(out, f"state-{done:04d}.json"))
            while not Path(out, f"state-{done:04d}.json").exists():
                time.sleep(0.002)
            done += 1
    stream.close()

if __name__ == "__main__":
    main()
"""


def start(folder: Path, shards: Path, out: Path, ranks: int, workers: int, last: str) -> list[subprocess.Popen[bytes]]:
    program = folder / "rank.py"
    program.write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    out.mkdir(exist_ok=True)
    return [
        subprocess.Popen(
            [sys.executable, program, shards, out, str(rank), str(ranks), str(workers), last, "3", "0.05"],
            env=environment,
        )
        for rank in range(ranks)
    ]


def finish(ranks: list[subprocess.Popen[bytes]]) -> None:
    assert [rank.wait(120) for rank in ranks] == [0] * len(ranks)


def windows(out: Path) -> list[tuple[int, str]]:
    """Shot and digest of every window of every step, in order."""
    facts = [path.read_text().split() for path in sorted(out.glob("window-????-?"))]
    return [(int(shot), digest) for shot, digest in facts]


@pytest.mark.slow
@pytest.mark.parametrize(("last", "seed"), [("pad", 0), ("drop", 1)])
def test_killed_ranks_are_continued_by_others(tiny_shards: Path, tmp_path: Path, last: str, seed: int) -> None:
    finish(start(tmp_path, tiny_shards, tmp_path / "undisturbed", 1, 0, last))
    expected = windows(tmp_path / "undisturbed")
    shots = len(ShotIndex.open(tiny_shards, "train").shots)
    steps = -(-shots // 6) if last == "pad" else shots // 6
    assert len(expected) == 3 * steps * 6
    for epoch in range(3):
        given = [shot for shot, _ in expected[epoch * steps * 6 : (epoch + 1) * steps * 6]]
        order = uniform(shots, 9).epoch(epoch).shots.tolist()
        assert given == (order + order)[: steps * 6]  # exactly once, but for what fills the last batch

    out, rng = tmp_path / "killed", random.Random(seed)
    for ranks, workers in ((2, 1), (3, 0), (1, 2)):
        before = len(list(out.glob("state-*.json"))) if out.is_dir() else 0
        running = start(tmp_path, tiny_shards, out, ranks, workers, last)
        deadline = time.monotonic() + 120
        while len(list(out.glob("state-*.json"))) < before + 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.1))
        for rank in running:
            rank.send_signal(signal.SIGKILL)
        for rank in running:
            rank.wait()
    finish(start(tmp_path, tiny_shards, out, 2, 0, last))
    assert windows(out) == expected
    state = json.loads(sorted(out.glob("state-*.json"))[-1].read_text())
    assert (state["epoch"], state["micro_step"]) == (2, steps)
