"""Who reads which item at which step: arithmetic only, no files, no processes.

An epoch is one permutation of the items, keyed by (seed, epoch). Its global batch t is made of the positions
[tG, (t+1)G), and rank r of W takes its r-th part of G/W positions. So the items of a step do not depend on the number
of ranks, and all ranks have the same number of steps by construction.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from colocam_dist.data.rng import generator
from colocam_dist.errors import ConfigError

__all__ = ["LastBatch", "Plan"]

LastBatch = Literal["pad", "drop"]


@lru_cache(maxsize=4)
def _order(n_items: int, seed: int, epoch: int) -> NDArray[np.int64]:
    order = generator(seed, epoch, 0, "order").permutation(n_items).astype(np.int64)
    order.flags.writeable = False  # shared by all callers
    return order


@dataclass(frozen=True)
class Plan:
    """The order of an epoch and its division into steps, ranks and micro-batches.

    Args:
        n_items: number of items (shots) in the split, >= 1.
        global_batch: G, items of one optimizer step on all ranks together, >= 1.
        seed: seed of the order.
        last: what happens to the last, incomplete step. "pad": it is filled from the start of the same order, so every
            item is read at least once and fewer than G of them once more; "drop": it is left out.

    Raises:
        ConfigError: a number out of range, or nothing left under "drop".
    """

    n_items: int
    global_batch: int
    seed: int
    last: LastBatch = "pad"

    def __post_init__(self) -> None:
        if self.n_items < 1:
            raise ConfigError("there is nothing to read", where="plan", got=f"{self.n_items} items", wanted="1 or more")
        if self.global_batch < 1:
            raise ConfigError("the global batch is empty", where="plan", got=self.global_batch, wanted="1 or more")
        if self.last not in get_args(LastBatch):
            raise ConfigError("unknown rule for the last batch", where="plan", got=self.last, wanted="pad or drop")
        if self.last == "drop" and self.global_batch > self.n_items:
            raise ConfigError(
                "the global batch is larger than the data, so dropping the last batch leaves no step",
                where="plan",
                got=f"global batch {self.global_batch}, {self.n_items} items",
                wanted=f"a global batch of at most {self.n_items}",
                fix='take a smaller global batch, or last="pad"',
            )

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch, the same for every rank, >= 1."""
        whole, rest = divmod(self.n_items, self.global_batch)
        return whole + (self.last == "pad" and rest > 0)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """All items in the order of ``epoch`` (from 0): int64 [n_items], read-only."""
        return _order(self.n_items, self.seed, epoch)

    def share(self, world: int, accumulation: int = 1) -> int:
        """Items of one micro-batch of one rank: G / (world x accumulation).

        Raises:
            ConfigError: the global batch cannot be divided so.
        """
        if world < 1 or accumulation < 1 or self.global_batch % (world * accumulation):
            raise ConfigError(
                "the global batch cannot be divided among ranks and accumulation steps",
                where="plan",
                got=f"global batch {self.global_batch}, {world} ranks, {accumulation} accumulation steps",
                wanted=f"a multiple of {max(world, 1) * max(accumulation, 1)}",
                fix="change the global batch, the number of ranks or the accumulation",
            )
        return self.global_batch // (world * accumulation)

    def items_at(self, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Items at ``positions`` of the epoch's order; positions past the end continue at its start."""
        return self.order(epoch)[positions % self.n_items]

    def global_batch_items(self, epoch: int, step: int) -> NDArray[np.int64]:
        """Items of one step on all ranks together: int64 [G]."""
        return self.rank_items(epoch, step, 0, 1)

    def rank_items(self, epoch: int, step: int, rank: int, world: int) -> NDArray[np.int64]:
        """Items of one step on one rank: int64 [G / world]; the ranks' parts in rank order are the global batch."""
        return self.items_at(epoch, self.micro_positions(step, rank, world))

    def micro_positions(self, micro: int, rank: int, world: int, accumulation: int = 1) -> NDArray[np.int64]:
        """Positions in the order that ``rank`` reads at its micro-batch ``micro``: int64 [G / (world x accumulation)].

        Args:
            micro: micro-batch of the epoch, from 0: step x accumulation + index within the step.
            rank: in [0, world).
            world: number of ranks.
            accumulation: micro-batches of one step.

        Raises:
            ConfigError: the global batch cannot be divided so.
            IndexError: no such micro-batch or rank.
        """
        share = self.share(world, accumulation)
        if not 0 <= micro < self.steps_per_epoch * accumulation or not 0 <= rank < world:
            raise IndexError(f"micro-batch {micro} of rank {rank} is not in a plan of {self.steps_per_epoch} steps")
        step, part = divmod(micro, accumulation)
        first = step * self.global_batch + (rank * accumulation + part) * share
        return np.arange(first, first + share, dtype=np.int64)
