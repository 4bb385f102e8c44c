"""Remote datasets, from a server of this process that can be told to fail."""

from __future__ import annotations

import itertools
import logging
import os
import pickle
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from colocam_dist.data.frames import FrameReader
from colocam_dist.data.index import ShotIndex
from colocam_dist.data.mixture import OrderSettings, epoch_order
from colocam_dist.data.plan import Place, Plan
from colocam_dist.data.retry import Retry
from colocam_dist.data.storage import LocalFolder, RemoteFolder, RemoteSettings, ShardFile, open_storage
from colocam_dist.data.stream import WindowSettings, WindowStream
from colocam_dist.errors import ConfigError, DataError

SETTINGS = WindowSettings(3, "adjacent", 1.0, 26, 20, True)


@dataclass
class Server:
    """Serves a folder over HTTP.

    `faults` holds, per file name, what the next requests for it meet: a status, "cut" (half of the body, then the
    connection closes), "stall" (nothing for four seconds), "wrong" (another byte in the middle).
    """

    folder: Path
    url: str = ""
    faults: dict[str, list[int | str]] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)


@pytest.fixture
def server(tiny_shards: Path) -> Iterator[Server]:
    state = Server(tiny_shards)

    class Handler(BaseHTTPRequestHandler):
        def answer(self, body_wanted: bool) -> None:
            name = self.path.rpartition("/")[2]
            state.requests[name] += body_wanted
            path = state.folder / name
            fault = state.faults[name].pop(0) if body_wanted and state.faults.get(name) else None
            if isinstance(fault, int) or not path.is_file():
                self.send_error(fault if isinstance(fault, int) else 404)
                return
            data = path.read_bytes()
            if fault == "stall":
                time.sleep(4)
            if fault == "wrong":
                data = data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body_wanted:
                self.wfile.write(data[: len(data) // 2] if fault == "cut" else data)
            if fault == "cut":
                self.close_connection = True

        def do_GET(self) -> None:
            self.answer(True)

        def do_HEAD(self) -> None:
            self.answer(False)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        state.url = f"http://127.0.0.1:{http.server_port}/data"
        thread = threading.Thread(target=http.serve_forever, args=(0.02,))
        thread.start()
        yield state
        http.shutdown()
        thread.join()


def remote(tmp_path: Path, *, timeout: float = 30.0, **changes: object) -> RemoteSettings:
    """Settings for the server; a short timeout only where it is to be met, for the machine may be busy."""
    retry = Retry(tries=3, pause=0.01, timeout=timeout)
    plain = RemoteSettings(cache=tmp_path / "cache", cache_bytes=10**9, retry=retry)
    return replace(plain, **changes)  # type: ignore[arg-type]


def timeout_for(fault: int | str) -> float:
    return 1.5 if fault == "stall" else 30.0


def test_a_remote_index_is_that_of_the_folder(server: Server, tiny_shards: Path, tmp_path: Path) -> None:
    there = ShotIndex.open(server.url, "train", remote=remote(tmp_path))
    here = ShotIndex.open(tiny_shards, "train")
    assert there.fingerprint == here.fingerprint
    assert list(there.shots) == list(here.shots)
    assert server.requests["train-000000.tar"] == 0  # shards stay where they are until they are read
    reader, local = FrameReader(pickle.loads(pickle.dumps(there))), FrameReader(here)
    for frame in range(0, here.n_frames, 7):
        assert (reader.read(frame) == local.read(frame)).all()
    assert {server.requests[shard.name] for shard in there.shards} == {1}
    reader.close()
    with pytest.raises(DataError, match="a remote shard has no path"):
        there.shard_paths  # noqa: B018


@pytest.mark.parametrize("fault", [500, 503, 429, "cut", "wrong", "stall"])
def test_faults_of_the_server_are_waited_out(
    server: Server, tmp_path: Path, fault: int | str, caplog: pytest.LogCaptureFixture
) -> None:
    index = ShotIndex.open(server.url, "val", remote=remote(tmp_path, timeout=timeout_for(fault)))
    server.faults = {"val-000000.tar": [fault, fault]}
    with caplog.at_level(logging.WARNING):
        image = FrameReader(index).read(0)
    assert (image == FrameReader(ShotIndex.open(server.folder, "val")).read(0)).all()
    assert server.requests["val-000000.tar"] == 3
    assert "try 3 of 3" in caplog.text


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (500, "500"),
        ("cut", r"(payload is not completed|only \d+ of \d+ bytes came)"),  # some ends look like those of the file
        ("wrong", "another sha256"),
        ("stall", "Timeout"),
    ],
)
def test_faults_that_stay_stop_with_the_name_of_the_file(
    server: Server, tmp_path: Path, fault: int | str, text: str
) -> None:
    index = ShotIndex.open(server.url, "val", remote=remote(tmp_path, timeout=timeout_for(fault)))
    server.faults = {"val-000000.tar": [fault] * 9}
    reader = FrameReader(index)
    with pytest.raises(DataError, match=f"(?s)remote file cannot be read.*val-000000.tar.*{text}.*3 tries"):
        reader.read(0)
    assert not list((tmp_path / "cache").glob("*.part"))
    server.faults = {}
    reader.read(0)  # nothing of the failure stays


