"""Read a shard from front to back, holding it to the form in which it was written.

Not a reader for tars in general: a header that is not byte for byte what the writer would have made (a link, a device,
an absolute path, an extension record), padding that is not zero, a member out of order or bytes after the end are
errors. Names are compared, never used as paths.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from shards.tables import Tables
from shards.writer import member_header, piece_key

__all__ = ["Member", "read_shard"]

_BLOCK, _RECORD = 512, 10240
_JSON_LIMIT = 8 << 20  # bytes of the facts of a piece, which has at most 64 frames
_FRAME_LIMIT = 1 << 28  # bytes of a picture
_FRAMES_PER_PIECE = 64


@dataclass(frozen=True)
class Member:
    """A file in the tar: name, where its content begins, and its content."""

    name: str
    offset: int
    content: bytes


def read_shard(path: Path, tables: Tables) -> Iterator[tuple[Member, tuple[int, int]]]:
    """Every frame with the size in pixels that its piece claims, in order; fills ``tables`` on the way.

    Raises:
        ValueError: the shard is not in its form; says at which member.
    """
    with path.open("rb") as stream:
        members = _members(stream)
        position = 0
        for member in members:
            facts = _facts(member)
            key = facts["cls"], facts["video"], facts["shot"]
            name = piece_key(*key, facts["start"])
            if member.name != f"{name}.json":
                raise ValueError(f"member {member.name} describes {name}")
            if facts["start"] == 0:
                tables.add_shot(*key)
                position = 0
            elif facts["start"] != position or not tables.n_shots:
                raise ValueError(f"member {member.name} does not continue its shot")
            for number, (frame, size) in enumerate(zip(facts["frames"], facts["sizes"], strict=True)):
                wanted = f"{name}.{position:04d}.jpg"
                picture = next(members, None)
                if picture is None or picture.name != wanted:
                    raise ValueError(f"{picture.name if picture else 'its end'} where {wanted} has to be")
                boxes = facts["boxes"].get(str(number), [])
                tables.add_frame(frame, picture.offset, picture.content, tuple(size), boxes)
                yield picture, tuple(size)
                position += 1


def _members(stream: BinaryIO) -> Iterator[Member]:
    offset = 0
    while True:
        head = stream.read(_BLOCK)
        offset += _BLOCK
        if len(head) < _BLOCK:
            raise ValueError(f"it is cut off at byte {offset - _BLOCK + len(head)}")
        if not any(head):
            _check_end(stream, offset)
            return
        name, size = _parse(head, offset - _BLOCK)
        content = stream.read(size)
        padding = stream.read(-size % _BLOCK)
        if len(content) < size or len(padding) < -size % _BLOCK:
            raise ValueError(f"it is cut off inside of member {name}")
        if any(padding):
            raise ValueError(f"there are bytes between member {name} and the next")
        yield Member(name, offset, content)
        offset += size + len(padding)


def _parse(head: bytes, offset: int) -> tuple[str, int]:
    """Name and size of a member, if its header is exactly ours."""
    try:
        name = head[:100].rstrip(b"\0").decode("ascii")
        size = int(head[124:135], 8)
        limit = _JSON_LIMIT if name.endswith(".json") else _FRAME_LIMIT
        ours = 0 <= size <= limit and member_header(name, size).tobuf(tarfile.USTAR_FORMAT, "ascii", "strict") == head
    except ValueError:
        ours = False
    if not ours:
        raise ValueError(f"the header at byte {offset} is not one of this format")
    return name, size


def _check_end(stream: BinaryIO, offset: int) -> None:
    """The end is zeros up to a whole number of records, at least two blocks of them, and nothing after."""
    rest = stream.read(2 * _RECORD)
    total = offset + len(rest)
    if any(rest) or len(rest) < _BLOCK or total % _RECORD or len(rest) >= _RECORD + _BLOCK:
        raise ValueError(f"its end at byte {offset - _BLOCK} is not that of a whole tar")


def _facts(member: Member) -> dict[str, Any]:
    """The content of a piece's JSON.

    Raises:
        ValueError: it is not what the writer writes.
    """
    try:
        facts = json.loads(member.content)
        texts = [facts["cls"], facts["video"], facts["shot"], *facts["frames"]]
        numbers = [facts["start"], *(side for size in facts["sizes"] for side in size)]
        corners = [corner for boxes in facts["boxes"].values() for box in boxes for corner in box]
        sound = (
            all(isinstance(text, str) for text in texts)
            and all(type(number) is int and number >= 0 for number in numbers)
            and all(isinstance(corner, (int, float)) for corner in corners)
            and all(len(size) == 2 for size in facts["sizes"])
            and all(len(box) == 4 for boxes in facts["boxes"].values() for box in boxes)
            and 1 <= len(facts["frames"]) == len(facts["sizes"]) <= _FRAMES_PER_PIECE
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"member {member.name} is not the description of a piece: {type(error).__name__}") from error
    if not sound:
        raise ValueError(f"member {member.name} is not the description of a piece")
    return facts
