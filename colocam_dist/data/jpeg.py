"""The header of a JPEG: its size and orientation without decoding it."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

__all__ = ["JpegHeader", "read_jpeg_header"]

_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_NO_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
_ORIENTATION_TAG = 0x0112


@dataclass(frozen=True)
class JpegHeader:
    """Size in pixels of the picture when it is held upright, and its EXIF orientation (1..8; 1 = stored upright)."""

    width: int
    height: int
    orientation: int


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
