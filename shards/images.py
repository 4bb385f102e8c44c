"""JPEG bytes of frames: how they are stored.

Bytes of the source are kept as they are wherever possible. They are decoded and encoded again only to make a frame
smaller, or to bake in an EXIF orientation: OpenCV obeys that tag, other libraries do not, and boxes would not match.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

import cv2
import numpy as np
from numpy.typing import NDArray

from colocam_dist.data.jpeg import read_jpeg_header

__all__ = ["PictureRule", "StoredPicture", "decodes"]

# The pool of processes is the parallelism; threads of OpenCV would only fight it for the cores.
cv2.setNumThreads(0)


@dataclass(frozen=True)
class StoredPicture:
    """JPEG bytes as they go into the shard, and their size in pixels."""

    jpeg: bytes
    width: int
    height: int


def decodes(jpeg: bytes) -> bool:
    """Whether OpenCV can make a picture of these bytes; damage inside the picture may still go unseen."""
    return _decode(jpeg, cv2.IMREAD_COLOR) is not None


@dataclass(frozen=True)
class PictureRule:
    """How frames are stored.

    Attributes:
        keep_up_to: frames whose short side is longer than this (pixels) are made smaller; 0 = none are.
        short_side: short side of the frames that are made smaller, in pixels.
        quality: JPEG quality of frames that are encoded, 1..100.
    """

    keep_up_to: int
    short_side: int
    quality: int

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height under which a frame of this size is stored."""
        short = min(width, height)
        if not self.keep_up_to or short <= self.keep_up_to:
            return width, height
        return round(width * self.short_side / short), round(height * self.short_side / short)

    def keep(self, jpeg: bytes) -> StoredPicture:
        """Store a JPEG: the bytes themselves unless the frame has to be turned upright or made smaller.

        Raises:
            ValueError: not a JPEG that can be decoded.
        """
        header = read_jpeg_header(BytesIO(jpeg))
        image = _decode(jpeg, cv2.IMREAD_COLOR)
        if image is None:
            raise ValueError("a JPEG that cannot be decoded")
        if header.orientation == 1 and self.size(header.width, header.height) == (header.width, header.height):
            return StoredPicture(jpeg, header.width, header.height)
        return self.encode(image)

    def encode(self, image_BGR: NDArray[np.uint8]) -> StoredPicture:
        """Store decoded pixels: uint8 BGR [H, W, 3]."""
        height, width = image_BGR.shape[:2]
        size = self.size(width, height)
        if size != (width, height):
            image_BGR = cv2.resize(image_BGR, size, interpolation=cv2.INTER_AREA)
        done, data = cv2.imencode(".jpg", image_BGR, [cv2.IMWRITE_JPEG_QUALITY, self.quality])
        if not done:
            raise ValueError(f"OpenCV cannot encode a frame of {width} x {height} pixels")
        return StoredPicture(data.tobytes(), *size)


def _decode(jpeg: bytes, flags: int) -> NDArray[np.uint8] | None:
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), flags) if jpeg else None
