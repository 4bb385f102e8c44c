"""An mp4 that appears under its name only when it is whole."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from colocam_dist.errors import DataError, RunError

__all__ = ["VideoFile"]

LONGEST_SIDE = 4096  # pixels; the codec ends at 8191, many players before that


class VideoFile:
    """Writes frames of one size as mp4 (MPEG-4 part 2, which every OpenCV wheel can encode).

    Args:
        path: final name; written beside it under a temporary one.
        rate: frames per second, 0.1 to 240.
    """

    def __init__(self, path: Path, rate: float) -> None:
        self.path = path
        # MPEG-4 has 16 bits for the parts of a second; OpenCV takes thousandths unless there is a common divisor.
        self.rate = rate if rate < 65.0 else round(rate, 2)
        self._temporary = path.with_name(f".{path.stem}.{os.getpid()}.mp4")
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def write(self, image_HWC: NDArray[np.uint8]) -> None:
        """Append a uint8 RGB frame ``[H, W, 3]``.

        Frames with a side above 4096 pixels are scaled down; odd sides lose their last row or column, which the codec
        needs.

        Raises:
            RunError: the file cannot be written.
            DataError: a frame of another size than the first, or one that the codec does not take.
        """
        longest = max(image_HWC.shape[:2])
        height, width = (side * min(longest, LONGEST_SIDE) // longest // 2 * 2 for side in image_HWC.shape[:2])
        if self._writer is None:
            self._size = (width, height)
            self._writer = self._opened()
        if (width, height) != self._size:
            raise DataError(
                "a video's frames must have one size",
                where=self.path,
                got=f"{width} x {height}",
                wanted="{} x {}".format(*self._size),
                fix="scale the frames to one size, or give them as separate clips",
            )
        if longest > LONGEST_SIDE:
            image_HWC = cv2.resize(image_HWC, self._size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        self._writer.write(cv2.cvtColor(image_HWC[:height, :width], cv2.COLOR_RGB2BGR))

    def close(self, before: Callable[[], None] | None = None) -> None:
        """Finish the file and give it its name.

        Args:
            before: is called when the file is whole, before it takes its name; if it raises, that does not happen.

        Raises:
            RunError: no frame was written, or the file could not be finished; nothing stays then.
        """
        if self._writer is None:
            raise RunError("a video needs at least one frame", where=self.path)
        self._writer.release()
        self._writer = None
        try:
            with self._temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            if before is not None:
                before()
            self._temporary.replace(self.path)
        except OSError as error:
            self.discard()
            raise RunError("video cannot be finished", where=self.path, got=error.strerror) from None

    def _opened(self) -> cv2.VideoWriter:
        """The writer, whose errors do not say whether folder or frames are to blame: so the folder is tried first."""
        try:
            self._temporary.touch()
        except OSError as error:
            raise RunError(
                "video cannot be written", where=self.path, got=error.strerror, fix="check that the folder is writable"
            ) from None
        writer = cv2.VideoWriter(str(self._temporary), cv2.VideoWriter.fourcc(*"mp4v"), self.rate, self._size)
        if not writer.isOpened():
            self.discard()
            raise DataError(
                "frames cannot be encoded as a video",
                where=self.path,
                got="{} x {} pixels at {:g} frames/s".format(*self._size, self.rate),
                wanted="at least 2 pixels on each side",
                fix="go without a video (--no-video); python launchers/doctor.py tests the codec",
            )
        return writer

    def discard(self) -> None:
        """Give up: nothing stays, an older file of the same name is left alone."""
        if self._writer is not None:
            self._writer.release()
            self._writer = None
        self._temporary.unlink(missing_ok=True)
