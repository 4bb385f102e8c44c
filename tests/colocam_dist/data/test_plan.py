from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from colocam_dist.data.order import Blocks, EpochOrder, uniform
from colocam_dist.data.plan import LastBatch, Place, Plan
from colocam_dist.errors import ConfigError


@pytest.mark.parametrize("n_windows", [1, 5, 6, 7, 23, 24])
@pytest.mark.parametrize("global_batch", [1, 3, 6, 12])
def test_pad_reads_everything_and_repeats_less_than_a_batch(n_windows: int, global_batch: int) -> None:
    plan = Plan(uniform(n_windows, 4), global_batch)
    steps = [plan.rank_windows(2, step, 0, 1).shots for step in range(plan.steps_per_epoch)]
    assert {len(step) for step in steps} == {global_batch}
    read = np.concatenate(steps)
    assert (read[:n_windows] == plan.order.epoch(2).shots).all()
    assert (read[n_windows:] == np.resize(plan.order.epoch(2).shots, len(read) - n_windows)).all()
    assert len(read) - n_windows < global_batch
    assert sorted(plan.order.epoch(2).shots) == list(range(n_windows))


@pytest.mark.parametrize("n_windows", [6, 7, 23, 24])
def test_drop_reads_nothing_twice(n_windows: int) -> None:
    plan = Plan(uniform(n_windows, 4), 6, "drop")
    read = np.concatenate([plan.rank_windows(0, step, 0, 1).shots for step in range(plan.steps_per_epoch)])
    assert len(read) == n_windows // 6 * 6
    assert max(Counter(read.tolist()).values()) == 1


@pytest.mark.parametrize(("world", "accumulation"), [(1, 1), (2, 1), (4, 3), (12, 1), (3, 4)])
@pytest.mark.parametrize("last", ["pad", "drop"])
def test_parts_of_ranks_and_micro_batches_make_the_global_batch(world: int, accumulation: int, last: LastBatch) -> None:
    plan = Plan(uniform(31, 1), 12, last)
    for step in range(plan.steps_per_epoch):
        whole = plan.rank_windows(5, step, 0, 1).shots
        assert (np.concatenate([plan.rank_windows(5, step, rank, world).shots for rank in range(world)]) == whole).all()
        parts = [
            plan.windows_at(5, plan.micro_positions(step * accumulation + part, rank, world, accumulation)).shots
            for part in range(accumulation)
            for rank in range(world)
        ]
        assert {len(part) for part in parts} == {plan.share(world, accumulation)}
        assert (np.concatenate(parts) == whole).all()


@pytest.mark.parametrize(("lanes", "accumulation"), [(1, 3), (4, 3), (2, 6), (6, 2), (12, 2), (4, 2)])
def test_micro_batches_of_all_ranks_do_not_depend_on_their_number(lanes: int, accumulation: int) -> None:
    shards = np.arange(240, dtype=np.int32) // 8
    blocks = Blocks(shards, 2, lanes, 24 // lanes)
    plan = Plan(EpochOrder(uniform(240, 1).pools, 1, blocks), 24)
    for micro in range(2 * accumulation):
        alone = plan.micro_positions(micro, 0, 1, accumulation)
        assert len(alone) == 24 // accumulation
        for world in (2, 4):
            if 24 % (world * accumulation):
                continue
            parts = [plan.micro_positions(micro, rank, world, accumulation) for rank in range(world)]
            assert (np.concatenate(parts) == alone).all()
            if lanes % world == 0 and 24 // lanes % accumulation == 0:
                of_rank = [set((part % 24 // (24 // lanes) * world // lanes).tolist()) for part in parts]
                assert of_rank == [{rank} for rank in range(world)], "each rank stays in its own lanes"


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"global_batch": 0}, "global batch is empty"),
        ({"global_batch": 1, "last": "keep"}, "unknown rule"),
        ({"global_batch": 4, "last": "drop"}, "larger than the data"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Plan(uniform(3, 0), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(("world", "accumulation"), [(5, 1), (4, 2), (0, 1), (1, 0), (24, 1)])
def test_indivisible_global_batch_is_refused_with_the_multiple(world: int, accumulation: int) -> None:
    wanted = max(world, 1) * max(accumulation, 1)
    with pytest.raises(
        ConfigError, match=f"global batch 12, {world} ranks, {accumulation} acc.*\n.*multiple of {wanted}"
    ):
        Plan(uniform(31, 0), 12).share(world, accumulation)


@pytest.mark.parametrize(("micro", "rank"), [(-1, 0), (6, 0), (0, 2), (0, -1)])
def test_positions_outside_of_the_plan_do_not_exist(micro: int, rank: int) -> None:
    with pytest.raises(IndexError):
        Plan(uniform(31, 0), 12).micro_positions(micro, rank, 2, 2)


def test_there_is_no_rank_outside_of_the_world() -> None:
    with pytest.raises(ConfigError, match=r"no such rank(.|\n)*wanted: 0 to 1"):
        Place(2, 2)
    with pytest.raises(ConfigError, match=r"no such part(.|\n)*wanted: 0 to 1"):
        Place(0, 1, part=2, parts=2)
