"""Files that are complete as soon as they bear their name, their hashes, and which of them are videos."""

from __future__ import annotations

import errno
import os
import tempfile
from hashlib import sha256
from pathlib import Path

__all__ = ["VIDEO_SUFFIXES", "WholeLines", "sha256_of", "sync_file", "sync_folder", "write_atomically"]

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")  # in lower case

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


class WholeLines:
    """Appends lines to a file that only ever has whole ones: what a killed process or a full disk cut off is removed.

    Args:
        path: made if it is not there.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("a+b", buffering=0)
        # A line is small, so the end of the file has the end of the last whole one.
        end = self._file.seek(0, os.SEEK_END)
        self._file.seek(max(0, end - _CHUNK))
        tail = self._file.read()
        self._size = end - len(tail) + tail.rfind(b"\n") + 1
        self._file.truncate(self._size)

    def write(self, line: str) -> None:
        """Append a line, which must not contain a line break.

        Raises:
            OSError: it could not be written; the file is as before.
        """
        data = line.encode() + b"\n"
        try:
            if self._file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._file.name)
        except OSError:
            self._file.truncate(self._size)
            raise
        self._size += len(data)

    def sync(self) -> None:
        """Put the lines on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()
