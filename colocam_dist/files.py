"""Files that are complete as soon as they bear their name, and their hashes."""

from __future__ import annotations

import os
import tempfile
from hashlib import sha256
from pathlib import Path

__all__ = ["sha256_of", "sync_file", "sync_folder", "write_atomically"]

_CHUNK = 1 << 20


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write beside ``path``, flush to disk, rename: the final name never holds half a file."""
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.{os.getpid()}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sha256_of(path: Path) -> str:
    """Sha256 of a file's content, hex."""
    digest = sha256()
    with path.open("rb") as stream:
        while block := stream.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()


def sync_file(path: Path) -> None:
    """Put a file's content on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk."""
    sync_file(folder)
