"""From positions in the plan to pixels: builds the micro-batches of the training stream and deals with damaged frames.

A damaged frame is replaced by the nearest undamaged one of the same window (with its CAM and id, but a crop of its own)
and its mask is False. A shot whose window has no undamaged frame is replaced by the next one in plan order, with the
window that this one has in this epoch. Neither changes the number or the size of batches. Every process stops with a
DataError once

    damaged > max_bad x max(tried, 250 x n_frames)

over the different frames that it tried to read since its pass over the epoch began: at the default of 1 % it forgives
the frames of two windows at the start, and with ``max_bad=0`` nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from colocam_dist.data.batch import WindowBatch
from colocam_dist.data.frames import BadFrame, FrameReader, augment
from colocam_dist.data.order import Windows
from colocam_dist.data.plan import Plan
from colocam_dist.data.rng import generator
from colocam_dist.data.windows import Rules, Scheme, allowed, choose, window_lengths
from colocam_dist.errors import ConfigError, DataError

if TYPE_CHECKING:
    from colocam_dist.data.index import ShotIndex

__all__ = ["MicroTask", "WindowBuilder", "WindowSettings", "open_cams", "temporal_cams"]

_MIN_WINDOWS = 250
_NAMED = 20


@dataclass(frozen=True)
class WindowSettings:
    """How windows are drawn and frames are transformed.

    Args:
        n_frames: frames of a window, >= 1.
        sampling: "adjacent", "interval" or "gaussian" (see :func:`colocam_dist.data.windows.choose`).
        central_fraction: central part of a shot that is used, in (0, 1].
        resize: frames are first resized to a square of this side, pixels.
        crop: side of the random crop, pixels, <= resize.
        flip: mirror half of the frames.
        max_bad: fraction of damaged frames above which reading stops, in [0, 1]; exact rule at the head of the module.
        rules: "full" or "published" (see :mod:`colocam_dist.data.windows`).
        temporal_frames: archived CAMs that make the one of a frame, >= 1 (see :func:`temporal_cams`).

    Raises:
        ConfigError: a setting out of range.
    """

    n_frames: int
    sampling: Scheme
    central_fraction: float
    resize: int
    crop: int
    flip: bool
    max_bad: float = 0.01
    rules: Rules = "full"
    temporal_frames: int = 1

    def __post_init__(self) -> None:
        if self.n_frames < 1:
            raise ConfigError("a window needs frames", where="n_frames", got=self.n_frames, wanted="1 or more")
        if self.sampling not in get_args(Scheme):
            wanted = ", ".join(get_args(Scheme))
            raise ConfigError("unknown way to sample a window", where="sampling", got=self.sampling, wanted=wanted)
        if self.rules not in get_args(Rules):
            raise ConfigError("unknown rules for windows", where="rules", got=self.rules, wanted="full or published")
        allowed(1, self.central_fraction)
        if not 1 <= self.crop <= self.resize:
            raise ConfigError("bad size of the crop", where="crop", got=self.crop, wanted=f"1 to resize={self.resize}")
        if self.temporal_frames < 1:
            got = self.temporal_frames
            raise ConfigError("a frame needs a CAM", where="temporal_frames", got=got, wanted="1 or more")
        if not 0 <= self.max_bad <= 1:
            raise ConfigError("bad fraction of damaged frames", where="max_bad", got=self.max_bad, wanted="in [0, 1]")


@dataclass(frozen=True)
class MicroTask:
    """What one micro-batch is made of: positions int64 [W] in the order of ``epoch``; ``first`` restarts the counts.

    ``soon`` are positions of this rank's next micro-batches, whose shards may be fetched meanwhile.
    """

    epoch: int
    positions: NDArray[np.int64]
    first: bool
    soon: NDArray[np.int64] | None = None


def open_cams(path: Path, n_frames: int) -> NDArray[np.float16]:
    """Archived CAMs as a memory map: float16 [n_frames, h, w], one map per frame id.

    Raises:
        DataError: no such file, or not the archive of this split.
    """
    try:
        cams = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError("the CAM archive cannot be opened", where=path, got=error, fix="extract the CAMs") from error
    if cams.dtype != np.float16 or cams.ndim != 3 or len(cams) != n_frames:
        raise DataError(
            "the CAM archive does not belong to these shards",
            where=path,
            got=f"{cams.dtype} {cams.shape}",
            wanted=f"float16 ({n_frames}, h, w)",
            fix="extract the CAMs from these shards",
        )
    return cams


def temporal_cams(
    cams_Fhw: NDArray[np.float16], frames_WN: NDArray[np.int64], first_W: NDArray[np.int64], n: int
) -> NDArray[np.float16]:
    """Maximum over the CAMs of each frame and of the n - 1 frames before it in its shot, pixel by pixel (TCAM).

    The maps are those of whole frames and are not stretched again afterwards (TCAM's public code). Near the start of a
    shot there are fewer than n; a frame that was damaged when the archive was made has a map of zeros, which never is
    the maximum.

    Args:
        cams_Fhw: archived maps by frame id, in [0, 1].
        frames_WN: frame ids.
        first_W: id of the first frame of each window's shot.
        n: maps of a frame, its own included, >= 1; with 1 the result is its own map.

    Returns:
        float16 [W, N, h, w] in [0, 1].
    """
    made_WNhw = cams_Fhw[frames_WN]
    for back in range(1, n):
        # At the start of the shot its first frame is taken again, which changes no maximum.
        np.maximum(made_WNhw, cams_Fhw[np.maximum(frames_WN - back, first_W[:, None])], out=made_WNhw)
    return made_WNhw


@dataclass
class _Tally:
    """Frames tried and damaged in this process since its pass began."""

    tried: int = 0
    damaged: list[BadFrame] = field(default_factory=list)

    def check(self, max_bad: float, n_frames: int) -> None:
        floor = _MIN_WINDOWS * n_frames
        if len(self.damaged) <= max_bad * max(self.tried, floor):
            return
        named = [f"{bad.where}: {bad.what.removeprefix('a frame is damaged: ')}" for bad in self.damaged[:_NAMED]]
        more = len(self.damaged) - len(named)
        raise DataError(
            "too many frames are damaged",
            where="\n    " + "\n    ".join(named + ([f"and {more} more"] if more else [])),
            got=f"{len(self.damaged)} damaged of {self.tried} frames tried by this process in this pass",
            wanted=f"at most {max_bad:.2%} of the frames tried (counted as {floor} at least)",
            fix="verify the shards and write the damaged ones again from their source, or raise max_bad",
        )


class WindowBuilder:
    """Builds micro-batches; sent to the workers by pickle, so it holds a few columns of the index and opens files late.

    Args:
        index: the split's shots and frames.
        plan: order of the windows.
        settings: windows and transform.
        cams: CAM archive of the split, float16 .npy [F, h, w], or None.

    Raises:
        DataError: the archive is missing or belongs to other shards.
    """

    def __init__(self, index: ShotIndex, plan: Plan, settings: WindowSettings, cams: Path | None = None) -> None:
        self._plan = plan
        self._settings = settings
        self._reader = FrameReader(index)
        self._first_frame = index.shots.first_frame
        self._n_frames = index.shots.n_frames
        self._labels = index.shots.label
        self._shard = index.shots.shard
        self._all_frames = index.n_frames
        self._cams_path = cams
        self._cams: NDArray[np.float16] | None = None
        self._tally = _Tally()
        if cams is not None:
            open_cams(cams, index.n_frames)  # fail now, not in a worker

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_cams": None}  # a memory map would be pickled as the whole file

    def close(self) -> None:
        """Close the files that this process has open."""
        self._reader.close()
        self._cams = None

    def __call__(self, task: MicroTask) -> WindowBatch:
        """Read one micro-batch.

        Raises:
            DataError: too many damaged frames, naming them.
        """
        if task.first:
            self._tally = _Tally()
        if task.soon is not None:
            self._reader.fetch_soon(np.unique(self._shard[self._plan.windows_at(task.epoch, task.soon).shots]))
        w, n, crop = len(task.positions), self._settings.n_frames, self._settings.crop
        batch = WindowBatch(
            images_WNCHW=torch.empty((w, n, 3, crop, crop), dtype=torch.uint8),
            mask_WN=torch.empty((w, n), dtype=torch.bool),
            labels_W=torch.empty(w, dtype=torch.int64),
            crops_WN3=torch.empty((w, n, 3), dtype=torch.int32),
            frame_ids_WN=torch.empty((w, n), dtype=torch.int64),
            shot_ids_W=torch.empty(w, dtype=torch.int64),
            substituted_W=torch.zeros(w, dtype=torch.bool),
            cams_WNhw=None,
            replaced=0,
            skipped_shots=0,
        )
        for place, position in enumerate(task.positions):
            self._fill(batch, place, task.epoch, int(position))
        if self._cams_path is not None:
            if self._cams is None:
                self._cams = open_cams(self._cams_path, self._all_frames)
            first_W = self._first_frame[batch.shot_ids_W.numpy()]
            frames_WN = batch.frame_ids_WN.numpy()
            batch.cams_WNhw = torch.from_numpy(
                temporal_cams(self._cams, frames_WN, first_W, self._settings.temporal_frames)
            )
        return batch

    def promised(self, windows: Windows) -> NDArray[np.int64]:
        """Different frames that each of these windows has, read or not: int64 [W]."""
        settings = self._settings
        if settings.rules == "full":
            return window_lengths(self._n_frames[windows.shots], settings.n_frames, settings.central_fraction)
        pairs = zip(windows.shots.tolist(), windows.passes.tolist(), strict=True)
        return np.array([self._draw(shot, number)[1].sum() for shot, number in pairs], np.int64)

    def _draw(self, shot: int, number: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Frames and mask of the window that ``shot`` has in pass ``number`` of its pool."""
        settings = self._settings
        return choose(
            int(self._n_frames[shot]),
            settings.n_frames,
            settings.sampling,
            generator(self._plan.order.seed, number, shot, "window"),
            central_fraction=settings.central_fraction,
            rules=settings.rules,
        )

    def _fill(self, batch: WindowBatch, place: int, epoch: int, position: int) -> None:
        for step in range(self._plan.n_windows):
            shots, passes = self._plan.windows_at(epoch, np.array([position + step]))
            replaced = self._fill_from(batch, place, int(shots[0]), int(passes[0]))
            if replaced is not None:
                batch.substituted_W[place] = step > 0
                batch.replaced += replaced if step == 0 else 0
                return
            batch.skipped_shots += 1
        raise DataError("no shot of the split can be read", got="every frame that was tried is damaged")

    def _fill_from(self, batch: WindowBatch, place: int, shot: int, number: int) -> int | None:
        """Put the window that ``shot`` has in pass ``number`` in its place.

        Returns:
            How many damaged frames were replaced in it; None if none of its frames can be read.
        """
        settings, seed = self._settings, self._plan.order.seed
        positions, mask = self._draw(shot, number)
        images = self._read(positions[mask] + self._first_frame[shot])
        good = np.array(sorted(images), np.int64)
        if not len(good):
            return None
        rng = generator(seed, number, shot, "crop")
        pixels, crops = batch.images_WNCHW[place].numpy(), batch.crops_WN3[place].numpy()
        for k, wanted in enumerate((positions + self._first_frame[shot]).tolist()):
            frame = int(good[np.argmin(np.abs(good - wanted))])
            # Each frame has its own crop and mirroring (public code).
            _, crop = augment(
                images[frame], resize=settings.resize, crop=settings.crop, rng=rng, flip=settings.flip, out=pixels[k]
            )
            crops[k] = crop.top, crop.left, crop.flip
            batch.frame_ids_WN[place, k] = frame
            batch.mask_WN[place, k] = bool(mask[k]) and frame == wanted
        batch.labels_W[place] = int(self._labels[shot])
        batch.shot_ids_W[place] = shot
        return int(mask.sum()) - len(good)

    def _read(self, frames: NDArray[np.int64]) -> dict[int, NDArray[np.uint8]]:
        """The undamaged ones of ``frames`` by id."""
        images = {}
        for frame in frames.tolist():
            try:
                images[frame] = self._reader.read(frame, short_side=self._settings.resize)
            except BadFrame as error:
                self._tally.damaged.append(error)
        self._tally.tried += len(frames)
        if len(images) < len(frames):
            self._tally.check(self._settings.max_bad, self._settings.n_frames)
        return images
