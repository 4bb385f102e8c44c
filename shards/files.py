"""Files that are complete as soon as they bear their name."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

__all__ = ["remove_leftovers", "replaced", "replaced_path"]

_LEFTOVER = re.compile(r"\.(\d+)\.tmp\..+")


@contextmanager
def replaced_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``, with its suffix; what was written there is renamed once it is on the disk.

    The temporary name holds the process id, so that two processes never write to one file.
    """
    temporary = path.with_name(f".{os.getpid()}.tmp.{path.name}")
    try:
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def replaced(path: Path) -> Iterator[BinaryIO]:
    """Give a stream; ``path`` is replaced by what was written to it once that is complete and on the disk."""
    with replaced_path(path) as temporary, temporary.open("wb") as stream:
        yield stream


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files and folders of processes of this machine that are no more."""
    for path in folder.glob(".*.tmp.*"):
        owner = _LEFTOVER.fullmatch(path.name)
        if owner and not _alive(int(owner[1])):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is somebody else's, hence alive
        return True
    # In a container that nobody tidies up, an ended process stays in the table for ever, in state Z (Linux).
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return True
