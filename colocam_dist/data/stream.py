"""The training and evaluation streams: what a rank iterates over.

The training stream is deterministic and elastic: which windows make the global batch of a step, and their pixels,
depend on (data, seed, epoch, step, settings) only, not on the number of ranks, workers or interruptions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from colocam_dist.data.batch import FrameBatch, WindowBatch
from colocam_dist.data.build import MicroTask, WindowBuilder, WindowSettings
from colocam_dist.data.frames import FrameReader, eval_frame
from colocam_dist.data.plan import Plan
from colocam_dist.data.receipt import Receipt
from colocam_dist.data.workers import Tasks, WorkerLoader
from colocam_dist.errors import ConfigError, RunError

if TYPE_CHECKING:
    from colocam_dist.data.index import ShotIndex

__all__ = ["FrameBatch", "FrameStream", "WindowBatch", "WindowSettings", "WindowStream"]

_STATE_VERSION = 1


@dataclass(frozen=True)
class _Place:
    """One rank among all, and the micro-batches of a step."""

    rank: int
    world: int
    accumulation: int = 1

    def check(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ConfigError("no such rank", where="stream", got=self.rank, wanted=f"0 to {self.world - 1}")


class _WindowTasks(Tasks[MicroTask]):
    """Micro-batches of the rest of an epoch."""

    def __init__(self, plan: Plan, place: _Place) -> None:
        self._plan = plan
        self._place = place
        # (epoch, micro-batch) where the pass begins, in shared memory: living workers read it when a pass begins. It
        # must not be the position of the stream, which moves on while slow workers are still about to begin.
        self.begin = get_context("forkserver").Array("q", 2, lock=False)

    def span(self) -> tuple[int, int]:
        return self.begin[1], self._plan.steps_per_epoch * self._place.accumulation

    def task(self, number: int, first: bool) -> MicroTask:
        place = self._place
        positions = self._plan.micro_positions(number, place.rank, place.world, place.accumulation)
        return MicroTask(self.begin[0], positions, first)


class WindowStream:
    """Windows of one rank, one per shot and epoch, in micro-batches of G / world / accumulation windows.

    Iterating gives the rest of the current epoch; when it is exhausted the stream moves on to the next epoch. All ranks
    get the same number of batches. Leaving the loop early is fine: the next one continues behind the last batch given
    out.

    Args:
        index: the split's shots and frames.
        plan: order and division of the shots; ``plan.n_items`` is their number.
        settings: windows and transform.
        rank: this rank, in [0, world).
        world: number of ranks; G must be divisible by world x accumulation.
        accumulation: micro-batches per optimizer step.
        workers: processes that read ahead, kept over epochs until ``close()``; 0 reads in this process.
        cams: CAM archive of the split (float16 .npy [F, h, w] by frame id), or None.

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
        rank: int = 0,
        world: int = 1,
        accumulation: int = 1,
        workers: int = 0,
        cams: Path | None = None,
    ) -> None:
        if plan.n_items != len(index.shots):
            raise ConfigError("the plan is not one of these shots", got=plan.n_items, wanted=len(index.shots))
        plan.share(world, accumulation)
        self._place = _Place(rank, world, accumulation)
        self._place.check()
        self._plan = plan
        self._fingerprint = index.fingerprint
        self._builder = WindowBuilder(index, plan, settings, cams)
        self._tasks = _WindowTasks(plan, self._place)
        self._loader: WorkerLoader[MicroTask, WindowBatch] = WorkerLoader(self._tasks, self._builder, workers)
        self._receipt = Receipt(index)
        self._epoch = self._micro = 0
        self._pass = 0

    @property
    def epoch(self) -> int:
        """Current epoch, from 0; it counts up when an iteration ends by itself."""
        return self._epoch

    @property
    def receipt(self) -> dict[str, Any]:
        """What this rank was given since the stream was made (see :meth:`Receipt.as_dict`)."""
        return self._receipt.as_dict()

    def __len__(self) -> int:
        """Micro-batches left in the current epoch."""
        return self._plan.steps_per_epoch * self._place.accumulation - self._micro

    def __iter__(self) -> Iterator[WindowBatch]:
        self._pass += 1
        return self._rest_of_epoch(self._pass)

    def _rest_of_epoch(self, this_pass: int) -> Iterator[WindowBatch]:
        self._tasks.begin[:] = [self._epoch, self._micro]
        batches = iter(self._loader) if len(self) else iter(())
        while True:
            if this_pass != self._pass:
                raise RuntimeError("this iteration ended when the stream was iterated again, moved or closed")
            batch = next(batches, None)
            if batch is None:
                break
            # Before the yield: while the caller works with this batch, a saved state must be the one behind it.
            self._micro += 1
            self._receipt.add(batch)
            yield batch
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

        The number of ranks and accumulation steps may differ if the state lies between two optimizer steps.

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

    def close(self) -> None:
        """End the workers and close files; an iteration in progress ends with an error, a new one starts afresh."""
        self._pass += 1
        self._loader.close()
        self._builder.close()

    def _identity(self) -> dict[str, Any]:
        return {
            "seed": self._plan.seed,
            "global_batch": self._plan.global_batch,
            "last": self._plan.last,
            "items": self._plan.n_items,
            "fingerprint": self._fingerprint,
        }


