"""Whole shards of remote datasets on a local disk: bounded, shared by all processes of a machine, checked on arrival.

A shard lies in the cache under the hash of its content, so datasets that share shards share them here, and a name can
never hold something else. It is written under another name, checked, and renamed. Locks (flock) see to it that two
processes do not fetch the same shard, and that eviction counts right; they vanish with the process that holds them.

Eviction takes the shards that were not opened for the longest time. It needs not know who reads: an evicted file stays
readable to those who have it open, and its room on the disk comes free when the last of them closes it.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

from colocam_dist.data.retry import WrongCopyError
from colocam_dist.errors import DataError

__all__ = ["ShardCache"]

_log = logging.getLogger(__name__)
_CHUNK = 1 << 20
_SUFFIX, _ARRIVING = ".shard", ".part"
_ABANDONED_NS = 3600 * 10**9  # an arriving shard that nobody wrote to for an hour: its process was killed


class ShardCache:
    """A folder of at most ``limit`` bytes of shards.

    While a shard arrives, the folder holds it as well; room for it is made before.

    Args:
        folder: made when it is first needed.
        limit: bytes.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit

    def open(self, digest: str, size: int, download: Callable[[Path], None]) -> int:
        """A descriptor of the shard with this sha256 and size, fetched if it is not there.

        Args:
            digest: sha256 of the shard, hex.
            size: its bytes.
            download: writes it to the path that it is given, checked (see :meth:`copy_checked`), or raises.

        Raises:
            DataError: the shard is larger than the cache, or the disk is full.
        """
        path = self.folder / f"{digest}{_SUFFIX}"
        descriptor = self._open_ready(path, size)
        if descriptor is not None:
            return descriptor
        if size > self.limit:
            raise DataError(
                "a shard is larger than the whole cache",
                where=self.folder,
                got=f"{size} bytes",
                wanted=f"at most {self.limit}",
                fix="raise data.remote.cache_gb",
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._locked(f"{digest[:2]}.lock"):  # a bounded number of lock files, which must never be deleted
            descriptor = self._open_ready(path, size)  # another process may have fetched it meanwhile
            if descriptor is not None:
                return descriptor
            return self._fetch(path, size, download)

    @staticmethod
    def copy_checked(stream: Any, copy: BinaryIO, size: int, digest: str) -> None:
        """Copy a shard and check that it is the one that was promised.

        Raises:
            WrongCopyError: it has another length or another sha256.
        """
        seen, hashed = 0, sha256()
        while chunk := stream.read(_CHUNK):
            seen += len(chunk)
            if seen > size:
                raise WrongCopyError(f"more than the promised {size} bytes came")
            hashed.update(chunk)
            copy.write(chunk)
        if seen < size:
            raise WrongCopyError(f"only {seen} of {size} bytes came")
        if hashed.hexdigest() != digest:
            raise WrongCopyError("what came has another sha256 than the manifest says")

    def _fetch(self, path: Path, size: int, download: Callable[[Path], None]) -> int:
        # One name per shard, not per process: under its lock only one process writes it, and what a killed one left is
        # written over. The size in the name lets others count it while it grows.
        arriving = path.with_name(f"{path.stem}-{size}{_ARRIVING}")
        with self._locked("room.lock"):
            self._make_room(size, keep=arriving)
            arriving.touch()
        try:
            download(arriving)
            descriptor = os.open(arriving, os.O_RDONLY | os.O_CLOEXEC)
            arriving.replace(path)
        except OSError as error:
            arriving.unlink(missing_ok=True)
            if error.errno == errno.ENOSPC:
                raise self._full(size) from error
            raise
        except BaseException:
            arriving.unlink(missing_ok=True)
            raise
        return descriptor

    def _open_ready(self, path: Path, size: int) -> int | None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        if os.fstat(descriptor).st_size != size:  # after a power cut
            os.close(descriptor)
            return None
        with suppress(OSError):  # it may have been evicted just now
            os.utime(path)
        return descriptor

    def _make_room(self, size: int, keep: Path) -> None:
        """Evict until ``size`` more bytes fit both the limit and the disk."""
        shards = sorted(self._entries(keep))
        room = self.limit - sum(bytes_ for _, bytes_, _ in shards)
        evicted = 0
        for used, bytes_, path in shards:
            if room >= size and shutil.disk_usage(self.folder).free >= size:
                break
            if path.suffix == _ARRIVING and time.time_ns() - used < _ABANDONED_NS:
                continue
            path.unlink(missing_ok=True)
            room += bytes_
            evicted += 1
        if evicted:
            _log.debug("%d shards left the cache for one of %d bytes", evicted, size)
        if shutil.disk_usage(self.folder).free < size:
            raise self._full(size)

    def _entries(self, keep: Path) -> Iterator[tuple[int, int, Path]]:
        """Time of last use, size and path of everything in the cache but ``keep``."""
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):
                if path.suffix == _SUFFIX:
                    stat = path.stat()
                    yield stat.st_mtime_ns, stat.st_size, path
                elif path.suffix == _ARRIVING and path != keep:
                    yield path.stat().st_mtime_ns, int(path.stem.rpartition("-")[2]), path

    def _full(self, size: int) -> DataError:
        return DataError(
            "no space is left for a shard",
            where=self.folder,
            got=f"{shutil.disk_usage(self.folder).free} bytes free",
            wanted=f"{size}",
            fix="free some space, or set data.remote.cache_folder to another disk",
        )

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        descriptor = os.open(self.folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
