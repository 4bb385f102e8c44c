"""Where the files of a dataset lie: a folder of this machine, or below a URL behind a local cache of whole shards.

A shard is only ever opened by the name that its manifest gives it, inside of its dataset; nothing in a shard is used as
a path or a command. URLs are refused unless their scheme is on a list, so a dataset's address cannot start a program
(``pipe:``) or unpack something (``zip::...``).
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from colocam_dist.config.locations import KNOWN_SCHEMES, scheme_of
from colocam_dist.data.cache import ShardCache
from colocam_dist.data.retry import Retry, WrongCopyError, retried
from colocam_dist.errors import ConfigError, DataError

__all__ = [
    "LocalFolder",
    "RemoteFolder",
    "RemoteSettings",
    "ShardFile",
    "Storage",
    "connect",
    "open_storage",
]

Sound = Callable[[bytes], bool]

_AT_ONCE = 16  # requests, while an index is opened


@dataclass(frozen=True)
class RemoteSettings:
    """How remote datasets are read.

    Args:
        schemes: URL schemes that may be used.
        options: passed to the fsspec file system, for example ``{"anon": True}`` for public S3 buckets.
        cache: folder for whole shards, shared by all processes of a machine.
        cache_bytes: what the cache may hold.
        retry: how failed requests are tried again.
    """

    schemes: tuple[str, ...] = KNOWN_SCHEMES
    options: dict[str, Any] = field(default_factory=dict)
    cache: Path = Path("~/.cache/colocam_dist/shards")
    cache_bytes: int = 50 * 10**9
    retry: Retry = field(default_factory=Retry)


def open_storage(location: str | Path, remote: RemoteSettings | None = None) -> Storage:
    """The storage at a path or URL.

    Raises:
        ConfigError: a URL whose scheme is not allowed.
    """
    text = str(location)
    scheme = None if isinstance(location, Path) else scheme_of(text)
    if scheme is None:
        return LocalFolder(Path(location).absolute())
    if scheme == "file":
        return LocalFolder(Path(text.partition(":")[2].removeprefix("//")).absolute())
    remote = remote or RemoteSettings()
    if scheme == "pipe" or "::" in text or "://" not in text or scheme not in remote.schemes:
        raise ConfigError(
            "this kind of address is not allowed for data",
            where=text,
            got=f"scheme '{scheme}'",
            wanted=f"a folder, or one of {', '.join(f'{name}://' for name in remote.schemes)}",
            fix="pipes and chained addresses are never run; allow another fsspec scheme by data.remote.schemes",
        )
    return RemoteFolder(text.rstrip("/"), remote)


def _anything(data: bytes) -> bool:
    return True


class Storage(ABC):
    """A flat folder of files; picklable.

    Attributes:
        location: path or URL, for messages.
    """

    location: str

    @abstractmethod
    def read(self, name: str, limit: int, sound: Sound = _anything) -> bytes:
        """A whole small file.

        Args:
            name: file name.
            limit: bytes that it may have.
            sound: whether these bytes are what was written. If they are not, a file that may have suffered on its way
                is read again; what it is in the end is for the caller to judge.

        Raises:
            FileNotFoundError: there is none.
            DataError: it is longer than ``limit`` bytes, or cannot be read.
        """

    def read_many(self, wanted: Iterable[tuple[str, int, Sound]]) -> Iterator[bytes | None]:
        """Several files by the arguments of :meth:`read`, in order; None for those that are not there."""
        for name, limit, sound in wanted:
            try:
                yield self.read(name, limit, sound)
            except FileNotFoundError:
                yield None

    @abstractmethod
    def sizes(self, names: Iterable[str]) -> dict[str, int | None]:
        """Bytes of those files that are there; None where the server does not say."""

    @abstractmethod
    def splits(self, suffix: str) -> list[str]:
        """What stands before ``suffix`` in the names of files that end with it, sorted; empty if nobody can tell."""

    @abstractmethod
    def open_shard(self, shard: ShardFile) -> int:
        """A descriptor of the shard's bytes, for reading.

        Raises:
            OSError: it is not there, or not readable.
            DataError: it could not be fetched.
        """

    @abstractmethod
    def fetch(self, shard: ShardFile) -> None:
        """Make the shard quick to open. Raises as :meth:`open_shard`."""


@dataclass(frozen=True)
class ShardFile:
    """One shard of a dataset.

    Attributes:
        storage: where it lies.
        name: file name.
        bytes: size.
        sha256: of its content, hex.
    """

    storage: Storage
    name: str
    bytes: int
    sha256: str

    def __str__(self) -> str:
        return f"{self.storage.location}/{self.name}"

    @property
    def path(self) -> Path:
        """Path of a shard of this machine.

        Raises:
            DataError: it is remote.
        """
        if isinstance(self.storage, LocalFolder):
            return self.storage.folder / self.name
        raise DataError("a remote shard has no path", where=self, fix="copy the dataset to a folder of this machine")

    def open(self) -> int:
        """A descriptor for reading; see :meth:`Storage.open_shard`."""
        return self.storage.open_shard(self)


@dataclass(frozen=True)
class LocalFolder(Storage):
    """A folder of this machine, or of a file system that it has mounted."""

    folder: Path

    @property
    def location(self) -> str:  # type: ignore[override]
        return str(self.folder)

    def read(self, name: str, limit: int, sound: Sound = _anything) -> bytes:
        try:
            with (self.folder / name).open("rb") as stream:
                return _bounded(stream.read(limit + 1), limit, f"{self.folder / name}")
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(name) from None
        except OSError as error:
            raise DataError("a file cannot be read", where=self.folder / name, got=error.strerror) from error

    def sizes(self, names: Iterable[str]) -> dict[str, int | None]:
        found: dict[str, int | None] = {}
        for name in names:
            path = self.folder / name
            if path.is_file():
                found[name] = path.stat().st_size
        return found

    def splits(self, suffix: str) -> list[str]:
        return sorted(path.name.removesuffix(suffix) for path in self.folder.glob(f"*{suffix}"))

    def open_shard(self, shard: ShardFile) -> int:
        return os.open(self.folder / shard.name, os.O_RDONLY | os.O_CLOEXEC)

    def fetch(self, shard: ShardFile) -> None:
        """Nothing to do: the system's own page cache is as quick."""


