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
