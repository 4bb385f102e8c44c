"""Which shots make the windows of an epoch, and in which order: arithmetic on arrays, no files, no processes.

Two questions, answered one after the other:

1. *Which?* Shots stand in pools (one for all; or one per class, per data set, or both), and an epoch takes a fixed
   number of windows from each. A pool is an endless sequence of permutations of its shots, its *passes*, and epoch e
   continues where epoch e - 1 stopped. So a pool that gives as many windows as it has shots gives each once per epoch;
   a small pool repeats its shots within an epoch, a large one spreads them over several, and no shot is ever taken
   twice before all others of its pool were taken. (shot, pass) never repeats, and is what a window's random draws are
   keyed by.
2. *When?* Either in random order; or in *blocks*: the shards in random order, their shots shuffled within blocks of a
   few shards, so that few shards are in use at a time. With *lanes*, the sequence of shards is cut into equal parts
   that advance side by side, and every step takes an equal share from each: ranks then read different shards.

Everything follows from (seed, epoch), never from the number of ranks or workers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from colocam_dist.data.rng import generator
from colocam_dist.errors import ConfigError

__all__ = ["Blocks", "EpochOrder", "Pool", "Windows", "uniform"]


class Windows(NamedTuple):
    """Windows in order: shot ids int32 [n], and for each the pass of its pool that it belongs to, int32 [n]."""

    shots: NDArray[np.int32]
    passes: NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Pool:
    """Shots that share a number of windows per epoch.

    Args:
        shots: int32 [k] shot ids, all different, k >= 1.
        windows: windows per epoch, >= 1; k means each shot exactly once.
    """

    shots: NDArray[np.int32]
    windows: int

    def __post_init__(self) -> None:
        if not len(self.shots) or self.windows < 1:
            raise ConfigError(
                "a pool of shots has nothing to give",
                where="order",
                got=f"{len(self.shots)} shots, {self.windows} windows per epoch",
                wanted="1 or more of both",
            )

    def take(self, seed: int, pool: int, epoch: int) -> Windows:
        """Windows of one epoch; ``pool`` is this pool's number, which keeps equal pools apart."""
        k = len(self.shots)
        first, stop = epoch * self.windows, (epoch + 1) * self.windows
        parts = []
        for number in range(first // k, -(-stop // k)):
            order = np.arange(k, dtype=np.int32)
            generator(seed, number, pool, "order").shuffle(order)
            part = order[max(first - number * k, 0) : stop - number * k]
            parts.append(Windows(self.shots[part], np.broadcast_to(np.int32(number), part.shape)))
        if len(parts) == 1:
            return parts[0]
        return Windows(*(np.concatenate(column) for column in zip(*parts, strict=True)))


@dataclass(frozen=True, eq=False)
class Blocks:
    """How shards are kept together.

    Args:
        shard_of: int32 [all shots], the shard in which a shot lies.
        shards: shards of a block, >= 1.
        lanes: parts of the sequence that advance side by side, >= 1.
        share: windows that a step takes from each lane, >= 1: the global batch divided by the lanes.
    """

    shard_of: NDArray[np.int32]
    shards: int
    lanes: int = 1
    share: int = 1

    def __post_init__(self) -> None:
        if self.shards < 1 or self.lanes < 1 or self.share < 1:
            got = f"{self.shards} shards a block, {self.lanes} lanes, {self.share} windows of each lane a step"
            raise ConfigError("bad blocks of shards", where="order", got=got, wanted="1 or more of each")

    def arrange(self, windows: Windows, seed: int, epoch: int) -> Windows:
        """The windows, given in random order, in the order of lanes and blocks."""
        n_shards = int(self.shard_of.max()) + 1
        place = np.arange(n_shards, dtype=np.int32)
        generator(seed, epoch, 0, "shards").shuffle(place)
        place_of = place[self.shard_of[windows.shots]]  # of each window's shard in the sequence of shards
        blocks = -(-n_shards // self.shards)
        if self.lanes == 1:
            code = place_of // self.shards
        else:
            lane_of, first_place = self._lanes(place_of, n_shards)
            code = lane_of * blocks + (place_of - first_place[lane_of]) // self.shards
            del lane_of
        del place_of
        # Windows came in random order, and a stable sort keeps them so within each block.
        order = _stable_order(code, self.lanes * blocks)
        if self.lanes > 1:
            order = _interleave([order[start:stop] for start, stop in pairwise(self._ends(len(order)))], self.share)
        return Windows(windows.shots[order], windows.passes[order])

    def _ends(self, n: int) -> NDArray[np.int64]:
        """Where the lanes of n windows begin, and n: int64 [lanes + 1]."""
        return np.arange(self.lanes + 1, dtype=np.int64) * n // self.lanes

    def _lanes(self, place_of: NDArray[np.int32], n_shards: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The lane of each window, and the place of the first shard of each lane."""
        by_shard, ends = _stable_order(place_of, n_shards), self._ends(len(place_of))
        lane_of = np.empty(len(place_of), np.int32)
        lane_of[by_shard] = np.repeat(np.arange(self.lanes, dtype=np.int32), np.diff(ends))
        # With fewer windows than lanes the last lanes are empty, and have no first window.
        return lane_of, place_of[by_shard[np.minimum(ends[:-1], len(place_of) - 1)]]


@dataclass(frozen=True, eq=False)
class EpochOrder:
    """The windows of every epoch.

    Args:
        pools: where windows come from.
        seed: seed of the order.
        blocks: how shards are kept together; None mixes all windows.

    Attributes:
        n_windows: windows of an epoch.
    """

    pools: tuple[Pool, ...]
    seed: int
    blocks: Blocks | None = None
    _made: dict[int, Windows] = field(default_factory=dict, init=False, repr=False)

    @property
    def n_windows(self) -> int:
        """Windows of an epoch, the same for all epochs."""
        return sum(pool.windows for pool in self.pools)

    @cached_property
    def fingerprint(self) -> str:
        """Sha256 (hex) over all that shapes the order except the seed: equal fingerprints and seeds, equal orders."""
        digest = sha256()
        for pool in self.pools:
            digest.update(f"pool {pool.windows} {len(pool.shots)} ".encode())
            digest.update(np.ascontiguousarray(pool.shots, "<i4").tobytes())
        if self.blocks is not None:
            digest.update(f"blocks {self.blocks.shards} {self.blocks.lanes} {self.blocks.share}".encode())
        return digest.hexdigest()

    def epoch(self, epoch: int) -> Windows:
        """All windows of ``epoch`` (from 0) in order: read-only arrays [n_windows]."""
        if epoch not in self._made:
            while len(self._made) > 1:  # this epoch and the one before it, whose last batch may still be asked for
                self._made.pop(next(iter(self._made)))
            self._made[epoch] = self._make(epoch)
        return self._made[epoch]

    def _make(self, epoch: int) -> Windows:
        parts = [pool.take(self.seed, number, epoch) for number, pool in enumerate(self.pools)]
        windows = parts[0]
        if len(parts) > 1:
            windows = Windows(*(np.concatenate(column) for column in zip(*parts, strict=True)))
            mixed = np.arange(len(windows.shots), dtype=np.int32)
            generator(self.seed, epoch, 0, "mix").shuffle(mixed)
            windows = Windows(windows.shots[mixed], windows.passes[mixed])
        if self.blocks is not None:
            windows = self.blocks.arrange(windows, self.seed, epoch)
        for column in windows:
            column.flags.writeable = False  # shared by all callers
        return windows

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_made": {}}  # quicker made again than sent


def uniform(n_shots: int, seed: int) -> EpochOrder:
    """Every one of ``n_shots`` shots once per epoch, in random order."""
    return EpochOrder((Pool(np.arange(n_shots, dtype=np.int32), n_shots),), seed)


def _interleave(lanes: list[NDArray[np.int64]], share: int) -> NDArray[np.int64]:
    """``share`` of each lane in turn; what is left when the shortest lane has no whole share comes last."""
    whole = min(len(lane) for lane in lanes) // share
    even = np.stack([lane[: whole * share].reshape(whole, share) for lane in lanes], axis=1).ravel()
    return np.concatenate([even, *(lane[whole * share :] for lane in lanes)])


def _stable_order(values: NDArray[np.int32], below: int) -> NDArray[np.int64]:
    """Places that sort the values, 0 <= value < below; equal ones keep their order."""
    # NumPy sorts 16 bits by radix, several times faster than by comparing.
    return np.argsort(values.astype(np.uint16) if below <= 1 << 16 else values, kind="stable")
