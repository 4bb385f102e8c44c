"""Whether a video file is whole, by the sizes that its container states: no decoding, a few reads.

A decoder reads what it can of a file that was cut off, and says nothing. The containers know better: MP4 and QuickTime
are made of boxes, AVI of RIFF chunks, Matroska and WebM of EBML elements, and each begins with its size.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import BinaryIO

__all__ = ["codec_name", "truncation"]

_MP4_BEGINNINGS = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")
# Where the name of the codec stands: sample description of an MP4, stream header of an AVI, a string in Matroska.
_CODECS = (
    re.compile(rb"vmhd.{,400}?stsd.{12}(\w{4})", re.DOTALL),
    re.compile(rb"strh.{4}vids(\w{4})", re.DOTALL),
    re.compile(rb"V_([\w/]{2,30})"),
)
_HEADERS = 1 << 20  # bytes at the beginning and at the end of a file in which its headers are looked for
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


def truncation(path: Path) -> str | None:
    """What is missing of a video file; None if nothing is, or if its container is not one of these.

    Raises:
        OSError: the file cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(12)
        stream.seek(0)
        if head[4:8] in _MP4_BEGINNINGS:
            return _of_mp4(stream, size)
        if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
            return _of_avi(stream, size)
        if head[:4] == _EBML:
            return _of_matroska(stream, size)
    return None


def codec_name(path: Path) -> str | None:
    """What the container calls the codec of its video; None if that is not found.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as stream:
        data = stream.read(_HEADERS)
        stream.seek(max(path.stat().st_size - _HEADERS, len(data)))
        data += stream.read(_HEADERS)
    for pattern in _CODECS:
        if match := pattern.search(data):
            return match[1].decode("ascii")
    return None


def _missing(size: int, wanted: int) -> str | None:
    return f"it is cut off: {size} of {wanted} bytes are there" if size < wanted else None


def _of_mp4(stream: BinaryIO, size: int) -> str | None:
    at, kinds = 0, set()
    while at + 8 <= size:
        stream.seek(at)
        head = stream.read(16)
        length, header = int.from_bytes(head[:4], "big"), 8
        kinds.add(head[4:8])
        if length == 1:  # the size is a number of 64 bits behind the kind
            length, header = int.from_bytes(head[8:16], "big"), 16
        if length == 0:  # up to the end of the file
            break
        if length < header:
            return f"it is damaged: a box of {length} bytes at byte {at}"
        at += length
        if at > size:
            return _missing(size, at)
    return None if b"moov" in kinds else "it is cut off: it has no index (moov)"


def _of_avi(stream: BinaryIO, size: int) -> str | None:
    at = 0
    while at + 8 <= size:
        stream.seek(at)
        head = stream.read(8)
        if head[:4] != b"RIFF":  # anything may follow
            break
        length = int.from_bytes(head[4:8], "little")
        if length == 0:
            return "it was never finished: its size is 0"
        at += 8 + length + length % 2
    return _missing(size, at - 1)  # the last byte may be missing padding


def _of_matroska(stream: BinaryIO, size: int) -> str | None:
    stream.seek(4)
    header = _number(stream)
    if header is None:
        return None
    stream.seek(stream.tell() + header)
    if stream.read(4) != _SEGMENT:
        return _missing(size, stream.tell() + 1) if stream.tell() >= size else None
    length = _number(stream)
    return None if length is None else _missing(size, stream.tell() + length)


def _number(stream: BinaryIO) -> int | None:
    """An EBML number: as many bytes as the first has leading zero bits, plus one; None = unknown (all ones)."""
    first = stream.read(1)
    if not first or not first[0]:
        return None
    extra = 8 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] & ((1 << (7 - extra)) - 1)]) + stream.read(extra), "big")
    return None if value == (1 << (7 * (extra + 1))) - 1 else value
