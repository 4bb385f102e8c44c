"""Whether a video file is whole, by the sizes that its container states: no decoding, a few reads.

A decoder reads what it can of a file that was cut off, and says nothing. The containers know better: MP4 and QuickTime
are made of boxes, AVI of RIFF chunks, Matroska and WebM of EBML elements, and each begins with its size. Sizes are only
ever compared and sought, never allocated: those of a damaged file may be anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["codec_name", "truncation"]

_MP4_BEGINNINGS = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")
# Where the name of the codec stands: sample description of an MP4, stream format of an AVI, a string in Matroska.
_CODECS = (
    re.compile(rb"vmhd.{,400}?stsd.{12}([!-~][ -~]{3})", re.DOTALL),
    re.compile(rb"strh.{4}vids.{,80}?strf.{20}([!-~][ -~]{3})", re.DOTALL),
    re.compile(rb"V_([A-Z][A-Z0-9/._]{2,30})"),
)
_HEADERS = 1 << 20  # bytes of a file's beginning, and of its index, in which the codec is looked for
_MOST_BOXES = 1 << 20  # no video has as many; reading those of a damaged file could take hours
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


def truncation(path: Path) -> str | None:
    """What is missing of a video file; None if nothing is, or if its container is not one of these.

    Raises:
        OSError: the file cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(12)
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
    size = path.stat().st_size
    with path.open("rb") as stream:
        data = stream.read(_HEADERS)
        if data[4:8] in _MP4_BEGINNINGS:  # their index is often the last box
            index = next((at for at, kind, _ in _boxes(stream, size) if kind == b"moov"), 0)
            stream.seek(index)
            data = stream.read(_HEADERS)
    for pattern in _CODECS:
        if match := pattern.search(data):
            return match[1].decode("ascii").strip()
    return None


def _missing(size: int, wanted: int) -> str | None:
    return f"it is cut off: {size} of {wanted} bytes are there" if size < wanted else None


def _boxes(stream: BinaryIO, size: int) -> Iterator[tuple[int, bytes, int | None]]:
    """Where the outer boxes of an MP4 begin, their kinds, and where they end: None if the size is impossible.

    The walk stops at what is no box, or beyond the end of the file.
    """
    at: int | None = 0
    for _ in range(_MOST_BOXES):
        if at is None or at >= size:
            return
        stream.seek(at)
        head = stream.read(16)
        kind, length, header = head[4:8], int.from_bytes(head[:4], "big"), 8
        if len(kind) < 4 or not all(32 <= byte < 127 or byte == 0xA9 for byte in kind):  # anything may follow the boxes
            return
        if length == 0:  # up to the end of the file
            length = size - at
        elif length == 1:  # the size is a number of 64 bits behind the kind, if that is still there
            length, header = int.from_bytes(head[8:], "big") if len(head) == 16 else 16, 16
        end = at + length if length >= header else None
        yield at, kind, end
        at = end


def _of_mp4(stream: BinaryIO, size: int) -> str | None:
    has_index = False
    for at, kind, end in _boxes(stream, size):
        if end is None:
            return f"it is damaged: the box at byte {at} is shorter than its own header"
        if end > size:
            return _missing(size, end)
        has_index |= kind == b"moov"
    return None if has_index else "it is cut off: it has no index (moov)"


def _of_avi(stream: BinaryIO, size: int) -> str | None:
    """Files above 1 GB or so are several RIFF chunks in a row (OpenDML)."""
    at = end = 0
    for _ in range(_MOST_BOXES):
        stream.seek(at)
        head = stream.read(8)
        if len(head) < 8 or head[:4] != b"RIFF":  # anything may follow
            break
        length = int.from_bytes(head[4:], "little")
        if length in (0, 0xFFFFFFFF):
            return "it was never finished: its size is not stated"
        end = at + 8 + length
        at = end + length % 2  # padding, which may be missing at the end
    return _missing(size, end)


def _of_matroska(stream: BinaryIO, size: int) -> str | None:
    stream.seek(len(_EBML))
    header = _number(stream)
    if header is None:
        return None
    start = stream.tell() + header
    if start + len(_SEGMENT) >= size:
        return _missing(size, start + len(_SEGMENT) + 1)
    stream.seek(start)
    if stream.read(len(_SEGMENT)) != _SEGMENT:
        return None
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
