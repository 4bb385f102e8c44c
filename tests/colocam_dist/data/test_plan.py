from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from colocam_dist.data.plan import LastBatch, Plan
from colocam_dist.errors import ConfigError


@pytest.mark.parametrize("n_items", [1, 5, 6, 7, 23, 24])
@pytest.mark.parametrize("global_batch", [1, 3, 6, 12])
def test_pad_reads_everything_and_repeats_less_than_a_batch(n_items: int, global_batch: int) -> None:
    plan = Plan(n_items, global_batch, seed=4)
    steps = [plan.global_batch_items(2, step) for step in range(plan.steps_per_epoch)]
    assert {len(step) for step in steps} == {global_batch}
    read = np.concatenate(steps)
    assert (read[:n_items] == plan.order(2)).all()
    assert (read[n_items:] == np.resize(plan.order(2), len(read) - n_items)).all()
    assert len(read) - n_items < global_batch
    assert sorted(plan.order(2)) == list(range(n_items))


@pytest.mark.parametrize("n_items", [6, 7, 23, 24])
def test_drop_reads_nothing_twice(n_items: int) -> None:
    plan = Plan(n_items, 6, seed=4, last="drop")
    read = np.concatenate([plan.global_batch_items(0, step) for step in range(plan.steps_per_epoch)])
    assert len(read) == n_items // 6 * 6
    assert max(Counter(read.tolist()).values()) == 1


@pytest.mark.parametrize(("world", "accumulation"), [(1, 1), (2, 1), (4, 3), (12, 1), (3, 4)])
@pytest.mark.parametrize("last", ["pad", "drop"])
def test_parts_of_ranks_and_micro_batches_make_the_global_batch(world: int, accumulation: int, last: LastBatch) -> None:
    plan = Plan(31, 12, seed=1, last=last)
    for step in range(plan.steps_per_epoch):
        whole = plan.global_batch_items(5, step)
        assert (np.concatenate([plan.rank_items(5, step, rank, world) for rank in range(world)]) == whole).all()
        parts = [
            plan.items_at(5, plan.micro_positions(step * accumulation + part, rank, world, accumulation))
            for rank in range(world)
            for part in range(accumulation)
        ]
        assert {len(part) for part in parts} == {plan.share(world, accumulation)}
        assert (np.concatenate(parts) == whole).all()


def test_order_is_keyed_by_seed_and_epoch() -> None:
    orders = [tuple(Plan(50, 5, seed).order(epoch)) for seed in range(3) for epoch in range(3)]
    assert len(set(orders)) == 9
    assert orders[4] == tuple(Plan(50, 10, 1, last="drop").order(1))


def test_first_item_is_uniform() -> None:
    first = Counter(int(Plan(7, 1, seed=0).order(epoch)[0]) for epoch in range(1400))
    chi2 = sum((first[item] - 200) ** 2 / 200 for item in range(7))
    assert chi2 < 22.5  # 99.9 % of 6 degrees of freedom


def test_order_cannot_be_changed_by_a_caller() -> None:
    with pytest.raises(ValueError, match="read-only"):
        Plan(5, 1, 0).order(0)[0] = 1


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"n_items": 0, "global_batch": 1}, "nothing to read"),
        ({"n_items": 3, "global_batch": 0}, "global batch is empty"),
        ({"n_items": 3, "global_batch": 1, "last": "keep"}, "unknown rule"),
        ({"n_items": 3, "global_batch": 4, "last": "drop"}, "larger than the data"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Plan(**settings, seed=0)  # type: ignore[arg-type]


@pytest.mark.parametrize(("world", "accumulation"), [(5, 1), (4, 2), (0, 1), (1, 0), (24, 1)])
def test_indivisible_global_batch_is_refused_with_the_multiple(world: int, accumulation: int) -> None:
    wanted = max(world, 1) * max(accumulation, 1)
    with pytest.raises(
        ConfigError, match=f"global batch 12, {world} ranks, {accumulation} acc.*\n.*multiple of {wanted}"
    ):
        Plan(31, 12, seed=0).share(world, accumulation)


@pytest.mark.parametrize(("micro", "rank"), [(-1, 0), (6, 0), (0, 2), (0, -1)])
def test_positions_outside_of_the_plan_do_not_exist(micro: int, rank: int) -> None:
    with pytest.raises(IndexError):
        Plan(31, 12, seed=0).micro_positions(micro, rank, 2, 2)
