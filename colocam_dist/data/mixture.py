"""From settings to the order of windows: which shots count, how data sets and classes are weighted, how shards are kept
together."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from colocam_dist.data.order import Blocks, EpochOrder, Pool
from colocam_dist.data.rng import generator
from colocam_dist.errors import ConfigError, DataError

if TYPE_CHECKING:
    from colocam_dist.data.index import ShotIndex

__all__ = ["OrderSettings", "epoch_order", "shares"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OrderSettings:
    """How the windows of an epoch are chosen and ordered.

    Args:
        min_frames: shots with fewer frames are left out, >= 1.
        drop_shots: of the others, so many of every class are left out at random, >= 0 (paper Table 7). Classes are
            counted over all joined data sets together.
        drop_seed: which ones. With the same seed, those left out for a larger number include those for a smaller one.
        balance: "class" gives every class of a data set the same number of windows; "none" every shot.
        weights: share of each joined data set in the windows, > 0; None shares by the number of shots.
        windows: windows per epoch, >= 1; None = the number of shots.
        block_shards: shards that are in use at a time (each lane); None mixes all.
        lanes: parts of the data that advance side by side (see :mod:`colocam_dist.data.order`), >= 1.
    """

    min_frames: int = 1
    drop_shots: int = 0
    drop_seed: int = 0
    balance: Literal["none", "class"] = "none"
    weights: tuple[float, ...] | None = None
    windows: int | None = None
    block_shards: int | None = None
    lanes: int = 1


def epoch_order(index: ShotIndex, settings: OrderSettings, *, seed: int, global_batch: int) -> EpochOrder:
    """The order of windows over the shots of ``index``.

    With neither weights, nor balance, nor a number of windows, every shot gives one window per epoch.

    Args:
        index: the split, or several joined.
        settings: see there.
        seed: seed of the order.
        global_batch: windows of one optimizer step.

    Raises:
        ConfigError: settings that contradict each other or the data.
        DataError: no shot is long enough, or a class would have none left.
    """
    eligible = np.flatnonzero(index.shots.n_frames >= settings.min_frames).astype(np.int32)
    if not len(eligible):
        raise DataError(
            "no shot of the split is long enough",
            where=f"{index.location}, split {index.split}",
            got=f"at most {int(index.shots.n_frames.max())} frames",
            wanted=f"{settings.min_frames} (data.min_frames)",
        )
    if len(eligible) < len(index.shots):
        left_out = len(index.shots) - len(eligible)
        _log.info("%d of %d shots have fewer than %d frames", left_out, len(index.shots), settings.min_frames)
    if settings.drop_shots:
        eligible = _without_dropped(index, eligible, settings)
    pools = _pools(index, eligible, settings)
    return EpochOrder(pools, seed, _blocks(index, settings, global_batch))


def shares(total: int, weights: Sequence[float] | NDArray[np.float64]) -> list[int]:
    """``total`` in whole numbers by weight (largest remainders), each less than 1 from its exact share."""
    exact = np.asarray(weights, np.float64) / np.sum(weights) * total
    parts = np.floor(exact).astype(np.int64)
    missing = total - int(parts.sum())
    parts[np.argsort(-(exact - parts), kind="stable")[:missing]] += 1
    return [int(part) for part in parts]


def _without_dropped(index: ShotIndex, eligible: NDArray[np.int32], settings: OrderSettings) -> NDArray[np.int32]:
    """``eligible`` without ``drop_shots`` random shots of every class, in ascending order."""
    labels = index.shots.label[eligible]
    classes, sizes = np.unique(labels, return_counts=True)
    too_small = sizes <= settings.drop_shots
    if too_small.any():
        named = zip(classes[too_small].tolist(), sizes[too_small].tolist(), strict=True)
        raise DataError(
            "leaving out shots would leave a class without any",
            where=f"{index.location}, split {index.split}",
            got=", ".join(f"{index.classes[label]} has {size}" for label, size in named),
            wanted=f"more than {settings.drop_shots} (data.drop_shots) in every class",
            fix=f"lower data.drop_shots to {int(sizes.min()) - 1}, or build shards without these classes",
        )
    # One number per shot id, whatever the other settings are: the shots with the smallest ones go first.
    number = generator(settings.drop_seed, 0, 0, "drop").random(len(index.shots))[eligible]
    by_class = eligible[np.lexsort((number, labels))]
    place_in_class = np.arange(len(eligible)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    kept = np.sort(by_class[place_in_class >= settings.drop_shots])
    _log.info(
        "%d of %d shots are left out at random, %d of each class (data.drop_seed=%d)",
        len(eligible) - len(kept),
        len(eligible),
        settings.drop_shots,
        settings.drop_seed,
    )
    return kept


def _pools(index: ShotIndex, eligible: NDArray[np.int32], settings: OrderSettings) -> tuple[Pool, ...]:
    total = settings.windows or len(eligible)
    if settings.weights is None and settings.balance == "none":
        return (Pool(eligible, total),)
    source = index.shots.source[eligible]
    sources = np.unique(source)
    weights = [float((source == number).sum()) for number in sources]
    if settings.weights is not None:
        n_sources = int(index.shots.source.max()) + 1
        if len(settings.weights) != n_sources or len(sources) < n_sources:
            raise ConfigError(
                "data sets and weights do not match",
                where="data.mix",
                got=f"{len(settings.weights)} weights, {len(sources)} data sets with shots to train on",
                wanted=f"{n_sources} of both",
            )
        weights = list(settings.weights)
    pools = []
    for number, windows in zip(sources, shares(total, weights), strict=True):
        mine = eligible[source == number]
        groups = [mine]
        if settings.balance == "class":
            labels = index.shots.label[mine]
            groups = [mine[labels == label] for label in np.unique(labels)]
        pools += list(zip(groups, shares(windows, np.ones(len(groups))), strict=True))
    empty = sum(windows == 0 for _, windows in pools)
    if empty:
        raise ConfigError(
            "some data sets or classes would get no window at all",
            where="data.epoch_windows",
            got=f"{total} windows per epoch for {len(pools)} groups, {empty} of them empty",
            fix="raise data.epoch_windows or the smallest weight",
        )
    return tuple(Pool(group, windows) for group, windows in pools)


def _blocks(index: ShotIndex, settings: OrderSettings, global_batch: int) -> Blocks | None:
    if settings.block_shards is None:
        if settings.lanes > 1:
            raise ConfigError("lanes need blocks of shards", where="data.lanes", fix="set data.block_shards as well")
        return None
    if global_batch % settings.lanes:
        raise ConfigError(
            "the global batch cannot be divided among the lanes",
            where="data.lanes",
            got=f"{settings.lanes} lanes, {global_batch} windows a step",
            wanted=f"a divisor of {global_batch}",
        )
    return Blocks(index.shots.shard, settings.block_shards, settings.lanes, global_batch // settings.lanes)
