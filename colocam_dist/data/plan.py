"""Who reads which window at which step: arithmetic only, no files, no processes.

An epoch is a sequence of windows (:class:`colocam_dist.data.order.EpochOrder`). Its global batch t is made of the
positions [tG, (t+1)G), and rank r of W takes its r-th part of G/W positions. So the windows of a step do not depend on
the number of ranks, and all ranks have the same number of steps by construction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from colocam_dist.data.order import EpochOrder, Windows
from colocam_dist.errors import ConfigError

__all__ = ["LastBatch", "Place", "Plan"]

LastBatch = Literal["pad", "drop"]


@dataclass(frozen=True)
class Plan:
    """The division of an epoch into steps, ranks and micro-batches.

    Args:
        order: the windows of every epoch.
        global_batch: G, windows of one optimizer step on all ranks together, >= 1.
        last: what happens to the last, incomplete step. "pad": it is filled from the start of the same epoch, so every
            window is read at least once and fewer than G of them once more; "drop": it is left out.

    Raises:
        ConfigError: a number out of range, or nothing left under "drop".
    """

    order: EpochOrder
    global_batch: int
    last: LastBatch = "pad"

    def __post_init__(self) -> None:
        if self.global_batch < 1:
            raise ConfigError("the global batch is empty", where="plan", got=self.global_batch, wanted="1 or more")
        if self.last not in get_args(LastBatch):
            raise ConfigError("unknown rule for the last batch", where="plan", got=self.last, wanted="pad or drop")
        if self.last == "drop" and self.global_batch > self.n_windows:
            raise ConfigError(
                "the global batch is larger than the data, so dropping the last batch leaves no step",
                where="plan",
                got=f"global batch {self.global_batch}, {self.n_windows} windows per epoch",
                wanted=f"a global batch of at most {self.n_windows}",
                fix='take a smaller global batch, or last="pad"',
            )

    @property
    def n_windows(self) -> int:
        """Windows of an epoch, before the last step is filled or dropped."""
        return self.order.n_windows

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch, the same for every rank, >= 1."""
        whole, rest = divmod(self.n_windows, self.global_batch)
        return whole + (self.last == "pad" and rest > 0)

    def share(self, world: int, accumulation: int = 1) -> int:
        """Windows of one micro-batch of one rank: G / (world x accumulation).

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

    def windows_at(self, epoch: int, positions: NDArray[np.int64]) -> Windows:
        """Windows at ``positions`` of the epoch; positions past the end continue at its start."""
        shots, passes = self.order.epoch(epoch)
        within = positions % self.n_windows
        return Windows(shots[within], passes[within])

    def rank_windows(self, epoch: int, step: int, rank: int, world: int) -> Windows:
        """Windows of one step on one rank, [G / world]; the ranks' parts in rank order are the global batch."""
        return self.windows_at(epoch, self.micro_positions(step, rank, world))

    def micro_positions(self, micro: int, rank: int, world: int, accumulation: int = 1) -> NDArray[np.int64]:
        """Positions in the order that ``rank`` reads at its micro-batch ``micro``: int64 [G / (world x accumulation)].

        Which windows all ranks together read at it does not depend on their number: an equal part of every lane.

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
        blocks = self.order.blocks
        lane = self.global_batch if blocks is None or blocks.lanes == 1 else blocks.share
        if lane % accumulation:  # lanes that cannot be divided are read one after another
            lane = self.global_batch
        width = lane // accumulation
        number, within = np.divmod(np.arange(rank * share, (rank + 1) * share, dtype=np.int64), width)
        return step * self.global_batch + number * lane + part * width + within


@dataclass(frozen=True)
class Place:
    """One rank among all, and the number of its micro-batches in a step.

    Where several ranks read the same windows, each gets a part of their frames; they are one in `rank` and `world`.

    Args:
        rank: in [0, world).
        world: number of ranks among which the windows are divided.
        accumulation: micro-batches of a step.
        part: which part of the frames of each window is given out, in [0, parts).
        parts: number of them, >= 1.

    Raises:
        ConfigError: no such rank or part.
    """

    rank: int = 0
    world: int = 1
    accumulation: int = 1
    part: int = 0
    parts: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.part < self.parts:
            raise ConfigError("no such part", where="stream", got=self.part, wanted=f"0 to {self.parts - 1}")
        if not 0 <= self.rank < self.world:
            raise ConfigError("no such rank", where="stream", got=self.rank, wanted=f"0 to {self.world - 1}")
