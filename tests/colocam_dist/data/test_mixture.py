from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from colocam_dist.data.index import ShotIndex
from colocam_dist.data.mixture import OrderSettings, epoch_order, shares
from colocam_dist.errors import ConfigError, DataError

MakeIndex = Callable[..., ShotIndex]


@pytest.fixture
def index(make_index: MakeIndex) -> ShotIndex:
    """Eleven shots; labels 0 1 2 0 1 2 0 1 2 0 1."""
    return make_index([3, 9, 4, 7, 5, 12, 1, 6, 8, 2, 5])


def of_two_sources(index: ShotIndex, second: int) -> ShotIndex:
    source = np.where(np.arange(len(index.shots)) < second, 0, 1).astype(np.int16)
    return dataclasses.replace(index, shots=dataclasses.replace(index.shots, source=source))


def counts(index: ShotIndex, settings: OrderSettings, epoch: int = 0) -> np.ndarray:
    order = epoch_order(index, settings, seed=0, global_batch=4)
    return np.bincount(order.epoch(epoch).shots, minlength=len(index.shots))


def test_plain_settings_give_every_shot_once(index: ShotIndex) -> None:
    assert counts(index, OrderSettings()).tolist() == [1] * 11


def test_short_shots_are_left_out(index: ShotIndex) -> None:
    assert np.flatnonzero(counts(index, OrderSettings(min_frames=5)) == 0).tolist() == [0, 2, 6, 9]
    with pytest.raises(DataError, match=r"long enough(.|\n)*at most 12 frames(.|\n)*13 \(data.min_frames\)"):
        counts(index, OrderSettings(min_frames=13))


def dropped(index: ShotIndex, **settings: int) -> list[int]:
    long_enough = index.shots.n_frames >= settings.get("min_frames", 1)
    return np.flatnonzero((counts(index, OrderSettings(**settings)) == 0) & long_enough).tolist()  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(10))
def test_dropped_shots_are_nested_and_so_many_of_each_class(index: ShotIndex, seed: int) -> None:
    fewer: list[int] = []
    for number in range(3):
        more = dropped(index, drop_shots=number, drop_seed=seed)
        assert set(fewer) <= set(more)
        assert np.bincount(index.shots.label[more], minlength=3).tolist() == [number] * 3
        fewer = more


def test_which_shots_are_dropped_depends_on_the_seed_and_not_on_the_epoch(index: ShotIndex) -> None:
    assert len({tuple(dropped(index, drop_shots=2, drop_seed=seed)) for seed in range(8)}) > 4
    assert counts(index, OrderSettings(drop_shots=2)).tolist() == counts(index, OrderSettings(drop_shots=2), 1).tolist()


def test_every_shot_of_a_class_is_dropped_equally_often(index: ShotIndex) -> None:
    times = np.bincount([shot for seed in range(600) for shot in dropped(index, drop_shots=1, drop_seed=seed)])
    expected = 600 / np.bincount(index.shots.label)[index.shots.label]
    assert (np.abs(times - expected) < 4 * np.sqrt(expected)).all()


def test_short_shots_do_not_count_as_dropped_nor_change_the_order(index: ShotIndex) -> None:
    for seed in range(20):
        first = dropped(index, drop_shots=1, drop_seed=seed)
        second = set(dropped(index, drop_shots=2, drop_seed=seed)) - set(first)
        short = index.shots.n_frames < 3  # two of the first class
        found = dropped(index, drop_shots=1, drop_seed=seed, min_frames=3)
        assert index.shots.label[found].tolist().count(0) == 1
        assert {shot for shot in first if not short[shot]} <= set(found)
        in_place = {shot for shot in second if not short[shot] and shot % 3 == 0 and short[first].any()}
        assert in_place <= set(found)
        assert len(found) == 3


