"""An mp4 that appears under its name only when it is whole."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from colocam_dist.errors import DataError, RunError

__all__ = ["VideoFile"]


class VideoFile:
    """Writes frames of one size as mp4 (MPEG-4 part 2, which every OpenCV wheel can encode).

    Args:
        path: final name; written beside it under a temporary one.
        rate: frames per second.
    """

    def __init__(self, path: Path, rate: float) -> None:
        self.path = path
        self.rate = rate
        self._temporary = path.with_name(f".{path.stem}.{os.getpid()}.mp4")
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def write(self, image_HWC: NDArray[np.uint8]) -> None:
        """Append a uint8 RGB frame ``[H, W, 3]``; odd sides lose their last row or column, which the codec needs.

        Raises:
            RunError: the file cannot be written.
            DataError: a frame of another size than the first.
        """
        height, width = (side - side % 2 for side in image_HWC.shape[:2])
        if self._writer is None:
            self._size = (width, height)
            self._writer = cv2.VideoWriter(str(self._temporary), cv2.VideoWriter.fourcc(*"mp4v"), self.rate, self._size)
            if not self._writer.isOpened():
                self.discard()
                raise RunError(
                    "video cannot be written",
                    where=self.path,
                    got=f"{width} x {height} at {self.rate:g} frames/s",
                    fix="check that the folder is writable; python launchers/doctor.py tests the codec",
                )
        if (width, height) != self._size:
            raise DataError(
                "a video's frames must have one size",
                where=self.path,
                got=f"{width} x {height}",
                wanted="{} x {}".format(*self._size),
                fix="scale the frames to one size, or give them as separate clips",
            )
        self._writer.write(cv2.cvtColor(image_HWC[:height, :width], cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Finish the file and give it its name.

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
            self._temporary.replace(self.path)
        except OSError as error:
            self.discard()
            raise RunError("video cannot be finished", where=self.path, got=error.strerror) from None

    def discard(self) -> None:
        """Give up: nothing stays, an older file of the same name is left alone."""
        if self._writer is not None:
            self._writer.release()
            self._writer = None
        self._temporary.unlink(missing_ok=True)
