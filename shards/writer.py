"""Write one shard: tar, index, and the ``.done`` file by which a later build knows that it need not write it again.

The tar is plain USTAR with all variable header fields fixed: equal inputs give equal bytes. A shot is cut into pieces
of at most 64 frames, each a JSON member followed by its JPEG members under one key; a shot's pieces follow each other.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from io import BytesIO
from itertools import groupby, islice
from typing import Any

import cv2

from colocam_dist.data.manifest import index_name
from colocam_dist.errors import ColocamError
from shards.images import PictureRule
from shards.output import Output
from shards.sources.base import Frame, Unit, fingerprint_of
from shards.tables import Tables

__all__ = ["Shard", "ShardJob", "done_name", "finished_shard", "member_header", "piece_key", "slug", "write_shard"]

_FORMAT = 1  # to be raised whenever equal inputs give other bytes than before
_TAR_BLOCK = 512
_NOTE_LIMIT = 16 << 20  # bytes of a ``.done`` file, whose warnings may be many


@dataclass(frozen=True)
class Shard:
    """A finished shard.

    Attributes:
        name: file name.
        bytes: size of the tar.
        sha256: of the tar, hex.
        shots: number of shots.
        index_bytes: size of the index file.
        index_sha256: of the index file, hex.
        frames: number of frames.
        boxes: number of ground-truth boxes.
        warnings: what the source said while it was read.
    """

    name: str
    bytes: int
    sha256: str
    index_bytes: int
    index_sha256: str
    shots: int
    frames: int
    boxes: int
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class ShardJob:
    """All that a process needs to write one shard.

    Attributes:
        output: where to.
        name: file name of the tar.
        units: what goes into it, in order.
        rule: how frames are stored.
        frames_per_piece: frames that share a key.
        settings: options of the source (JSON); part of the fingerprint only.
    """

    output: Output
    name: str
    units: tuple[Unit, ...]
    rule: PictureRule
    frames_per_piece: int
    settings: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """Sha256 (hex) over all that determines the bytes of the shard: inputs, options, OpenCV (it encodes JPEG)."""
        units = [[unit.split, unit.cls, unit.video, unit.shot, unit.fingerprint] for unit in self.units]
        return fingerprint_of(_FORMAT, cv2.__version__, asdict(self.rule), self.frames_per_piece, self.settings, units)


def done_name(shard: str) -> str:
    """File name of the note that a shard is finished."""
    return f"{shard.removesuffix('.tar')}.done"


def finished_shard(job: ShardJob) -> Shard | None:
    """The shard that an earlier build made from the same inputs with the same options, if its files are still there.

    A damaged note vouches for nothing.
    """
    try:
        note = json.loads(job.output.read(done_name(job.name), _NOTE_LIMIT))
        facts = note["shard"]
        shard = Shard(**{**facts, "warnings": tuple(facts["warnings"])})
        sealed = note == _note(job.fingerprint, shard)
    except ColocamError:  # no way to the output
        raise
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        return None
    sizes = job.output.size(job.name), job.output.size(index_name(job.name))
    return shard if sealed and sizes == (shard.bytes, shard.index_bytes) else None


def write_shard(job: ShardJob) -> Shard:
    """Write a shard, its index and its ``.done`` file, in this order.

    Raises:
        DataError: an input cannot be read, or no space is left; nothing is left under a final name.
    """
    job.output.remove(done_name(job.name))
    tables = Tables()
    warnings: list[str] = []
    with (
        job.output.publish(job.name) as tar_file,
        tarfile.open(fileobj=tar_file, mode="w", format=tarfile.USTAR_FORMAT) as tar,  # type: ignore[call-overload]
    ):
        for unit in job.units:
            for shot, frames in groupby(unit.frames(job.rule, warnings.append), key=lambda frame: frame.shot):
                tables.add_shot(unit.cls, unit.video, shot)
                _write_shot(tar, (unit.cls, unit.video, shot), frames, job.frames_per_piece, tables)
    with job.output.publish(index_name(job.name)) as index:
        index.write(tables.npz())
    shard = Shard(
        name=job.name,
        bytes=tar_file.bytes,
        sha256=tar_file.sha256,
        index_bytes=index.bytes,
        index_sha256=index.sha256,
        shots=tables.n_shots,
        frames=tables.n_frames,
        boxes=tables.n_boxes,
        warnings=tuple(warnings),
    )
    with job.output.publish(done_name(job.name)) as done:
        done.write(json.dumps(_note(job.fingerprint, shard), indent=1).encode())
    return shard


def _note(fingerprint: str, shard: Shard) -> dict[str, Any]:
    """Content of a ``.done`` file; by its checksum any damage to it is known."""
    facts = {**asdict(shard), "warnings": list(shard.warnings)}
    return {"inputs": fingerprint, "shard": facts, "checksum": fingerprint_of(fingerprint, facts)}


def slug(name: str, limit: int) -> str:
    """A name of letters, digits, "-" and single inner "_" only, at most ``limit`` characters long.

    A name that has to be changed gets a piece of its hash, so different names have different slugs.
    """
    clean = re.sub(r"[^A-Za-z0-9_-]", "-", name)
    clean = re.sub(r"__+", "_", clean).strip("_")
    if name and clean == name and len(name) <= limit:
        return name
    return f"{clean[: limit - 9]}-{sha256(name.encode()).hexdigest()[:8]}"


def piece_key(cls: str, video: str, shot: str, start: int) -> str:
    """Name, up to its first dot, of the members of a piece; the limits keep it within the 100 characters of USTAR."""
    return f"{slug(cls, 24)}__{slug(video, 32)}__{slug(shot, 16)}__{start:04d}"


def member_header(name: str, size: int) -> tarfile.TarInfo:
    """Header of a member: everything that could vary between two builds is fixed."""
    header = tarfile.TarInfo(name)
    header.size = size
    header.mode = 0o444
    header.mtime = header.uid = header.gid = 0
    header.uname = header.gname = ""
    return header


def _write_shot(
    tar: tarfile.TarFile, key: tuple[str, str, str], frames: Iterator[Frame], per_piece: int, tables: Tables
) -> None:
    start = 0
    while piece := list(islice(frames, per_piece)):
        name = piece_key(*key, start)
        facts = {
            **dict(zip(("cls", "video", "shot"), key, strict=True)),
            "start": start,
            "frames": [frame.name for frame in piece],
            "sizes": [[frame.width, frame.height] for frame in piece],
            "boxes": {str(position): frame.boxes for position, frame in enumerate(piece) if frame.boxes},
        }
        _add(tar, f"{name}.json", json.dumps(facts, separators=(",", ":")).encode())
        for position, frame in enumerate(piece, start):
            offset = _add(tar, f"{name}.{position:04d}.jpg", frame.jpeg)
            tables.add_frame(frame.name, offset, frame.jpeg, (frame.width, frame.height), frame.boxes)
        start += len(piece)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> int:
    """Append a member; returns where in the file its content begins."""
    offset = tar.offset + _TAR_BLOCK
    tar.addfile(member_header(name, len(content)), BytesIO(content))
    return offset
