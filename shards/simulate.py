"""What an epoch will ask of ranks, nodes and their caches: arithmetic on the plan itself, nothing is read.

Shapes: T steps, R ranks, M nodes, S shards. A node is a machine, whose ranks share one cache of remote shards. Nodes
are played through one after the other, so that memory is that of the order and of one node.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from colocam_dist.data.index import ShotIndex
from colocam_dist.data.order import Blocks, EpochOrder, Pool
from colocam_dist.data.plan import Plan
from colocam_dist.data.windows import window_lengths
from colocam_dist.errors import ConfigError

__all__ = ["Cluster", "Dataset", "Forecast", "forecast", "lru_traffic"]

_AT_ONCE = 1 << 19  # windows that are looked at together


@dataclass(frozen=True, eq=False)
class Dataset:
    """What the plan needs to know of the data: that of some shots and shards, taken ``times`` times over.

    Attributes:
        n_frames: int32 [shots of one copy].
        shard_of: int32 [shots of one copy].
        frame_bytes: float64 [shots of one copy], mean bytes of a frame.
        shard_bytes: int64 [shards of one copy].
        times: copies, >= 1. Shots and shards of copy c come after those of the copies before it.
    """

    n_frames: NDArray[np.int32]
    shard_of: NDArray[np.int32]
    frame_bytes: NDArray[np.float64]
    shard_bytes: NDArray[np.int64]
    times: int = 1

    @classmethod
    def of(cls, index: ShotIndex, times: int = 1) -> Dataset:
        """That of an opened split, or one ``times`` as large made of copies of it."""
        shots = index.shots
        total = np.add.reduceat(index.frame_size.astype(np.float64), shots.first_frame)
        shard_bytes = np.array([shard.bytes for shard in index.shards], np.int64)
        return cls(shots.n_frames, shots.shard, total / shots.n_frames, shard_bytes, times)

    @property
    def n_shots(self) -> int:
        """Shots of all copies."""
        return len(self.n_frames) * self.times

    @property
    def n_shards(self) -> int:
        """S, shards of all copies."""
        return len(self.shard_bytes) * self.times

    @property
    def frames(self) -> int:
        """Frames of all copies."""
        return int(self.n_frames.sum(dtype=np.int64)) * self.times

    @property
    def bytes(self) -> int:
        """Bytes of the shards of all copies."""
        return int(self.shard_bytes.sum()) * self.times

    def shards_of_all(self) -> NDArray[np.int32]:
        """The shard of every shot: int32 [shots of all copies]."""
        first = np.arange(self.times, dtype=np.int32) * np.int32(len(self.shard_bytes))
        return (first[:, None] + self.shard_of).ravel()

    def shards_of(self, shots: NDArray[np.int32]) -> NDArray[np.int32]:
        """The shards of these shots."""
        copy, shot = np.divmod(shots, np.int32(len(self.n_frames)))
        return copy * np.int32(len(self.shard_bytes)) + self.shard_of[shot]

    def sizes_of(self, shards: NDArray[np.int64]) -> NDArray[np.int64]:
        """The bytes of these shards."""
        return self.shard_bytes[shards % len(self.shard_bytes)]


@dataclass(frozen=True)
class Cluster:
    """Who reads.

    Attributes:
        ranks: processes that train.
        ranks_per_node: of them, those that share a machine and its cache.
        workers: reading processes of each rank; 0 = the rank itself.
    """

    ranks: int
    ranks_per_node: int = 8
    workers: int = 2

    @property
    def nodes(self) -> int:
        """Number of machines."""
        return -(-self.ranks // self.ranks_per_node)


@dataclass(frozen=True, eq=False)
class Forecast:
    """One epoch in numbers.

    Attributes:
        steps: optimizer steps.
        share: windows of a rank and step.
        frames_per_step: frames of a rank and step, at most.
        rank_bytes: float64 [R], bytes of pictures that each rank reads.
        node_shards: int64 [M], different shards that each node reads.
        node_fetch_bytes: int64 [M], their size: what each node fetches if its cache holds what is in use.
        live_shards: int, shards in use at once on a node (from their first to their last window), at most.
        live_bytes: int, size of the shards in use at once on a node, at most.
        shards_by_step: the shards that the first node reads in each step, for :func:`lru_traffic`.
    """

    steps: int
    share: int
    frames_per_step: int
    rank_bytes: NDArray[np.float64]
    node_shards: NDArray[np.int64]
    node_fetch_bytes: NDArray[np.int64]
    live_shards: int
    live_bytes: int
    shards_by_step: list[NDArray[np.int32]]


def forecast(
    data: Dataset,
    cluster: Cluster,
    *,
    global_batch: int,
    n_frames: int,
    central_fraction: float = 1.0,
    block_shards: int | None = None,
    lanes: int = 1,
    seed: int = 0,
) -> Forecast:
    """Play one epoch through.

    Args:
        data: the data.
        cluster: who reads.
        global_batch: windows of one optimizer step on all ranks together.
        n_frames: frames of a window.
        central_fraction, block_shards, lanes, seed: as in the settings of a run.

    Raises:
        ConfigError: the global batch cannot be divided among the ranks or the lanes.
    """
    if global_batch % lanes:
        raise ConfigError(
            "the global batch cannot be divided among the lanes",
            where="--lanes",
            got=f"{global_batch} windows a step, {lanes} lanes",
            wanted=f"a divisor of {global_batch}",
            fix="change the number of lanes or the global batch",
        )
    shots = np.arange(data.n_shots, dtype=np.int32)
    blocks = None
    if block_shards is not None:
        blocks = Blocks(data.shards_of_all(), block_shards, lanes, global_batch // lanes)
    plan = Plan(EpochOrder((Pool(shots, len(shots)),), seed, blocks), global_batch)
    share, steps = plan.share(cluster.ranks), plan.steps_per_epoch
    window_bytes = window_lengths(data.n_frames, n_frames, central_fraction) * data.frame_bytes
    nodes: list[_Node] = []
    rank_bytes = np.zeros(cluster.ranks)
    shards_by_step: list[NDArray[np.int32]] = []
    uses = _Uses(data, steps)
    for number in range(cluster.nodes):
        ranks = slice(number * cluster.ranks_per_node, min((number + 1) * cluster.ranks_per_node, cluster.ranks))
        for step, read in _reads(plan, ranks.start * share, ranks.stop * share):
            of_shot = window_bytes[read % np.int32(len(window_bytes))]
            rank_bytes[ranks] += of_shot.reshape(len(read), -1, share).sum((0, 2))
            shards = data.shards_of(read)
            uses.add(step, shards)
            if not number:
                shards_by_step += [np.unique(row) for row in shards]
        nodes.append(uses.summary())
    return Forecast(
        steps=steps,
        share=share,
        frames_per_step=share * n_frames,
        rank_bytes=rank_bytes,
        node_shards=np.array([node.shards for node in nodes]),
        node_fetch_bytes=np.array([node.bytes for node in nodes]),
        live_shards=max(node.live_shards for node in nodes),
        live_bytes=max(node.live_bytes for node in nodes),
        shards_by_step=shards_by_step,
    )


def lru_traffic(shards_by_step: list[NDArray[np.int32]], shard_bytes: NDArray[np.int64], cache_bytes: int) -> int:
    """Bytes that a node fetches in an epoch through a cache of this size that evicts what was not used the longest.

    Sizes are those of one copy of the data; the shards of further copies have the same in the same order.
    """
    held: OrderedDict[int, int] = OrderedDict()
    sizes = shard_bytes.tolist()
    room, fetched = cache_bytes, 0
    for shards in shards_by_step:
        for shard in shards.tolist():
            if shard in held:
                held.move_to_end(shard)
                continue
            size = int(sizes[shard % len(sizes)])
            fetched += size
            while held and room < size:
                room += held.popitem(last=False)[1]
            held[shard] = size
            room -= size
    return fetched


class _Node(NamedTuple):
    """Different shards that a node reads and their bytes; of these, most at once between first and last use."""

    shards: int
    bytes: int
    live_shards: int
    live_bytes: int


def _reads(plan: Plan, start: int, stop: int) -> Iterator[tuple[int, NDArray[np.int32]]]:
    """The part [start, stop) of every step's windows, several steps at a time: the first, and shots [steps, part]."""
    at_once = max(_AT_ONCE // (stop - start), 1)
    for step in range(0, plan.steps_per_epoch, at_once):
        steps = np.arange(step, min(step + at_once, plan.steps_per_epoch), dtype=np.int64)
        places = steps[:, None] * plan.global_batch + np.arange(start, stop)
        yield step, plan.windows_at(0, places).shots


class _Uses:
    """The first and the last use of every shard by one node after the other.

    Args:
        data: number and sizes of the shards.
        steps: T.
    """

    def __init__(self, data: Dataset, steps: int) -> None:
        self._data = data
        self._steps = steps
        self._first = np.empty(data.n_shards, np.int32)
        self._last = np.full(data.n_shards, -1, np.int32)

    def add(self, step: int, shards: NDArray[np.int32]) -> None:
        """Shards int32 [steps, windows] that the node reads in this step and the next ones; steps in order."""
        flat = shards.ravel()
        steps = np.repeat(np.arange(step, step + len(shards), dtype=np.int32), shards.shape[1])
        fresh = self._last[flat] < 0
        # Of several values for one place, NumPy keeps the last.
        self._first[flat[fresh][::-1]] = steps[fresh][::-1]
        self._last[flat] = steps

    def summary(self) -> _Node:
        """What the node read; forgets it."""
        used = np.flatnonzero(self._last >= 0)
        first, end, sizes = self._first[used], self._last[used] + 1, self._data.sizes_of(used)
        self._last[used] = -1
        peaks = []
        for weights in (np.ones(len(used)), sizes.astype(np.float64)):
            change = np.bincount(first, weights, self._steps + 1) - np.bincount(end, weights, self._steps + 1)
            peaks.append(round(float(change.cumsum().max())))
        return _Node(len(used), int(sizes.sum()), *peaks)
