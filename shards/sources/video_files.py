"""One video file: what it is, and its frames in order.

Videos are decoded from their first frame to their last, never by seeking: positions reached by seeking, and the frame
count in the header, are wrong for some files (variable frame rate, edit lists). A frame's number is its position in
this order, counted from 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from colocam_dist.data.containers import codec_name, truncation

__all__ = ["VideoFacts", "decode", "decode_timed", "look_at"]

_FRAMES_TO_TIME = 16  # a container without times has none from its first frames on


@dataclass(frozen=True)
class VideoFacts:
    """Size of the upright frames in pixels, and what the header claims: number of frames and frames per second.

    0 frames, or 0 per second, if the header does not say.
    """

    width: int
    height: int
    frames: int
    fps: float


def decode(path: Path) -> Iterator[NDArray[np.uint8]]:
    """All frames of a video in order: uint8 BGR [H, W, 3], upright. Ends at the first frame that cannot be decoded."""
    return (image for image, _ in decode_timed(path))


def decode_timed(path: Path) -> Iterator[tuple[NDArray[np.uint8], float]]:
    """All frames in order with their times in seconds."""
    capture = _open(path)
    try:
        while True:
            there, image = capture.read()
            if not there:
                return
            yield image, capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
    finally:
        capture.release()


def look_at(path: Path, *, timed: bool = False) -> VideoFacts | str:
    """Decode the first frame; returns the facts, or why the video cannot be used.

    Args:
        path: of the video.
        timed: whether the frames are of use only with their times; the first few are then decoded to see them.
    """
    try:
        if not path.is_file():
            return "it is not a file" if path.exists() else "no such file"
        if not path.stat().st_size:
            return "the file is empty"
        return truncation(path) or _look_into(path, timed)
    except OSError as error:
        return f"it cannot be read ({error.strerror})"


def _look_into(path: Path, timed: bool) -> VideoFacts | str:
    capture = _open(path)
    try:
        there, image = capture.read()
        if not there:
            return _why_not(path, opened=capture.isOpened())
        times = [capture.get(cv2.CAP_PROP_POS_MSEC)]
        while timed and len(times) < _FRAMES_TO_TIME and capture.grab():
            times.append(capture.get(cv2.CAP_PROP_POS_MSEC))
        if len(times) > 1 and (times[0] == times[-1] or any(later < time for time, later in pairwise(times))):
            return "the times of its frames do not increase, and --fps needs them"
        claimed = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        fps = capture.get(cv2.CAP_PROP_FPS)
        return VideoFacts(
            width=image.shape[1],
            height=image.shape[0],
            frames=int(claimed) if math.isfinite(claimed) and claimed > 0 else 0,
            fps=float(fps) if math.isfinite(fps) and fps > 0 else 0.0,
        )
    finally:
        capture.release()


def _why_not(path: Path, *, opened: bool) -> str:
    """Why there is no first frame, by whether there is a decoder at all."""
    codec = codec_name(path)
    if opened:
        return f"its first frame cannot be decoded (codec {codec})" if codec else "its first frame cannot be decoded"
    return f"its codec {codec} cannot be decoded here" if codec else "it is not a video that can be decoded"


def _open(path: Path) -> cv2.VideoCapture:
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)  # turns frames upright; the default, but a variable can change that
    return capture
