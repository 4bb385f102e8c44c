from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from colocam_dist.data.index import ShotIndex
from colocam_dist.data.mixture import OrderSettings, epoch_order
from colocam_dist.data.plan import Plan
from colocam_dist.data.windows import window_lengths
from colocam_dist.errors import ConfigError
from shards.simulate import Cluster, Dataset, Forecast, forecast, lru_traffic


@pytest.mark.parametrize(
    ("ranks", "per_node", "block", "lanes"),
    [(1, 8, None, 1), (4, 2, None, 1), (6, 4, 2, 1), (4, 2, 1, 2), (4, 1, 2, 4)],
)
def test_it_counts_what_ranks_would_really_read(
    tiny_shards: Path, ranks: int, per_node: int, block: int | None, lanes: int
) -> None:
    """Against a walk over the plan, window by window."""
    index = ShotIndex.open(tiny_shards, "train")
    batch = 12
    found = forecast(
        Dataset.of(index),
        Cluster(ranks, per_node),
        global_batch=batch,
        n_frames=3,
        central_fraction=0.6,
        block_shards=block,
        lanes=lanes,
        seed=5,
    )
    order = epoch_order(index, OrderSettings(block_shards=block, lanes=lanes), seed=5, global_batch=batch)
    plan = Plan(order, batch)
    nodes = -(-ranks // per_node)
    read = np.zeros(ranks)
    used: list[dict[int, list[int]]] = [{} for _ in range(nodes)]
    for step in range(plan.steps_per_epoch):
        for rank in range(ranks):
            for shot in plan.rank_windows(0, step, rank, ranks).shots.tolist():
                facts = index.shots[shot]
                frames = index.frame_size[facts.first_frame : facts.first_frame + facts.n_frames]
                read[rank] += window_lengths(np.array([facts.n_frames]), 3, 0.6)[0] * frames.mean()
                used[rank // per_node].setdefault(facts.shard, []).append(step)
    sizes = {number: shard.bytes for number, shard in enumerate(index.shards)}
    live = [
        [shard for shard, steps in of_node.items() if min(steps) <= step <= max(steps)]
        for of_node in used
        for step in range(plan.steps_per_epoch)
    ]
    assert (found.steps, found.share, found.frames_per_step) == (
        plan.steps_per_epoch,
        batch // ranks,
        3 * batch // ranks,
    )
    np.testing.assert_allclose(found.rank_bytes, read)
    assert found.node_shards.tolist() == [len(of_node) for of_node in used]
    assert found.node_fetch_bytes.tolist() == [sum(sizes[shard] for shard in of_node) for of_node in used]
    assert found.live_shards == max(map(len, live))
    assert found.live_bytes == max(sum(sizes[shard] for shard in shards) for shards in live)


def test_lanes_let_every_node_fetch_its_own_part() -> None:
    shards, of_each = 64, 32
    shots = shards * of_each
    data = Dataset(
        np.full(shots, 8, np.int32),
        np.repeat(np.arange(shards, dtype=np.int32), of_each),
        np.full(shots, 100.0),
        np.full(shards, 1000, np.int64),
    )
    cluster = Cluster(32, 4)
    mixed = forecast(data, cluster, global_batch=64, n_frames=4)
    lanes = forecast(data, cluster, global_batch=64, n_frames=4, block_shards=2, lanes=8)
    assert mixed.node_shards.min() > 60  # everybody needs nearly everything
    assert lanes.node_shards.tolist() == [8] * 8
    assert lanes.node_fetch_bytes.sum() == 64_000
    assert mixed.live_shards > 40
    assert lanes.live_shards == 2
    with pytest.raises(ConfigError, match=r"64 windows a step, 7 lanes"):
        forecast(data, cluster, global_batch=64, n_frames=4, block_shards=2, lanes=7)


def test_copies_make_the_data_larger(tiny_shards: Path) -> None:
    index = ShotIndex.open(tiny_shards, "train")
    one, three = Dataset.of(index), Dataset.of(index, 3)
    assert (three.n_shots, three.n_shards, three.bytes) == (3 * 21, 3 * len(index.shards), 3 * one.bytes)
    assert three.frames == 3 * index.n_frames
    shards = three.shards_of_all()
    assert shards.tolist() == [shard + copy * len(index.shards) for copy in range(3) for shard in index.shots.shard]
    some = np.array([62, 0, 25, 21], np.int32)
    assert three.shards_of(some).tolist() == shards[some].tolist()
    assert three.sizes_of(np.arange(three.n_shards)).tolist() == [shard.bytes for shard in index.shards] * 3


@pytest.mark.parametrize(("block", "lanes"), [(None, 1), (2, 3)])
def test_copies_and_steps_at_once_do_not_matter(
    tiny_shards: Path, block: int | None, lanes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A data set of copies against the same one spelled out, and steps one by one."""
    data = Dataset.of(ShotIndex.open(tiny_shards, "train"), 3)
    plain = Dataset(
        np.tile(data.n_frames, 3), data.shards_of_all(), np.tile(data.frame_bytes, 3), np.tile(data.shard_bytes, 3)
    )

    def play(what: Dataset) -> Forecast:
        return forecast(what, Cluster(6, 4), global_batch=12, n_frames=3, block_shards=block, lanes=lanes)

    found = [play(data), play(plain)]
    monkeypatch.setattr("shards.simulate._AT_ONCE", 1)
    found.append(play(data))
    for field in dataclasses.fields(Forecast):
        first, *others = (getattr(one, field.name) for one in found)
        for other in others:
            if field.name == "shards_by_step":
                assert list(map(list, other)) == list(map(list, first))
            else:
                np.testing.assert_allclose(other, first, rtol=1e-12)


TEN_MILLION = """
import sys, time
from pathlib import Path
import numpy as np
from shards.simulate import Cluster, Dataset, forecast

yardstick = []
for seed in range(3):
    began = time.process_time()
    np.random.default_rng(seed).permutation(10_000_000)
    yardstick.append(time.process_time() - began)
began = time.process_time()
shots = np.arange(100, dtype=np.int32)
data = Dataset(shots % 50 + 1, shots // 50, np.full(100, 1e4), np.full(2, 10**7), times=100_000)
blocks = {"block_shards": 16, "lanes": 64} if sys.argv[1] == "blocks" else {}
found = forecast(data, Cluster(1024), global_batch=4096, n_frames=4, **blocks)
assert found.node_shards.sum() >= data.n_shards == 200_000
# Not ru_maxrss: that begins with what the process that started this one had.
peak = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmHWM"))
print((time.process_time() - began) / min(yardstick), int(peak.split()[1]) / 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads peak memory from /proc")
@pytest.mark.parametrize("kind", ["mixed", "blocks"])
def test_an_epoch_of_ten_million_shots_is_forecast_in_half_a_gigabyte(kind: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", TEN_MILLION, kind], capture_output=True, text=True, env=environment, check=True
    )
    permutations, mebibytes = map(float, done.stdout.split())
    assert permutations < 20  # of as many numbers: those of the order (tests/colocam_dist/data/test_order.py) and more
    assert mebibytes < 500


def test_traffic_through_a_cache() -> None:
    steps = [np.array(shards) for shards in ([0, 1], [2], [0], [1], [0])]
    sizes = np.array([10, 20, 30])
    assert lru_traffic(steps, sizes, 1000) == 60
    assert lru_traffic([np.array([0, 3, 4, 8])], sizes, 1000) == 10 + 10 + 20 + 30  # of three copies
    # 0 and 1 come, 2 puts out 0 and with 30 of 50 in use leaves 1; 0 returns and puts out 1; 1 returns and puts out 2.
    assert lru_traffic(steps, sizes, 50) == 10 + 20 + 30 + 10 + 20
    assert lru_traffic(steps, sizes, 30) == 10 + 20 + 30 + 10 + 20 + 0
