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
from colocam_dist.data.retry import WRITING, Retry, retried
from colocam_dist.data.storage import connect
from colocam_dist.errors import ConfigError, DataError
from shards.files import remove_leftovers, replaced

__all__ = ["HashedFile", "LocalOutput", "Output", "RemoteOutput", "open_output"]

# Putting an object replaces it as a whole; elsewhere a file is put under another name and renamed.
_OBJECT_STORES = ("s3", "gs", "gcs", "az", "abfs", "oci", "oss", "hf")
_READ_ONLY = ("http", "https")


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
        disk: folder of this machine in which shards are written.
        keeps: whether they stay there; else each process has one at a time there.
    """

    location: str
    disk: Path
    keeps: bool

    @abstractmethod
    def prepare(self) -> None:
        """Make the folder, and clear away what killed processes left in it."""

    def free_bytes(self) -> int:
        """Room that is left on the disk where shards are written."""
        return shutil.disk_usage(self.disk).free

    @abstractmethod
    def names(self) -> list[str]:
        """Names of the files that are there."""

    @abstractmethod
    def size(self, name: str) -> int | None:
        """Bytes of a file; None if it is not there."""

    @abstractmethod
    def read(self, name: str, limit: int) -> bytes:
        """A small file.

        Raises:
            FileNotFoundError: it is not there.
            ValueError: it has more than ``limit`` bytes.
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
    keeps = True

    @property
    def location(self) -> str:  # type: ignore[override]
        return str(self.folder)

    @property
    def disk(self) -> Path:  # type: ignore[override]
        return self.folder

    def prepare(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.folder)
            with replaced(self.folder / "writable") as stream:
                stream.write(b"")
            (self.folder / "writable").unlink()
        except OSError as error:
            raise DataError("the output folder cannot be written", where=self.folder, got=error.strerror) from error

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir() if path.is_file()) if self.folder.is_dir() else []

    def size(self, name: str) -> int | None:
        path = self.folder / name
        return path.stat().st_size if path.is_file() else None

    def read(self, name: str, limit: int) -> bytes:
        with (self.folder / name).open("rb") as stream:
            return _bounded(stream.read(limit + 1), limit)

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
        options: of the fsspec file system.
    """

    keeps = False

    def __init__(
        self,
        location: str,
        staging: Path | None = None,
        retry: Retry | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.location = location
        self.staging = staging
        self.retry = retry or Retry()
        self.options = options or {}
        self._made: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": None}  # connections belong to a process

    @property
    def disk(self) -> Path:  # type: ignore[override]
        return self.staging or Path(tempfile.gettempdir())

    def prepare(self) -> None:
        if self.staging is not None:
            self.staging.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.staging)
        if not self._is_object_store:  # these have no folders, and would make a bucket of a misspelled name
            self._retried("", lambda: self._system.makedirs(self.location, exist_ok=True))

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

    def read(self, name: str, limit: int) -> bytes:
        if (self.size(name) or 0) > limit:
            raise ValueError(f"{name} has more than {limit} bytes")
        return _bounded(self._retried(name, lambda: self._system.cat_file(f"{self.location}/{name}")), limit)

    def remove(self, name: str) -> None:
        if self.size(name) is not None:
            self._retried(name, lambda: self._system.rm_file(f"{self.location}/{name}"))

    @contextmanager
    def stream(self, name: str) -> Iterator[BinaryIO]:
        with tempfile.TemporaryDirectory(dir=self.staging, prefix=f".{os.getpid()}.tmp.") as folder:
            path = Path(folder, name)
            with path.open("wb") as stream:
                yield stream
            try:
                self._retried(name, lambda: self._put(path, name))
            except FileNotFoundError as error:
                raise DataError(
                    WRITING.failed,
                    where=f"{self.location}/{name}",
                    got=f"{type(error).__name__}: {error}",
                    fix="check the address: the bucket has to be there",
                ) from error

    def _put(self, path: Path, name: str) -> None:
        final = f"{self.location}/{name}"
        arriving = final if self._is_object_store else f"{self.location}/.{os.getpid()}.tmp.{name}"
        self._system.put_file(str(path), arriving)
        self._system.invalidate_cache()
        if self._system.size(arriving) != path.stat().st_size:
            raise OSError(f"{self._system.size(arriving)} of {path.stat().st_size} bytes arrived")
        if not self._is_object_store:
            self._system.mv(arriving, final)

    @property
    def _is_object_store(self) -> bool:
        return scheme_of(self.location) in _OBJECT_STORES

    @property
    def _system(self) -> Any:
        if self._made is None:
            self._made = connect(self.location, self.options)
        return self._made

    def _retried(self, name: str, action: Any) -> Any:
        return retried(action, self.retry, f"{self.location}/{name}".rstrip("/"), WRITING)


def open_output(
    location: str,
    *,
    staging: Path | None = None,
    schemes: Sequence[str] = (),
    options: dict[str, Any] | None = None,
) -> Output:
    """The output at a path or URL. A URL is listed at once, so that a build does not fail after its input was read.

    Args:
        location: path or URL.
        staging: local folder for shards on their way to a URL.
        schemes: URL schemes to allow besides the known ones.
        options: of the fsspec file system of a URL.

    Raises:
        ConfigError: a URL whose scheme is not allowed, whose package is not installed, or that cannot be written; or
            options of URLs for a folder.
        DataError: there is no way to the URL.
    """
    scheme = scheme_of(location)
    if scheme is None or scheme == "file":
        unused = [name for name, given in (("--staging", staging), ("--output-option", options)) if given]
        if unused:
            raise ConfigError(
                f"only a URL can be written with {' and '.join(unused)}",
                where="--output",
                got=location,
                wanted="a URL",
                fix="leave it out to write to a folder",
            )
        return LocalOutput(Path(location.partition(":")[2].removeprefix("//")) if scheme else Path(location))
    allowed = tuple(name for name in (*KNOWN_SCHEMES, *schemes) if name not in _READ_ONLY)
    if scheme == "pipe" or "::" in location or "://" not in location or scheme not in allowed:
        if scheme in (*_READ_ONLY, "pipe") or "::" in location:
            fix = "web servers, pipes and chained addresses are never written to; copy the dataset there afterwards"
        elif "://" not in location:
            fix = f"write {scheme}://..., or ./{location} for a folder of this machine"
        else:
            fix = f"give --allow-scheme {scheme}, if it is a file system of fsspec that can be written"
        raise ConfigError(
            "shards cannot be written to this kind of address",
            where="--output",
            got=location,
            wanted=f"a folder, or one of {', '.join(f'{name}://' for name in allowed)}",
            fix=fix,
        )
    remote = RemoteOutput(location.rstrip("/"), staging, options=options)
    remote.names()
    return remote


def _bounded(data: bytes, limit: int) -> bytes:
    if len(data) > limit:
        raise ValueError(f"it has more than {limit} bytes")
    return data
