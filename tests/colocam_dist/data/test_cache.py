from __future__ import annotations

import errno
import io
import multiprocessing
import os
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from colocam_dist.data.cache import ShardCache
from colocam_dist.data.retry import WrongCopyError
from colocam_dist.errors import DataError


def content(number: int, size: int = 1000) -> bytes:
    return bytes([number]) * size


def digest(data: bytes) -> str:
    return sha256(data).hexdigest()


def give(data: bytes, calls: list[int] | None = None) -> Callable[[Path], None]:
    def download(path: Path) -> None:
        if calls is not None:
            calls.append(1)
        with path.open("wb") as copy:
            ShardCache.copy_checked(io.BytesIO(data), copy, len(data), digest(data))

    return download


def read(cache: ShardCache, data: bytes, calls: list[int] | None = None) -> bytes:
    descriptor = cache.open(digest(data), len(data), give(data, calls))
    try:
        return os.pread(descriptor, len(data) + 1, 0)
    finally:
        os.close(descriptor)


def held(cache: ShardCache) -> set[str]:
    return {path.stem for path in cache.folder.glob("*.shard")}


def test_a_shard_is_fetched_once(tmp_path: Path) -> None:
    cache, calls = ShardCache(tmp_path / "new" / "cache", 10_000), []
    for _ in range(3):
        assert read(cache, content(1), calls) == content(1)
    assert calls == [1]


def test_the_oldest_leave_first(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 3500)
    for number in (1, 2, 3):
        read(cache, content(number))
        time.sleep(0.01)
    read(cache, content(1))  # used again
    time.sleep(0.01)
    read(cache, content(4))
    assert held(cache) == {digest(content(number)) for number in (1, 3, 4)}
    assert sum(path.stat().st_size for path in tmp_path.glob("*.shard")) <= 3500
    read(cache, content(5, 3500))
    assert held(cache) == {digest(content(5, 3500))}


def test_an_evicted_shard_stays_readable_to_those_who_have_it_open(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 1500)
    descriptor = cache.open(digest(content(1)), 1000, give(content(1)))
    read(cache, content(2))
    assert held(cache) == {digest(content(2))}
    assert os.pread(descriptor, 1000, 0) == content(1)
    assert os.fstat(descriptor).st_nlink == 0
    os.close(descriptor)


def test_a_shard_that_does_not_fit_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"larger than the whole cache(.|\n)*cache_gb"):
        read(ShardCache(tmp_path, 999), content(1))


@pytest.mark.parametrize(
    ("arrives", "text"),
    [(content(1)[:-1], "only 999 of 1000"), (content(1) + b"x", "more than"), (content(2), "another sha256")],
)
def test_wrong_copies_are_not_kept(tmp_path: Path, arrives: bytes, text: str) -> None:
    cache = ShardCache(tmp_path, 10_000)

    def download(path: Path) -> None:
        with path.open("wb") as copy:
            cache.copy_checked(io.BytesIO(arrives), copy, 1000, digest(content(1)))

    with pytest.raises(WrongCopyError, match=text):
        cache.open(digest(content(1)), 1000, download)
    assert held(cache) == set()
    assert not list(tmp_path.glob("*.part"))
    assert read(cache, content(1)) == content(1)


def test_a_file_of_the_wrong_size_is_fetched_again(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 10_000)
    (tmp_path / f"{digest(content(1))}.shard").write_bytes(b"after a power cut")
    assert read(cache, content(1)) == content(1)


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 10_000)

    def download(path: Path) -> None:
        path.write_bytes(b"some")
        raise OSError(errno.ENOSPC, "no space")

    with pytest.raises(DataError, match=r"no space is left for a shard(.|\n)*cache_folder"):
        cache.open(digest(content(1)), 1000, download)
    assert not list(tmp_path.glob("*.part"))


def test_no_room_on_the_disk_is_noticed_before_the_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 999})())
    with pytest.raises(DataError, match="999 bytes free"):
        read(ShardCache(tmp_path, 10_000), content(1), calls := [])
    assert calls == []


def test_what_a_killed_process_left_is_written_over_or_cleared(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 2500)
    mine, other = (tmp_path / f"{digest(content(number))}-1000.part" for number in (1, 2))
    mine.write_bytes(b"half")
    other.write_bytes(b"half")
    os.utime(other, (1, 1))
    assert read(cache, content(1)) == content(1)
    assert not mine.exists()
    read(cache, content(3))
    assert not other.exists()


def test_arriving_shards_count(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 2500)
    read(cache, content(1))
    (tmp_path / f"{digest(content(2))}-1000.part").touch()  # of another process, just begun
    read(cache, content(3))
    assert held(cache) == {digest(content(3))}


def fetch_many(folder: Path, numbers: list[int], log: str) -> None:
    cache = ShardCache(folder, 6_500)
    for number in numbers:
        data = content(number)

        def download(path: Path, data: bytes = data, number: int = number) -> None:
            with Path(log).open("a") as stream:
                stream.write(f"{number}\n")
            time.sleep(0.005)
            give(data)(path)

        descriptor = cache.open(digest(data), len(data), download)
        assert os.pread(descriptor, 2000, 0) == data
        os.close(descriptor)


def test_processes_share_it_and_fetch_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    spawn = multiprocessing.get_context("spawn")
    readers = [
        spawn.Process(target=fetch_many, args=(tmp_path / "cache", [1, 2, 3, 4, 5, 6], str(log))) for _ in range(3)
    ]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(60)
    assert [reader.exitcode for reader in readers] == [0, 0, 0]
    assert sorted(log.read_text().split()) == list("123456")
