from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from colocam_dist.data.order import Blocks, EpochOrder, Pool, uniform
from colocam_dist.errors import ConfigError


def ids(count: int, start: int = 0) -> np.ndarray:
    return np.arange(start, start + count, dtype=np.int32)


def test_every_shot_once_in_an_order_keyed_by_seed_and_epoch() -> None:
    orders = [tuple(uniform(50, seed).epoch(epoch).shots.tolist()) for seed in range(3) for epoch in range(3)]
    assert len(set(orders)) == 9
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert set(uniform(50, 0).epoch(4).passes.tolist()) == {4}


def test_first_shot_is_uniform() -> None:
    first = Counter(int(uniform(7, 0).epoch(epoch).shots[0]) for epoch in range(1400))
    chi2 = sum((first[shot] - 200) ** 2 / 200 for shot in range(7))
    assert chi2 < 22.5  # 99.9 % of 6 degrees of freedom


def test_an_order_cannot_be_changed_by_a_caller() -> None:
    for column in uniform(5, 0).epoch(0):
        with pytest.raises(ValueError, match="read-only"):
            column[0] = 1


@pytest.mark.parametrize(("shots", "windows"), [(7, 7), (7, 3), (7, 18), (1, 5), (5, 1)])
def test_no_shot_comes_again_before_all_others_of_its_pool(shots: int, windows: int) -> None:
    pool = Pool(ids(shots, 100), windows)
    taken = [pool.take(1, 0, epoch) for epoch in range(6)]
    assert {len(part.shots) for part in taken} == {windows}
    whole = np.concatenate([part.shots for part in taken])
    passes = np.concatenate([part.passes for part in taken])
    assert passes.tolist() == [place // shots for place in range(6 * windows)]
    for start in range(0, len(whole) - shots + 1, shots):
        assert sorted(whole[start : start + shots]) == list(range(100, 100 + shots))
    assert len({*zip(whole.tolist(), passes.tolist(), strict=True)}) == len(whole)


def test_pools_give_their_number_of_windows_and_are_mixed() -> None:
    order = EpochOrder((Pool(ids(30), 30), Pool(ids(4, 30), 10), Pool(ids(300, 34), 20)), seed=3)
    assert order.n_windows == 60
    for epoch in range(3):
        shots = order.epoch(epoch).shots
        group = np.digitize(shots, [30, 34])
        assert np.bincount(group).tolist() == [30, 10, 20]
        assert np.abs(np.diff(np.flatnonzero(group == 0))).max() < 15  # not one pool after the other
    assert len({*zip(*(column.tolist() for column in order.epoch(0)), strict=True)}) == 60


def test_equal_pools_have_different_orders() -> None:
    order = EpochOrder((Pool(ids(20), 20), Pool(ids(20, 20), 20)), seed=0)
    shots = order.epoch(0).shots
    assert shots[shots < 20].tolist() != (shots[shots >= 20] - 20).tolist()


SHARD_OF = np.repeat(np.arange(23, dtype=np.int32), [1 + (5 * shard) % 9 for shard in range(23)])


@pytest.mark.parametrize("lanes", [1, 2, 5])
@pytest.mark.parametrize("block", [1, 3, 50])
def test_blocks_hold_all_windows_and_few_shards(lanes: int, block: int) -> None:
    share = 2
    order = EpochOrder((Pool(ids(len(SHARD_OF)), len(SHARD_OF)),), 7, Blocks(SHARD_OF, block, lanes, share))
    n = len(SHARD_OF)
    for epoch in range(3):
        shots = order.epoch(epoch).shots
        assert sorted(shots) == list(range(n))
        # Every lane goes through its shards block by block: at no time are more in use than those of its blocks.
        whole = n // lanes // share * share * lanes
        for lane in range(lanes):
            mine = shots[:whole].reshape(-1, lanes, share)[:, lane].ravel()
            shards = SHARD_OF[mine]
            spans = {shard: np.flatnonzero(shards == shard) for shard in set(shards.tolist())}
            live = sum(
                np.bincount(np.arange(where[0], where[-1] + 1), minlength=len(shards)) for where in spans.values()
            )
            assert live.max() <= block
            if block == 3:
                assert live.max() > 1  # and within a block they are mixed
    assert order.epoch(0).shots.tolist() != order.epoch(1).shots.tolist()


def test_lanes_divide_the_data_evenly_and_read_different_shards() -> None:
    shard_of = np.repeat(np.arange(40, dtype=np.int32), 25)
    order = EpochOrder((Pool(ids(1000), 1000),), 0, Blocks(shard_of, 2, 4, 5)).epoch(0)
    steps = shard_of[order.shots].reshape(-1, 4, 5)
    sets = [set(steps[:, lane].ravel().tolist()) for lane in range(4)]
    assert [len(shards) for shards in sets] == [10] * 4
    assert not set.intersection(*sets)


def test_more_lanes_than_windows() -> None:
    order = EpochOrder((Pool(ids(3), 3),), 0, Blocks(np.zeros(3, np.int32), 1, 8, 1))
    assert sorted(order.epoch(0).shots) == [0, 1, 2]


def test_repeated_shots_keep_their_passes_in_blocks() -> None:
    order = EpochOrder((Pool(ids(10), 25),), 0, Blocks(np.arange(10, dtype=np.int32) // 2, 2))
    windows = order.epoch(1)
    assert len({*zip(windows.shots.tolist(), windows.passes.tolist(), strict=True)}) == 25
    assert np.bincount(windows.passes).tolist() == [0, 0, 5, 10, 10]


def test_fingerprints_tell_orders_apart() -> None:
    shard_of = np.zeros(10, np.int32)
    orders = [
        uniform(10, 0),
        uniform(11, 0),
        EpochOrder((Pool(ids(10), 9),), 0),
        EpochOrder((Pool(ids(10, 1), 10),), 0),
        EpochOrder((Pool(ids(5), 5), Pool(ids(5, 5), 5)), 0),
        EpochOrder((Pool(ids(10), 10),), 0, Blocks(shard_of, 1)),
        EpochOrder((Pool(ids(10), 10),), 0, Blocks(shard_of, 2)),
        EpochOrder((Pool(ids(10), 10),), 0, Blocks(shard_of, 2, 2)),
    ]
    assert len({order.fingerprint for order in orders}) == len(orders)
    assert uniform(10, 5).fingerprint == orders[0].fingerprint


def test_it_is_sent_without_what_it_has_made() -> None:
    order = uniform(10_000, 0)
    before = len(pickle.dumps(order))
    expected = order.epoch(3).shots.tolist()
    assert len(pickle.dumps(order)) == before
    assert pickle.loads(pickle.dumps(order)).epoch(3).shots.tolist() == expected


@pytest.mark.parametrize(
    "make",
    [
        lambda: Pool(ids(0), 1),
        lambda: Pool(ids(1), 0),
        lambda: Blocks(ids(1), 0),
        lambda: Blocks(ids(1), 1, 0),
        lambda: Blocks(ids(1), 1, 1, 0),
    ],
)
def test_nothing_to_give(make: object) -> None:
    with pytest.raises(ConfigError):
        make()  # type: ignore[operator]


TEN_MILLION = """
import sys, time
from pathlib import Path
import numpy as np
from colocam_dist.data.order import Blocks, EpochOrder, Pool

def peak():
    # Not ru_maxrss: that begins with what the process that started this one had.
    rows = Path("/proc/self/status").read_text().splitlines()
    return int(next(row for row in rows if row.startswith("VmHWM")).split()[1]) / 1024

n = 10_000_000
shots = np.arange(n, dtype=np.int32)
shard_of = shots // 1000
yardstick = []
for seed in range(3):
    began = time.process_time()
    np.random.default_rng(seed).permutation(n)
    yardstick.append(time.process_time() - began)
before, times = peak(), []
for seed in range(3):
    began = time.process_time()
    order = EpochOrder((Pool(shots, n),), seed, Blocks(shard_of, 16, 64, 4) if sys.argv[1] == "blocks" else None)
    first = order.epoch(0).shots[:1000]
    times.append(time.process_time() - began)
    assert first.tolist() != sorted(first.tolist())
print(min(times) / min(yardstick), peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads peak memory from /proc")
@pytest.mark.parametrize("kind", ["mixed", "blocks"])
def test_ten_million_shots_are_planned_in_the_time_of_a_few_permutations_and_half_a_gigabyte(kind: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(
        [sys.executable, "-c", TEN_MILLION, kind], capture_output=True, text=True, env=environment, check=True
    )
    permutations, mebibytes = map(float, done.stdout.split())
    assert permutations < 8  # of as many numbers; seconds of CPU, of which machines differ twofold
    assert mebibytes < 500
