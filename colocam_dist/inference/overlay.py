"""The overlay video of a clip, drawn when its boxes are final.

What smooths boxes looks at a whole clip, so the video cannot be drawn while the network goes through it. Neither
pictures nor maps of a long clip fit into memory: pictures are decoded again, maps wait in a file.

Shape suffixes: S the side of a map.
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from colocam_dist.inference.rows import FramePrediction
from colocam_dist.inference.sources import Clip
from colocam_dist.report.overlays import draw_prediction
from colocam_dist.report.video import VideoFile

__all__ = ["MapStore", "draw_overlay"]


class MapStore:
    """Maps in [0, 1] of one clip, with eight bits a pixel, in a file without a name: it goes with the process.

    Args:
        folder: where there is room for them.
    """

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # closed on exit
        self._sizes: list[int] = []
        self._side = 0

    def __enter__(self) -> MapStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def append(self, map_SS: NDArray[np.float32]) -> None:
        """Add the next frame's map, float32 ``[S, S]``."""
        self._side = map_SS.shape[0]
        self._sizes.append(self._file.write(zlib.compress((map_SS * 255).round().astype(np.uint8).tobytes(), 1)))

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        """The maps from the first on."""
        self._file.seek(0)
        for size in self._sizes:
            gray = np.frombuffer(zlib.decompress(self._file.read(size)), np.uint8).reshape(self._side, self._side)
            yield gray.astype(np.float32) / np.float32(255)


def draw_overlay(
    path: Path,
    clip: Clip,
    rows: Sequence[FramePrediction],
    maps: Iterable[NDArray[np.float32]],
    before: Callable[[], None] | None = None,
) -> None:
    """Write a clip's frames with heat, boxes, class and score as mp4; `path` appears when it is whole.

    Args:
        path: of the video.
        clip: what was predicted on.
        rows: its boxes.
        maps: those of its frames.
        before: is called when the video is whole, before it takes its name.

    Raises:
        DataError: the clip cannot be read, or its frames cannot be encoded.
        RunError: the video cannot be written.
    """
    video = VideoFile(path, clip.rate())
    try:
        # A clip that was cut since has fewer frames now; whoever calls notices that it has changed.
        by_frame = (list(group) for _, group in groupby(rows, key=lambda row: row.frame))
        for picture_HWC, map_SS, group in zip(clip.frames(), maps, by_frame, strict=False):
            caption = f"{group[0].cls} {group[0].score:.2f}"
            video.write(draw_prediction(picture_HWC, map_SS, [row.box for row in group], caption))
        video.close(before)
    except BaseException:
        video.discard()
        raise
