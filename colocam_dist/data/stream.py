"""The training stream: the windows that a rank iterates over.

It is deterministic and elastic: which windows make the global batch of a step, and their pixels, depend on (data, seed,
epoch, step, settings) only, not on the number of ranks, workers or interruptions.
"""

from __future__ import annotations

from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from colocam_dist.data.batch import WindowBatch
from colocam_dist.data.build import MicroTask, WindowBuilder, WindowSettings
from colocam_dist.data.plan import Place, Plan
from colocam_dist.data.receipt import EpochReceipt, ReceiptBook
from colocam_dist.data.storage import RemoteFolder
from colocam_dist.data.workers import Tasks, WorkerLoader
from colocam_dist.errors import ConfigError, RunError

if TYPE_CHECKING:
    from colocam_dist.data.index import ShotIndex

__all__ = ["WindowBatch", "WindowSettings", "WindowStream"]

_STATE_VERSION = 2


class _WindowTasks(Tasks[MicroTask]):
    """Micro-batches of the rest of an epoch."""

    def __init__(self, plan: Plan, place: Place, ahead: int) -> None:
        self._plan = plan
        self._place = place
        self._ahead = ahead
        # (epoch, micro-batch) where the pass begins, in shared memory: living workers read it when a pass begins. It
        # must not be the position of the stream, which moves on while slow workers are still about to begin.
        self.begin = get_context("forkserver").Array("q", 2, lock=False)

    def span(self) -> tuple[int, int]:
        return self.begin[1], self._plan.steps_per_epoch * self._place.accumulation

    def task(self, number: int, first: bool) -> MicroTask:
        soon = [self._positions(later) for later in range(number + 1, min(number + 1 + self._ahead, self.span()[1]))]
        return MicroTask(self.begin[0], self._positions(number), first, np.concatenate(soon) if soon else None)

    def _positions(self, number: int) -> NDArray[np.int64]:
        place = self._place
        return self._plan.micro_positions(number, place.rank, place.world, place.accumulation)