def test_the_index_files_are_tried_again_too(server: Server, tmp_path: Path) -> None:
    server.faults = {
        "val.manifest.json": [500, "cut"],
        "val-000001.idx.npz": ["cut", 503],
        "val-000000.idx.npz": ["wrong"],
    }
    assert ShotIndex.open(server.url, "val", remote=remote(tmp_path)).n_frames > 0


def test_an_index_that_is_damaged_on_the_server_is_listed(server: Server, tmp_path: Path) -> None:
    server.faults = {"val-000001.idx.npz": ["wrong"] * 3}
    with pytest.raises(DataError, match=r"1 of 2 shards(.|\n)*val-000001.idx.npz is damaged"):
        ShotIndex.open(server.url, "val", remote=remote(tmp_path))


def test_forbidden_is_not_tried_again(server: Server, tmp_path: Path) -> None:
    server.faults = {"val.manifest.json": [403, 200]}
    with pytest.raises(DataError, match=r"403(.|\n)*1 try"):
        ShotIndex.open(server.url, "val", remote=remote(tmp_path))


def test_missing_and_short_remote_shards_are_found_at_the_start(server: Server, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in server.folder.glob("train*"):
        (copy / path.name).write_bytes(path.read_bytes())
    server.folder = copy
    (copy / "train-000001.tar").unlink()
    os.truncate(copy / "train-000002.tar", 5120)
    (copy / "train-000003.idx.npz").unlink()
    with pytest.raises(DataError) as caught:
        ShotIndex.open(server.url, "train", remote=remote(tmp_path))
    for text in (
        "3 of 6 shards",
        "train-000001.tar: missing",
        "train-000002.tar: truncated",
        "train-000003.idx.npz is",
    ):
        assert text in str(caught.value)
    with pytest.raises(DataError, match="no finished shards of split 'test'"):
        ShotIndex.open(server.url, "test", remote=remote(tmp_path))


def windows(index: ShotIndex, workers: int = 0, settings: OrderSettings | None = None, ahead: int = 2) -> list[bytes]:
    order = epoch_order(index, settings or OrderSettings(block_shards=2), seed=1, global_batch=4)
    given = []
    with closing(WindowStream(index, Plan(order, 4), SETTINGS, workers=workers, ahead=ahead)) as stream:
        for batch in itertools.chain(stream, stream):
            given += [window.tobytes() for window in batch.images_WNCHW.numpy()]
        assert stream.receipt.as_dict()["frames_replaced"] == 0
    return given


@pytest.mark.parametrize("workers", [0, 2])
def test_the_stream_is_the_same_from_afar(server: Server, tmp_path: Path, workers: int) -> None:
    expected = windows(ShotIndex.open(server.folder, "train"))
    index = ShotIndex.open(server.url, "train", remote=remote(tmp_path))
    server.faults = {"train-000001.tar": ["cut"], "train-000004.tar": [503]}
    assert windows(index, workers) == expected
    assert {shard.name: server.requests[shard.name] for shard in index.shards} == {
        shard.name: 2 if shard.name in server.faults else 1 for shard in index.shards
    }


def test_a_small_cache_is_enough_for_blocks(server: Server, tmp_path: Path) -> None:
    index = ShotIndex.open(server.url, "train", remote=remote(tmp_path))
    largest = max(shard.bytes for shard in index.shards)
    small = ShotIndex.open(server.url, "train", remote=remote(tmp_path, cache_bytes=3 * largest))
    assert windows(small, ahead=0) == windows(ShotIndex.open(server.folder, "train"))
    assert sum(path.stat().st_size for path in (tmp_path / "cache").glob("*.shard")) <= 3 * largest
    fetched = sum(server.requests[shard.name] for shard in index.shards)
    assert fetched <= 2 * len(index.shards)  # at most once per epoch


def test_shards_are_fetched_ahead(server: Server, tmp_path: Path) -> None:
    index = ShotIndex.open(server.url, "train", remote=remote(tmp_path))
    reader = FrameReader(index)
    reader.fetch_soon(range(len(index.shards)))
    reader.fetch_soon([0, 1])  # already on the way
    deadline = time.monotonic() + 10
    while len(list((tmp_path / "cache").glob("*.shard"))) < len(index.shards):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    server.folder = tmp_path  # nothing is there any more
    reader.read(index.n_frames - 1)
    reader.close()
    assert {server.requests[shard.name] for shard in index.shards} == {1}


def test_a_failure_ahead_is_left_to_the_read(server: Server, tmp_path: Path) -> None:
    index = ShotIndex.open(server.url, "val", remote=remote(tmp_path))
    server.faults = {"val-000000.tar": [500] * 3}
    reader = FrameReader(index)
    reader.fetch_soon([0])
    while server.requests["val-000000.tar"] < 3:
        time.sleep(0.01)
    reader.read(0)
    reader.close()


def test_evicted_shards_are_closed_when_the_next_is_opened(server: Server, tmp_path: Path) -> None:
    index = ShotIndex.open(server.url, "train", remote=remote(tmp_path))
    largest = max(shard.bytes for shard in index.shards)
    small = ShotIndex.open(server.url, "train", remote=remote(tmp_path, cache_bytes=largest))
    reader = FrameReader(small)
    for shard in range(len(small.shards)):
        reader.read(int(np.flatnonzero(small.frame_shard == shard)[0]))
    held = [path for path in Path("/proc/self/fd").iterdir() if path.is_symlink() and "cache" in str(path.readlink())]
    assert len(held) <= 2  # the current one, and the one whose room it took
    reader.close()


@pytest.mark.parametrize(
    "location",
    [
        "pipe:cat /etc/passwd",
        "pipe://cat /etc/passwd",
        "PIPE:id",
        "zip://a::http://host/b.zip",
        "http://host/a::pipe:id",
        "simplecache::s3://bucket/data",
        "ssh://host/data",
        "memory://data",
        "github://a:b@/c",
        "s3:bucket",
    ],
)
def test_addresses_that_are_not_plain_are_refused(location: str) -> None:
    with pytest.raises(ConfigError, match=r"not allowed for data(.|\n)*data.remote.schemes"):
        open_storage(location)


def test_other_schemes_can_be_allowed(tiny_shards: Path, tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for path in tiny_shards.glob("val*"):
        memory.pipe(f"/bucket/data/{path.name}", path.read_bytes())
    try:
        settings = remote(tmp_path, schemes=("memory",))
        index = ShotIndex.open("memory://bucket/data/", "val", remote=settings)
        assert windows(index) == windows(ShotIndex.open(tiny_shards, "val"))
        for location in ("pipe://x", "pipe:x"):
            with pytest.raises(ConfigError, match="pipes and chained addresses are never run"):
                open_storage(location, remote(tmp_path, schemes=("memory", "pipe")))
    finally:
        memory.rm("/bucket", recursive=True)


def test_a_package_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?s)need a package that is not here.*pip install"):
        ShotIndex.open("abfs://container/data", "val", remote=remote(tmp_path))


def test_folders(tiny_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_shards.parent)
    for location in ("shards", "./shards", Path("shards"), f"file://{tiny_shards}", str(tiny_shards)):
        storage = open_storage(location)
        assert isinstance(storage, LocalFolder)
        assert storage.folder == tiny_shards
    assert isinstance(open_storage("https://host/data"), RemoteFolder)
    with pytest.raises(DataError, match="larger than it can be"):
        storage.read("val.manifest.json", 10)
    with pytest.raises(FileNotFoundError):
        storage.read("absent", 10)
    assert storage.sizes(["absent", "val-000000.tar"]) == {
        "val-000000.tar": (tiny_shards / "val-000000.tar").stat().st_size
    }


def test_ranks_of_a_machine_share_the_cache(server: Server, tmp_path: Path) -> None:
    index = ShotIndex.open(server.url, "train", remote=remote(tmp_path))
    order = epoch_order(index, OrderSettings(), seed=1, global_batch=4)
    streams = [WindowStream(index, Plan(order, 4), SETTINGS, place=Place(rank, 2), workers=1) for rank in range(2)]
    for batches in zip(*streams, strict=True):
        assert [len(batch.labels_W) for batch in batches] == [2, 2]
    for stream in streams:
        stream.close()
    assert {server.requests[shard.name] for shard in index.shards} == {1}


def test_shards_print_their_whole_address() -> None:
    assert str(ShardFile(open_storage("https://host/data/"), "a.tar", 1, "")) == "https://host/data/a.tar"
