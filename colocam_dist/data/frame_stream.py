"""The evaluation stream: given frames in their order, whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from colocam_dist.data.batch import FrameBatch
from colocam_dist.data.frames import BadFrame, FrameReader, eval_frame
from colocam_dist.data.plan import Place
from colocam_dist.data.workers import Tasks, WorkerLoader
from colocam_dist.errors import ConfigError

if TYPE_CHECKING:
    from colocam_dist.data.index import ShotIndex

__all__ = ["FrameBatch", "FrameStream"]


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

    def __init__(self, index: ShotIndex, crop: int, let_pass: bool) -> None:
        self.reader = FrameReader(index)
        self._labels = index.shots.label.astype(np.int64)
        self._shot = index.frame_shot
        self._crop = crop
        self._let_pass = let_pass

    def __call__(self, frames: NDArray[np.int64]) -> FrameBatch:
        images_NCHW = torch.empty((len(frames), 3, self._crop, self._crop), dtype=torch.uint8)
        valid_N = torch.ones(len(frames), dtype=torch.bool)
        for place, frame in enumerate(frames.tolist()):
            try:
                eval_frame(self.reader.read(frame, short_side=self._crop), self._crop, out=images_NCHW[place].numpy())
            except BadFrame:
                if not self._let_pass:
                    raise
                images_NCHW[place] = 0
                valid_N[place] = False
        labels_N = torch.from_numpy(self._labels[self._shot[frames]])
        return FrameBatch(images_NCHW, torch.from_numpy(frames), labels_N, valid_N)


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
        damaged: what a damaged frame does: "error", for an evaluation must not leave out frames; or "pass", as a black
            picture with a False in ``valid_N``.

    Raises:
        ConfigError: a number out of range.
        DataError: while iterating: a damaged frame.
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
        damaged: Literal["error", "pass"] = "error",
    ) -> None:
        Place(rank, world)
        if crop < 1 or batch < 1:
            raise ConfigError("bad size", where="evaluation", got=f"crop {crop}, batch {batch}", wanted="1 or more")
        frames = np.asarray(frames, np.int64)
        if frames.size and not (frames.min() >= 0 and frames.max() < index.n_frames):
            raise ConfigError("no such frame", where=index.split, got=frames.max(), wanted=f"0 to {index.n_frames - 1}")
        self._tasks = _FrameTasks(np.array_split(frames, world)[rank], batch)
        self._builder = _FrameBuilder(index, crop, damaged == "pass")
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