class _FrameTasks(Tasks[NDArray[np.int64]]):
    """Frame ids of one rank in batches."""

    def __init__(self, frames: NDArray[np.int64], batch: int) -> None:
        self._frames = frames
        self._batch = batch

    def span(self) -> tuple[int, int]:
        return 0, -(-len(self._frames) // self._batch)

    def task(self, number: int, first: bool) -> NDArray[np.int64]:
        return self._frames[number * self._batch : (number + 1) * self._batch]


class _FrameBuilder:
    """Reads the frames of one evaluation batch."""

    def __init__(self, index: ShotIndex, crop: int) -> None:
        self.reader = FrameReader(index)
        self._labels = np.array([shot.label for shot in index.shots], np.int64)
        self._shot = index.frame_shot
        self._crop = crop

    def __call__(self, frames: NDArray[np.int64]) -> FrameBatch:
        images_NCHW = torch.empty((len(frames), 3, self._crop, self._crop), dtype=torch.uint8)
        for place, frame in enumerate(frames.tolist()):
            eval_frame(self.reader.read(frame, short_side=self._crop), self._crop, out=images_NCHW[place].numpy())
        labels_N = torch.from_numpy(self._labels[self._shot[frames]])
        return FrameBatch(images_NCHW, torch.from_numpy(frames), labels_N)


class FrameStream:
    """Given frames of one rank in the given order, whole and resized to a square; every iteration gives all of them.

    Ranks get contiguous parts whose lengths differ by at most one frame, so their numbers of batches may differ.
    Workers live as long as one iteration.

    Args:
        index: the split's shots and frames.
        frames: int64 [F] frame ids within the split.
        crop: side of the square in pixels, >= 1.
        batch: frames of a batch, >= 1; the last one may be smaller.
        rank: this rank, in [0, world).
        world: number of ranks.
        workers: processes that read ahead; 0 reads in this process.

    Raises:
        ConfigError: a number out of range.
        DataError: while iterating: a damaged frame, for an evaluation must not leave out frames.
    """

    def __init__(
        self,
        index: ShotIndex,
        frames: NDArray[np.int64],
        *,
        crop: int,
        batch: int,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
    ) -> None:
        _Place(rank, world).check()
        if crop < 1 or batch < 1:
            raise ConfigError("bad size", where="evaluation", got=f"crop {crop}, batch {batch}", wanted="1 or more")
        frames = np.asarray(frames, np.int64)
        if frames.size and not (frames.min() >= 0 and frames.max() < index.n_frames):
            raise ConfigError("no such frame", where=index.split, got=frames.max(), wanted=f"0 to {index.n_frames - 1}")
        self._tasks = _FrameTasks(np.array_split(frames, world)[rank], batch)
        self._builder = _FrameBuilder(index, crop)
        self._workers = workers

    def __len__(self) -> int:
        """Batches of this rank."""
        return self._tasks.span()[1]

    def __iter__(self) -> Iterator[FrameBatch]:
        loader: WorkerLoader[NDArray[np.int64], FrameBatch] = WorkerLoader(self._tasks, self._builder, self._workers)
        try:
            yield from loader
        finally:
            loader.close()
            self._builder.reader.close()
