"""What a checkpoint is on disk, and how its damage is noticed.

::

    checkpoints/<stage>/
      step-00000120/        one folder per checkpoint, under this name only when everything in it is on the disk
        state.pt            weights, momentum, BatchNorm statistics, random states: whole tensors, no pickles
        state.json          position in the data, best scores, counters
        complete.json       step, score, and bytes and SHA-256 of every file; sealed by a checksum of itself
      latest.json           name of the newest checkpoint, written last (for people and scripts: loading looks itself)
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from colocam_dist.errors import RunError
from colocam_dist.files import sha256_of, sync_file, sync_folder, write_atomically

__all__ = ["Checkpoint", "checkpoints_in", "damage_of", "read_seal", "seal_folder"]

SEAL = "complete.json"
_VERSION = 3


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder.

    Attributes:
        folder: where it lies.
        step: optimizer steps done when it was written.
        bytes: size of its files.
        damage: what is wrong with it; None = nothing that was looked for.
    """

    folder: Path
    step: int
    bytes: int
    damage: str | None


def seal_folder(folder: Path, step: int, score: float | None = None) -> dict[str, Any]:
    """Put everything in ``folder`` on the disk, then describe it in its seal; returns the seal.

    Args:
        folder: of the checkpoint, not yet under its final name.
        step: optimizer steps done.
        score: of the last validation, larger = better; None = unknown.

    Raises:
        OSError: a file cannot be read or written.
    """
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        sync_file(path)
        files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    for place in {path.parent for path in folder.rglob("*")} | {folder}:
        sync_folder(place)
    seal: dict[str, Any] = {"version": _VERSION, "step": step, "score": score, "files": files}
    seal["checksum"] = _checksum(seal)
    write_atomically(folder / SEAL, json.dumps(seal, indent=1))
    sync_folder(folder)
    return seal


def read_seal(folder: Path) -> dict[str, Any]:
    """The seal of a checkpoint.

    Raises:
        RunError: it is missing or damaged, or of another version.
    """
    path = folder / SEAL
    try:
        seal = json.loads(path.read_text())
        if seal["version"] != _VERSION:
            raise ValueError(f"version {seal['version']} instead of {_VERSION}")
        if seal["checksum"] != _checksum(seal):
            raise ValueError("its checksum is not that of its content")
        if not seal["files"]:
            raise ValueError("it lists no files")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else f"{error}"
        raise RunError("the seal of a checkpoint cannot be used", where=path, got=why) from error
    return dict(seal)


def damage_of(folder: Path, *, contents: bool = True) -> str | None:
    """What is wrong with a checkpoint: files that are missing, extra, or not what was written; None = nothing.

    Args:
        folder: of the checkpoint.
        contents: also read every byte and compare the hashes; otherwise only names and sizes.
    """
    try:
        files = read_seal(folder)["files"]
    except RunError as error:
        return f"{SEAL}: {error.got}"
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {SEAL}
    wrong = [f"{name} was not written by it" for name in sorted(there - files.keys())]
    for name, facts in files.items():
        path = folder / name
        if name not in there:
            wrong.append(f"{name} is missing")
        elif path.stat().st_size != facts["bytes"]:
            wrong.append(f"{name} has {path.stat().st_size} of {facts['bytes']} bytes")
        elif contents and sha256_of(path) != facts["sha256"]:
            wrong.append(f"{name} has changed")
    return "; ".join(wrong) or None


def checkpoints_in(folder: Path, *, contents: bool = True) -> list[Checkpoint]:
    """All checkpoints of a stage, newest first, each looked at as :func:`damage_of` does."""
    found = []
    for place in sorted(folder.glob("step-*"), reverse=True):
        if place.is_dir() and place.name.removeprefix("step-").isdecimal():
            size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
            found.append(Checkpoint(place, int(place.name[5:]), size, damage_of(place, contents=contents)))
    return found


def _checksum(seal: dict[str, Any]) -> str:
    facts = {name: value for name, value in seal.items() if name != "checksum"}
    return sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