class WindowStream:
    """Windows of one rank, one per shot and epoch, in micro-batches of G / world / accumulation windows.

    Iterating gives the rest of the current epoch; when it is exhausted the stream moves on to the next epoch. All ranks
    get the same number of batches. Leaving the loop early is fine: the next one continues behind the last batch given
    out.

    Args:
        index: the split's shots and frames.
        plan: order of the windows and their division; its shots are those of ``index``.
        settings: windows and transform.
        place: this rank among all; G must be divisible by world x accumulation, the frames of a window by its parts.
            Each rank reads the whole windows, so that all of them know of damaged frames, and gives out its part.
        workers: processes that read ahead, kept over epochs until ``close()``; 0 reads in this process.
        cams: CAM archive of the split (float16 .npy [F, h, w] by frame id), or None.
        ahead: micro-batches whose shards are fetched ahead, if they are remote.

    Raises:
        ConfigError: settings that contradict each other.
        DataError: the CAM archive is missing or belongs to other shards; while iterating: too many damaged frames.
    """

    def __init__(
        self,
        index: ShotIndex,
        plan: Plan,
        settings: WindowSettings,
        *,
        place: Place = Place(),  # noqa: B008 - frozen
        workers: int = 0,
        cams: Path | None = None,
        ahead: int = 8,
    ) -> None:
        if max(int(pool.shots.max()) for pool in plan.order.pools) >= len(index.shots):
            raise ConfigError("the plan is not one of these shots", wanted=f"shots 0 to {len(index.shots) - 1}")
        plan.share(place.world, place.accumulation)
        if settings.n_frames % place.parts:
            raise ConfigError(
                "the frames of a window cannot be divided",
                where="stream",
                got=f"{settings.n_frames} frames, {place.parts} parts",
                wanted=f"a multiple of {place.parts} frames",
            )
        self._place = place
        self._plan = plan
        self._fingerprint = index.fingerprint
        self._builder = WindowBuilder(index, plan, settings, cams)
        remote = any(isinstance(shard.storage, RemoteFolder) for shard in index.shards)
        self._tasks = _WindowTasks(plan, self._place, ahead if remote else 0)
        self._loader: WorkerLoader[MicroTask, WindowBatch] = WorkerLoader(self._tasks, self._builder, workers)
        self._book = ReceiptBook(index, self._builder.promised)
        self._epoch = self._micro = 0
        self._pass = 0

    @property
    def epoch(self) -> int:
        """Current epoch, from 0; it counts up when an iteration ends by itself."""
        return self._epoch

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of a whole epoch."""
        return self._plan.steps_per_epoch

    @property
    def windows_per_epoch(self) -> int:
        """Windows that all ranks together are given in a whole epoch."""
        return self._plan.steps_per_epoch * self._plan.global_batch

    @property
    def receipt(self) -> EpochReceipt:
        """What this rank gave out of the epoch that the last batch belongs to."""
        return self._book.receipt()

    def __len__(self) -> int:
        """Micro-batches left in the current epoch."""
        return self._plan.steps_per_epoch * self._place.accumulation - self._micro

    def __iter__(self) -> Iterator[WindowBatch]:
        self._pass += 1
        return self._rest_of_epoch(self._pass)

    def _rest_of_epoch(self, this_pass: int) -> Iterator[WindowBatch]:
        self._tasks.begin[:] = [self._epoch, self._micro]
        if not self._micro:
            self._book.begin(self._epoch)
        batches = iter(self._loader) if len(self) else iter(())
        while True:
            if this_pass != self._pass:
                raise RuntimeError("this iteration ended when the stream was iterated again, moved or closed")
            batch = next(batches, None)
            if batch is None:
                break
            place = self._place
            positions = self._plan.micro_positions(self._micro, place.rank, place.world, place.accumulation)
            self._book.add(batch, self._plan.windows_at(self._epoch, positions))
            # Before the yield: while the caller works with this batch, a saved state must be the one behind it.
            self._micro += 1
            yield batch if place.parts == 1 else batch.part(place.part, place.parts)
        self._epoch, self._micro = self._epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Position behind the last batch given out (not: read ahead), the same on all ranks, ready for JSON."""
        return {
            "version": _STATE_VERSION,
            "epoch": self._epoch,
            "micro_step": self._micro,
            "accumulation": self._place.accumulation,
            "world": self._place.world,
            **self._identity(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state`` was taken.

        The number of ranks and accumulation steps may differ if the state lies between two optimizer steps. If the
        state has the entry "receipt" (:meth:`EpochReceipt.as_dict` of all ranks together), the receipt of this epoch
        counts on from it, on rank 0.

        Raises:
            RunError: the state is of another version, seed, global batch, rule for the last batch or data; or it lies
                inside of a step that is divided otherwise now.
        """
        mine: dict[str, Any] = {"version": _STATE_VERSION, **self._identity()}
        other = {name: state.get(name) for name, value in mine.items() if state.get(name) != value}
        if other:
            raise RunError(
                "the saved position belongs to another run or other data",
                where="state of the data stream",
                got=", ".join(f"{name}={value}" for name, value in other.items()),
                wanted=", ".join(f"{name}={mine[name]}" for name in other),
                fix="resume with the settings and shards of the saved run, or start a new run",
            )
        step, part = divmod(int(state["micro_step"]), int(state["accumulation"]))
        divided = (int(state["world"]), int(state["accumulation"]))
        if part and divided != (self._place.world, self._place.accumulation):
            raise RunError(
                "the saved position lies inside of an optimizer step, which is divided otherwise now",
                where="state of the data stream",
                got=f"{self._place.world} ranks, {self._place.accumulation} accumulation steps",
                wanted=f"{divided[0]} ranks, {divided[1]} accumulation steps",
                fix="resume with the saved numbers, or from a state saved between two steps",
            )
        self._pass += 1
        self._epoch = int(state["epoch"])
        self._micro = step * self._place.accumulation + part
        before = state.get("receipt") if self._place.rank == 0 and self._micro else None
        self._book.begin(self._epoch, None if before is None else EpochReceipt.from_dict(before))

    def close(self) -> None:
        """End the workers and close files; an iteration in progress ends with an error, a new one starts afresh."""
        self._pass += 1
        self._loader.close()
        self._builder.close()

    def _identity(self) -> dict[str, Any]:
        return {
            "seed": self._plan.order.seed,
            "global_batch": self._plan.global_batch,
            "last": self._plan.last,
            "windows": self._plan.n_windows,
            "order": self._plan.order.fingerprint,
            "fingerprint": self._fingerprint,
        }
