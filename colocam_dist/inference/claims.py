"""How ranks share the clips of a prediction, without waiting for each other.

Every rank begins with its own part, and then takes what others have not begun. Who works on a clip holds a lock of the
operating system on it, which is gone when the process is, however it ended: the clips of a rank that dies are left to
those that live. Where there are no locks, each rank does its part only. Nothing depends on the locks but the waste: two
ranks that make the same clip write the same file.
"""

from __future__ import annotations

import errno
import fcntl
import logging
from pathlib import Path
from types import TracebackType

__all__ = ["Claims", "working_order"]

log = logging.getLogger(__name__)


def working_order(clips: int, rank: int, world: int) -> tuple[list[int], list[int]]:
    """Numbers of the clips of a rank's own part, and of the others' in the order in which to look for work there.

    Every clip is in one rank's part, whatever was finished before. The others' are taken from the end, where their
    owners arrive last.
    """
    own = list(range(rank, clips, world))
    return own, [clip for clip in reversed(range(clips)) if clip % world != rank]


class Claims:
    """Locks on single clips, held by processes: byte n of one file stands for clip n.

    Args:
        path: the file, which is made and stays.

    Attributes:
        possible: False where the file system has no locks; every claim is then granted.
    """

    def __init__(self, path: Path) -> None:
        self.possible = True
        self._path = path
        self._file = path.open("ab")

    def __enter__(self) -> Claims:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()  # which gives up all claims

    def take(self, clip: int) -> bool:
        """Claim a clip; False if another process has it."""
        if not self.possible:
            return True
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, clip)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            log.warning("no locks at %s (%s): ranks do not take over each other's clips", self._path, error.strerror)
            self.possible = False
        return True

    def release(self, clip: int) -> None:
        """Give a claim up."""
        if self.possible:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, clip)
