"""JPEG bytes of frames: their size without decoding, and how they are stored.

Bytes of the source are kept as they are wherever possible. They are decoded and encoded again only to make a frame
smaller, or to bake in an EXIF orientation: OpenCV obeys that tag, other libraries do not, and boxes would not match.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["JpegHeader", "PictureRule", "StoredPicture", "decodes", "read_jpeg_header"]

# The pool of processes is the parallelism; threads of OpenCV would only fight it for the cores.
cv2.setNumThreads(0)

_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_NO_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
_ORIENTATION_TAG = 0x0112


@dataclass(frozen=True)
class JpegHeader:
    """Size in pixels of the picture when it is held upright, and its EXIF orientation (1..8; 1 = stored upright)."""

    width: int
    height: int
    orientation: int


@dataclass(frozen=True)
class StoredPicture:
    """JPEG bytes as they go into the shard, and their size in pixels."""

    jpeg: bytes
    width: int
    height: int


def read_jpeg_header(stream: BinaryIO) -> JpegHeader:
    """Walk the segments of a JPEG up to its size, reading a few hundred bytes.

    Raises:
        ValueError: not a JPEG, or cut off before its size.
    """
    if stream.read(2) != b"\xff\xd8":
        raise ValueError("not a JPEG picture")
    orientation = 1
    while True:
        marker = _next_marker(stream)
        if marker in _NO_LENGTH:
            continue
        head = stream.read(2)
        if len(head) < 2 or marker == 0xD9:
            raise ValueError("a JPEG that ends before its size")
        length = int.from_bytes(head, "big") - 2
        if marker in _START_OF_FRAME:
            body = stream.read(5)
            if len(body) < 5:
                raise ValueError("a JPEG that ends before its size")
            height, width = struct.unpack(">HH", body[1:])
            if not width or not height:
                raise ValueError("a JPEG without a size")
            return JpegHeader(height, width, orientation) if orientation > 4 else JpegHeader(width, height, orientation)
        body = stream.read(length)
        if marker == 0xE1 and body.startswith(b"Exif\0\0"):
            orientation = _orientation(body[6:])


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


def _next_marker(stream: BinaryIO) -> int:
    byte = stream.read(1)
    if byte != b"\xff":
        raise ValueError("a JPEG that ends before its size" if not byte else "a JPEG with a damaged header")
    while byte == b"\xff":  # any number of fill bytes may precede a marker
        byte = stream.read(1)
    if not byte:
        raise ValueError("a JPEG that ends before its size")
    return byte[0]


def _orientation(tiff: bytes) -> int:
    """The orientation tag of the first directory of an EXIF block; 1 if there is none or it makes no sense."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or len(tiff) < 8:
        return 1
    (start,) = struct.unpack(order + "I", tiff[4:8])
    entries = tiff[start + 2 :]
    count = int.from_bytes(tiff[start : start + 2], "little" if order == "<" else "big")
    for entry in (entries[12 * i : 12 * i + 12] for i in range(min(count, len(entries) // 12))):
        tag, kind, _, value = struct.unpack(order + "HHIH2x", entry)
        if tag == _ORIENTATION_TAG and kind == 3 and 1 <= value <= 8:
            return int(value)
    return 1
