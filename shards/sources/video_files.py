"""One video file: what it is, and its frames in order.

Videos are decoded from their first frame to their last, never by seeking: positions reached by seeking, and the frame
count in the header, are wrong for some files (variable frame rate, edit lists). A frame's number is its position in
this order, counted from 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from shards.sources.containers import codec_name, truncation

__all__ = ["VideoFacts", "decode", "decode_timed", "look_at"]


@dataclass(frozen=True)
class VideoFacts:
    """Size of the upright frames in pixels, and what the header claims: number of frames and frames per second."""

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


def look_at(path: Path) -> VideoFacts | str:
    """Decode the first frame; returns the facts, or why the video cannot be used."""
    if not path.is_file():
        return "no such file"
    if not path.stat().st_size:
        return "the file is empty"
    try:
        cut_off = truncation(path)
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    if cut_off:
        return cut_off
    capture = _open(path)
    try:
        there, image = capture.read()
        if not there:
            codec = codec_name(path)
            return f"its codec {codec} cannot be decoded here" if codec else "it is not a video that can be decoded"
        claimed = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        fps = capture.get(cv2.CAP_PROP_FPS)
        return VideoFacts(image.shape[1], image.shape[0], max(int(claimed), 0), float(fps))
    finally:
        capture.release()


def _open(path: Path) -> cv2.VideoCapture:
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)  # turns frames upright; the default, but a variable can change that
    return capture
