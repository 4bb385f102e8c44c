"""What an epoch will ask of ranks, nodes and their caches: arithmetic on the plan itself, nothing is read.

Shapes: T steps, R ranks, M nodes, S shards. A node is a machine, whose ranks share one cache of remote shards.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from colocam_dist.data.index import ShotIndex
from colocam_dist.data.order import Blocks, EpochOrder, Pool
from colocam_dist.data.plan import Plan
from colocam_dist.data.windows import window_lengths
from colocam_dist.errors import ConfigError

__all__ = ["Cluster", "Dataset", "Forecast", "forecast", "lru_traffic"]


@dataclass(frozen=True, eq=False)
class Dataset:
    """What the plan needs to know of the data.

    Attributes:
        n_frames: int32 [shots].
        shard_of: int32 [shots].
        frame_bytes: float64 [shots], mean bytes of a frame.
        shard_bytes: int64 [S].
    """

    n_frames: NDArray[np.int32]
    shard_of: NDArray[np.int32]
    frame_bytes: NDArray[np.float64]
    shard_bytes: NDArray[np.int64]

    @classmethod
    def of(cls, index: ShotIndex, times: int = 1) -> Dataset:
        """That of an opened split, or one ``times`` as large made of copies of it."""
        shots = index.shots
        total = np.add.reduceat(index.frame_size.astype(np.float64), shots.first_frame)
        shard_bytes = np.array([shard.bytes for shard in index.shards], np.int64)
        copy = np.repeat(np.arange(times, dtype=np.int32), len(shots)) * np.int32(len(shard_bytes))
        return cls(
            n_frames=np.tile(shots.n_frames, times),
            shard_of=np.tile(shots.shard, times) + copy,
            frame_bytes=np.tile(total / shots.n_frames, times),
            shard_bytes=np.tile(shard_bytes, times),
        )


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
    shards_by_step: list[NDArray[np.int64]]


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
            "the global batch cannot be divided among the lanes", got=f"{global_batch} windows, {lanes} lanes"
        )
    shots = np.arange(len(data.n_frames), dtype=np.int32)
    blocks = Blocks(data.shard_of, block_shards, lanes, global_batch // lanes) if block_shards is not None else None
    plan = Plan(EpochOrder((Pool(shots, len(shots)),), seed, blocks), global_batch)
    share, steps = plan.share(cluster.ranks), plan.steps_per_epoch
    read = plan.windows_at(0, np.arange(steps * global_batch, dtype=np.int64)).shots.reshape(
        steps, cluster.ranks, share
    )
    lengths = window_lengths(data.n_frames, n_frames, central_fraction)
    rank_bytes = (lengths * data.frame_bytes)[read].sum((0, 2))

    shard = data.shard_of[read]  # [T, R, share]
    node = np.repeat(np.arange(cluster.nodes), cluster.ranks_per_node)[: cluster.ranks]
    step, first, last = _spans(shard, node, len(data.shard_bytes))
    node_of, shard_of = np.divmod(step, len(data.shard_bytes))
    sizes = data.shard_bytes[shard_of]
    live_shards, live_bytes = _peak(node_of, first, last, sizes, (cluster.nodes, steps))
    mine = shard[:, : cluster.ranks_per_node].reshape(steps, -1)
    return Forecast(
        steps=steps,
        share=share,
        frames_per_step=share * n_frames,
        rank_bytes=rank_bytes,
        node_shards=np.bincount(node_of, minlength=cluster.nodes),
        node_fetch_bytes=np.bincount(node_of, sizes, minlength=cluster.nodes).astype(np.int64),
        live_shards=live_shards,
        live_bytes=live_bytes,
        shards_by_step=[np.unique(row).astype(np.int64) for row in mine],
    )


def lru_traffic(shards_by_step: list[NDArray[np.int64]], shard_bytes: NDArray[np.int64], cache_bytes: int) -> int:
    """Bytes that a node fetches in an epoch through a cache of this size that evicts what was not used the longest."""
    held: OrderedDict[int, int] = OrderedDict()
    room, fetched = cache_bytes, 0
    for shards in shards_by_step:
        for shard in shards.tolist():
            if shard in held:
                held.move_to_end(shard)
                continue
            size = int(shard_bytes[shard])
            fetched += size
            while held and room < size:
                room += held.popitem(last=False)[1]
            held[shard] = size
            room -= size
    return fetched


def _spans(
    shard: NDArray[np.int32], node: NDArray[np.int64], n_shards: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """For every pair of a node and a shard that it reads: node x S + shard, and its first and last step."""
    share = shard.shape[2]
    pair = (node[None, :, None] * n_shards + shard).ravel()
    per_step = len(node) * share
    pairs, first = np.unique(pair, return_index=True)
    _, from_end = np.unique(pair[::-1], return_index=True)
    return pairs, first // per_step, (len(pair) - 1 - from_end) // per_step


def _peak(
    node: NDArray[np.int64],
    first: NDArray[np.int64],
    last: NDArray[np.int64],
    sizes: NDArray[np.int64],
    shape: tuple[int, int],
) -> tuple[int, int]:
    """Most shards, and most bytes, that are between their first and last step at once on any node."""
    peaks = []
    for weights in (np.ones(len(sizes)), sizes.astype(np.float64)):
        change = np.zeros((shape[0], shape[1] + 1))
        np.add.at(change, (node, first), weights)
        np.add.at(change, (node, last + 1), -weights)
        peaks.append(round(float(change.cumsum(1).max())))
    return peaks[0], peaks[1]
