"""Videos whose frames show their numbers, and what the reader makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from shards.images import PictureRule
from shards.sources.video_unit import VideoOptions
from shards.sources.videos import read_videos

RULE = PictureRule(360, 320, 95)
WIDTH, HEIGHT = 96, 64


def write_video(path: Path, images: Sequence[np.ndarray]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = images[0].shape[:2]
    codec = {".mp4": "mp4v", ".avi": "MJPG", ".mkv": "mp4v"}[path.suffix]
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), 10, (width, height))
    for image in images:
        writer.write(image)
    writer.release()
    return path


def stamped(count: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> list[np.ndarray]:
    """Gray frames on which their number stands as 8 black or white bars."""
    images = []
    for number in range(count):
        image = np.full((size[1], size[0], 3), 128, np.uint8)
        for bit in range(8):
            image[:, bit * size[0] // 8 : (bit + 1) * size[0] // 8 - 2] = 235 if number >> bit & 1 else 20
        images.append(image)
    return images


def number_on(jpeg: bytes) -> int:
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_GRAYSCALE)
    width = image.shape[1]
    bars = [image[:, bit * width // 8 + 2 : (bit + 1) * width // 8 - 4].mean() > 128 for bit in range(8)]
    return sum(int(bar) << bit for bit, bar in enumerate(bars))


def frames_of(place: Path, options: VideoOptions, **facts: str) -> list[Any]:
    (unit,) = (u for u in read_videos(place, RULE, options).units if all(getattr(u, k) == v for k, v in facts.items()))
    warnings: list[str] = []
    frames = list(unit.frames(RULE, warnings.append))
    return [frames, warnings]


NONE = VideoOptions(cuts="none")
STRICT = VideoOptions(cuts="none", strict=True, fractions={"train": 1.0})