def test_a_class_must_keep_a_shot(index: ShotIndex, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(DataError, match=r"got: c has 3\n.*more than 3 \(data.drop_shots\)(.|\n)*drop_shots to 2, or"):
        counts(index, OrderSettings(drop_shots=3))
    with pytest.raises(DataError, match="got: a has 4, b has 4, c has 3"):
        counts(index, OrderSettings(drop_shots=100))
    with pytest.raises(DataError, match="got: a has 2\n"):  # two are too short
        counts(index, OrderSettings(drop_shots=2, min_frames=3))
    with caplog.at_level("INFO"):
        counts(index, OrderSettings(drop_shots=2, drop_seed=4))
    assert "6 of 11 shots are left out at random, 2 of each class (data.drop_seed=4)" in caplog.text


def test_dropped_shots_are_counted_over_joined_data_sets(index: ShotIndex) -> None:
    joined = of_two_sources(index, 8)
    assert dropped(joined, drop_shots=2) == dropped(index, drop_shots=2)
    drawn = counts(joined, OrderSettings(drop_shots=1, weights=(1.0, 1.0), balance="class", windows=24))
    assert np.flatnonzero(drawn == 0).tolist() == dropped(index, drop_shots=1)
    assert (drawn[:8].sum(), drawn[8:].sum()) == (12, 12)


def test_classes_get_equal_numbers_of_windows(index: ShotIndex) -> None:
    per_epoch = [counts(index, OrderSettings(balance="class", windows=12), epoch) for epoch in range(3)]
    for drawn in per_epoch:
        assert np.bincount(index.shots.label, drawn).tolist() == [4, 4, 4]
    total = sum(per_epoch)  # twelve windows of each class: three of each of four shots, four of each of three
    assert total.tolist() == [3, 3, 4, 3, 3, 4, 3, 3, 4, 3, 3]


def test_data_sets_are_weighted(index: ShotIndex) -> None:
    joined = of_two_sources(index, 8)
    drawn = counts(joined, OrderSettings(weights=(1.0, 3.0), windows=40))
    assert (drawn[:8].sum(), drawn[8:].sum()) == (10, 30)
    assert drawn[8:].tolist() == [10, 10, 10]


def test_data_sets_and_classes_together(index: ShotIndex) -> None:
    joined = of_two_sources(index, 9)  # the second has shots of classes 0 and 1 only
    drawn = counts(joined, OrderSettings(weights=(2.0, 1.0), balance="class", windows=36))
    assert np.bincount(index.shots.label[:9], drawn[:9]).tolist() == [8, 8, 8]
    assert drawn[9:].tolist() == [6, 6]


def test_weights_must_fit_the_data_sets(index: ShotIndex) -> None:
    with pytest.raises(ConfigError, match="1 weights, 2 data sets"):
        counts(of_two_sources(index, 8), OrderSettings(weights=(1.0,)))
    with pytest.raises(ConfigError, match="2 weights, 1 data sets"):  # the second one has only a short shot
        counts(of_two_sources(index, 10), OrderSettings(weights=(1.0, 1.0), min_frames=6))


def test_a_group_without_a_window_is_refused(index: ShotIndex) -> None:
    with pytest.raises(ConfigError, match=r"no window at all(.|\n)*2 windows per epoch for 3 groups, 1 of them"):
        counts(index, OrderSettings(balance="class", windows=2))


def test_blocks_and_lanes(index: ShotIndex) -> None:
    order = epoch_order(index, OrderSettings(block_shards=1, lanes=2), seed=0, global_batch=4)
    assert order.blocks is not None
    assert (order.blocks.shards, order.blocks.lanes, order.blocks.share) == (1, 2, 2)
    with pytest.raises(ConfigError, match="3 lanes, 4 windows a step"):
        epoch_order(index, OrderSettings(block_shards=1, lanes=3), seed=0, global_batch=4)
    with pytest.raises(ConfigError, match="lanes need blocks"):
        epoch_order(index, OrderSettings(lanes=2), seed=0, global_batch=4)


@pytest.mark.parametrize("total", [1, 7, 100, 12345])
def test_shares_sum_up_and_are_near(total: int) -> None:
    weights = np.random.default_rng(total).random(9)
    parts = shares(total, weights)
    assert sum(parts) == total
    assert np.abs(np.array(parts) - weights / weights.sum() * total).max() < 1
