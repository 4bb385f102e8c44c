"""Where a dataset is written: a folder of this machine, or below a URL. Files there are complete or absent."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

from colocam_dist.config.locations import KNOWN_SCHEMES, scheme_of
from colocam_dist.data.retry import Retry, retried
from colocam_dist.data.storage import LocalFolder, RemoteSettings, open_storage
from colocam_dist.errors import DataError
from shards.files import remove_leftovers, replaced

__all__ = ["HashedFile", "LocalOutput", "Output", "RemoteOutput", "open_output"]

# Putting an object replaces it as a whole; elsewhere a file is put under another name and renamed.
_OBJECT_STORES = ("s3", "gs", "gcs", "az", "abfs", "oci", "oss", "hf")


class HashedFile:
    """Counts and hashes what is written to a stream, so that nobody has to read it again."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._digest = sha256()
        self.bytes = 0

    @property
    def sha256(self) -> str:
        """Of what was written so far, hex."""
        return self._digest.hexdigest()

    def write(self, data: bytes) -> int:
        """Write all of ``data``."""
        self._digest.update(data)
        self.bytes += len(data)
        return self._stream.write(data)

    def tell(self) -> int:
        """Bytes written so far."""
        return self.bytes


class Output(ABC):
    """A flat folder of files; picklable.

    Attributes:
        location: path or URL, for messages.
    """

    location: str

    @abstractmethod
    def prepare(self) -> None:
        """Make the folder, and clear away what killed processes left in it."""

    @abstractmethod
    def free_bytes(self) -> int | None:
        """Room that is left; None if nobody can tell."""

    @abstractmethod
    def names(self) -> list[str]:
        """Names of the files that are there."""

    @abstractmethod
    def size(self, name: str) -> int | None:
        """Bytes of a file; None if it is not there."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """A small file.

        Raises:
            FileNotFoundError: it is not there.
        """

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

    @abstractmethod
    def stream(self, name: str) -> Any:
        """A context manager that gives a stream; the file is there, whole, once the context ends without an error."""

    @contextmanager
    def publish(self, name: str) -> Iterator[HashedFile]:
        """As :meth:`stream`, hashed.

        Raises:
            DataError: no space is left.
        """
        try:
            with self.stream(name) as stream:
                yield HashedFile(stream)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise DataError(
                "no space is left",
                where=f"{self.location}/{name}",
                fix="free some space and build again: what is finished is kept",
            ) from error


@dataclass(frozen=True)
class LocalOutput(Output):
    """A folder of this machine."""

    folder: Path

    @property
    def location(self) -> str:  # type: ignore[override]
        return str(self.folder)

    def prepare(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.folder)
            with replaced(self.folder / "writable") as stream:
                stream.write(b"")
            (self.folder / "writable").unlink()
        except OSError as error:
            raise DataError("the output folder cannot be written", where=self.folder, got=error.strerror) from error

    def free_bytes(self) -> int | None:
        return shutil.disk_usage(self.folder).free

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir() if path.is_file()) if self.folder.is_dir() else []

    def size(self, name: str) -> int | None:
        path = self.folder / name
        return path.stat().st_size if path.is_file() else None

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def remove(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)

    def stream(self, name: str) -> Any:
        return replaced(self.folder / name)


class RemoteOutput(Output):
    """Objects below a URL, through fsspec: written to a local file first, then put as a whole and checked.

    Args:
        location: URL without a final slash.
        staging: local folder for one shard per process; None = the system's folder for temporary files.
        retry: how failed requests are tried again.
    """

    def __init__(self, location: str, staging: Path | None = None, retry: Retry | None = None) -> None:
        self.location = location
        self.staging = staging
        self.retry = retry or Retry()
        self._made: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": None}  # connections belong to a process

    def prepare(self) -> None:
        if self.staging is not None:
            self.staging.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.staging)
        self._retried("", lambda: self._system.makedirs(self.location, exist_ok=True))

    def free_bytes(self) -> int | None:
        return None

    def names(self) -> list[str]:
        try:
            listed = self._retried("", lambda: self._system.ls(self.location, detail=False))
        except FileNotFoundError:
            return []
        return sorted(str(name).rpartition("/")[2] for name in listed)

    def size(self, name: str) -> int | None:
        try:
            found = self._retried(name, lambda: self._system.size(f"{self.location}/{name}"))
        except FileNotFoundError:
            return None
        return None if found is None else int(found)

    def read(self, name: str) -> bytes:
        return bytes(self._retried(name, lambda: self._system.cat_file(f"{self.location}/{name}")))

    def remove(self, name: str) -> None:
        if self.size(name) is not None:
            self._retried(name, lambda: self._system.rm_file(f"{self.location}/{name}"))

    @contextmanager
    def stream(self, name: str) -> Iterator[BinaryIO]:
        with tempfile.TemporaryDirectory(dir=self.staging, prefix=f".{os.getpid()}.tmp.") as folder:
            path = Path(folder, name)
            with path.open("wb") as stream:
                yield stream
            self._retried(name, lambda: self._put(path, name))

    def _put(self, path: Path, name: str) -> None:
        final = f"{self.location}/{name}"
        whole = scheme_of(self.location) in _OBJECT_STORES
        arriving = final if whole else f"{self.location}/.{os.getpid()}.tmp.{name}"
        self._system.put_file(str(path), arriving)
        self._system.invalidate_cache()
        if self._system.size(arriving) != path.stat().st_size:
            raise OSError(f"{self._system.size(arriving)} of {path.stat().st_size} bytes arrived")
        if not whole:
            self._system.mv(arriving, final)

    @property
    def _system(self) -> Any:
        if self._made is None:
            import fsspec

            self._made = fsspec.filesystem(scheme_of(self.location))
        return self._made

    def _retried(self, name: str, action: Any) -> Any:
        return retried(action, self.retry, f"{self.location}/{name}")


def open_output(location: str, *, staging: Path | None = None, schemes: Sequence[str] = ()) -> Output:
    """The output at a path or URL.

    Args:
        location: path or URL.
        staging: local folder for shards on their way to a URL.
        schemes: URL schemes to allow besides the known ones.

    Raises:
        ConfigError: a URL whose scheme is not allowed.
    """
    storage = open_storage(location, RemoteSettings(schemes=(*KNOWN_SCHEMES, *schemes)))
    if isinstance(storage, LocalFolder):
        return LocalOutput(
            Path(location.partition(":")[2].removeprefix("//")) if scheme_of(location) else Path(location)
        )
    return RemoteOutput(storage.location, staging)