class RemoteFolder(Storage):
    """Objects below a URL, read through fsspec; shards come whole into the cache.

    Args:
        location: URL without a final slash.
        settings: cache, retries and options.
    """

    def __init__(self, location: str, settings: RemoteSettings) -> None:
        self.location = location
        self.settings = settings
        self.cache = ShardCache(settings.cache.expanduser(), settings.cache_bytes)
        self._system: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_system": None}  # connections belong to a process

    def read(self, name: str, limit: int, sound: Sound = _anything) -> bytes:
        came: bytes | None = None

        def get() -> bytes:
            nonlocal came
            with self._connected().open(f"{self.location}/{name}", "rb") as stream:
                came = _bounded(stream.read(limit + 1), limit, f"{self.location}/{name}")
            if not sound(came):  # a connection that breaks off may look like the end of the file
                raise WrongCopyError("what came is not what was written")
            return came

        try:
            return self._retried(get, name)
        except DataError as error:
            if came is not None and isinstance(error.__cause__, WrongCopyError):
                return came
            raise

    def read_many(self, wanted: Iterable[tuple[str, int, Sound]]) -> Iterator[bytes | None]:
        def get(file: tuple[str, int, Sound]) -> bytes | None:
            try:
                return self.read(*file)
            except FileNotFoundError:
                return None

        self._connected()  # once, before the threads ask for it
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            yield from pool.map(get, wanted)

    def sizes(self, names: Iterable[str]) -> dict[str, int | None]:
        def size(name: str) -> tuple[str, int | None] | None:
            try:
                found = self._retried(lambda: self._connected().size(f"{self.location}/{name}"), name)
            except FileNotFoundError:
                return None
            return name, None if found is None else int(found)

        self._connected()  # once, before the threads ask for it
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return dict(fact for fact in pool.map(size, names) if fact is not None)

    def splits(self, suffix: str) -> list[str]:
        return []  # not every server lists what it has

    def open_shard(self, shard: ShardFile) -> int:
        return self.cache.open(shard.sha256, shard.bytes, lambda path: self._download(shard, path))

    def fetch(self, shard: ShardFile) -> None:
        os.close(self.open_shard(shard))

    def _download(self, shard: ShardFile, path: Path) -> None:
        """Copy a shard to a local path; the cache checks what came, and a wrong copy is tried again."""

        def get() -> None:
            with self._connected().open(f"{self.location}/{shard.name}", "rb") as stream, path.open("wb") as copy:
                self.cache.copy_checked(stream, copy, shard.bytes, shard.sha256)

        self._retried(get, shard.name)

    def _retried(self, action: Any, name: str) -> Any:
        return retried(action, self.settings.retry, f"{self.location}/{name}")

    def _connected(self) -> Any:
        if self._system is None:
            options = dict(self.settings.options)
            if scheme_of(self.location) in ("http", "https"):
                # Blocks of a fixed size would ask for ranges, which not every server has; without, the body streams.
                options.setdefault("block_size", 0)
                options.setdefault("client_kwargs", {"timeout": _http_timeout(self.settings.retry.timeout)})
            self._system = connect(self.location, options)
        return self._system


def connect(location: str, options: dict[str, Any]) -> Any:
    """The fsspec file system of a URL; nothing is sent yet.

    Raises:
        ConfigError: its package is not installed, or the options do not suit it.
    """
    import fsspec  # here, because most runs read local folders

    scheme = scheme_of(location)
    try:
        return fsspec.filesystem(scheme, **options)
    except TypeError as error:
        raise ConfigError(
            "the options do not suit the file system of this address",
            where=location,
            got=f"{', '.join(options) or 'no options'}: {error}",
            fix=f"see the options of fsspec's file system for {scheme}://",
        ) from error
    except (ImportError, ValueError) as error:
        package = '-e ".[s3]" -c constraints.txt' if scheme == "s3" else f"'fsspec[{scheme}]'"
        raise ConfigError(
            f"addresses with {scheme}:// need a package that is not here",
            where=location,
            got=error,
            fix=f"pip install {package}",
        ) from error


def _http_timeout(seconds: float) -> Any:
    import aiohttp

    # Without a limit for the whole, which would fail large shards on slow lines.
    return aiohttp.ClientTimeout(total=None, sock_connect=seconds, sock_read=seconds)


def _bounded(data: bytes, limit: int, where: str) -> bytes:
    if len(data) > limit:
        raise DataError("a file is larger than it can be", where=where, wanted=f"at most {limit} bytes")
    return data
