"""Maps of whole shots: what methods need that look at more than one frame.

T frames of a shot, B and N frames of a batch, F frames of a split, H and W the map's size in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from colocam_dist.data.frame_stream import FrameStream
from colocam_dist.data.index import ShotIndex
from colocam_dist.inference.score import MapMaker, Scorer
from colocam_dist.inference.timeline import Timeline, color_histograms, frame_numbers, make_timeline

__all__ = ["ShotMaps", "each_shot", "frames_of_shots", "numbers_of_frames", "part_of_rank"]

Frames = NDArray[np.int64]


@dataclass(frozen=True)
class ShotMaps:
    """A shot's frames, or some of them, with their maps.

    Attributes:
        frames_T: int64 ``[T]``, frame ids within the split.
        timeline: when they were taken.
        maps_THW: float32 ``[T, H, W]`` in [0, 1].
        predicted_T: int64 ``[T]``, the classifier's answers.
    """

    frames_T: Frames
    timeline: Timeline
    maps_THW: NDArray[np.float32]
    predicted_T: NDArray[np.int64]


def frames_of_shots(index: ShotIndex, frames: Frames) -> Frames:
    """All frames of the shots to which `frames` belong, ascending."""
    shots = [index.shots[shot] for shot in np.unique(index.frame_shot[frames]).tolist()]
    return np.concatenate([np.arange(shot.first_frame, shot.first_frame + shot.n_frames) for shot in shots])


def numbers_of_frames(index: ShotIndex, frames: Frames) -> Frames:
    """The number of each frame in its video, by the names of all frames of its shot."""
    numbers: dict[int, int] = {}
    for shot in np.unique(index.frame_shot[frames]).tolist():
        first, count = index.shots[shot].first_frame, index.shots[shot].n_frames
        ids = range(first, first + count)
        numbers.update(zip(ids, frame_numbers(index.frame_name[first : first + count].tolist()).tolist(), strict=True))
    return np.array([numbers[frame] for frame in frames.tolist()], np.int64)


def part_of_rank(index: ShotIndex, frames: Frames, rank: int, world: int) -> Frames:
    """The frames of one rank: contiguous, of whole shots, as near to an equal share as shots allow.

    Args:
        index: the split.
        frames: int64 ``[F]``, ascending.
        rank: this rank.
        world: number of ranks.
    """
    shots_F = index.frame_shot[frames]
    starts = np.flatnonzero(np.diff(shots_F, prepend=-1))
    wanted = np.arange(world + 1) * len(frames) / world
    borders = [*starts.tolist(), len(frames)]
    first, last = (min(borders, key=lambda border: abs(border - place)) for place in wanted[rank : rank + 2].tolist())
    return frames[first:last]


def each_shot(
    scorer: Scorer, model: torch.nn.Module, maps: MapMaker, frames: Frames, *, cut: float = 0.0
) -> Iterator[ShotMaps]:
    """The shots of this rank's part of `frames`, in order; ends early when this rank is asked to stop.

    A shot's maps are in memory together: 4 bytes a pixel, 0.2 MB for each frame of 224 x 224 pixels.

    Args:
        scorer: says the split, sizes and ranks.
        model: makes the maps; it is put in eval mode on the device.
        maps: how.
        frames: int64 ``[F]``, ascending, those of all ranks.
        cut: as for :func:`make_timeline`; 0 looks for no cuts.
    """
    index, workers, config = scorer.index, scorer.workers, scorer.config
    model.to(workers.device).eval()
    mine = part_of_rank(index, frames, workers.rank, workers.world)
    if not len(mine):
        return
    numbers_of = dict(zip(mine.tolist(), numbers_of_frames(index, mine).tolist(), strict=True))
    stream = FrameStream(
        index, mine, crop=config.data.crop, batch=config.evaluation.batch, workers=min(1, config.data.workers)
    )
    left = _counts(index.frame_shot[mine])
    kept: list[tuple[int, NDArray[np.float32], int, NDArray[np.float32] | None]] = []
    hidden = None if workers.is_main else True
    with torch.inference_mode():
        for batch in tqdm(stream, desc=f"shots of {index.split}", unit="batch", leave=False, disable=hidden):
            workers.progress.tick()
            if workers.progress.stop_reason() is not None:
                return
            maps_BHW, logits_BK = maps(batch.images_NCHW.to(workers.device), scorer.model_labels(batch.labels_N))
            colors_BN = color_histograms(batch.images_NCHW.numpy()) if cut else [None] * len(batch.labels_N)
            rows = zip(
                batch.frame_ids_N.tolist(),
                maps_BHW.float().cpu().numpy(),
                logits_BK.argmax(1).tolist(),
                colors_BN,
                strict=True,
            )
            for row in rows:
                kept.append(row)
                if len(kept) == left[0]:
                    yield _together(kept, numbers_of, cut)
                    kept, left = [], left[1:]


def _counts(shots_F: NDArray[np.int32]) -> list[int]:
    """The number of frames of each shot, in order."""
    starts = np.flatnonzero(np.diff(shots_F, prepend=-1))
    return np.diff([*starts, len(shots_F)]).tolist()


def _together(
    kept: list[tuple[int, NDArray[np.float32], int, NDArray[np.float32] | None]], numbers_of: dict[int, int], cut: float
) -> ShotMaps:
    frames, maps, predicted, colors = zip(*kept, strict=True)
    numbers_T = np.array([numbers_of[frame] for frame in frames], np.int64)
    timeline = make_timeline(numbers_T, np.stack(colors) if cut else None, cut)
    return ShotMaps(np.array(frames, np.int64), timeline, np.stack(maps), np.array(predicted, np.int64))
