from __future__ import annotations

import errno
import pickle
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import fsspec
import pytest

from colocam_dist.data.index import ShotIndex
from colocam_dist.data.retry import Retry
from colocam_dist.data.storage import RemoteSettings
from colocam_dist.errors import ConfigError, DataError
from shards.build import main
from shards.dataset import BuildOptions, build_dataset
from shards.images import PictureRule
from shards.output import LocalOutput, RemoteOutput, open_output
from shards.sources.frames_csv import read_frames_csv

RULE = PictureRule(0, 0, 95)
OPTIONS = BuildOptions(RULE, frames_per_piece=4, shard_mb=0.04)


@pytest.fixture
def memory() -> Iterator[Any]:
    """fsspec's file system in memory, empty before and after."""
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


@pytest.fixture(params=["folder", "url"])
def output(request: pytest.FixtureRequest, tmp_path: Path, memory: Any) -> LocalOutput | RemoteOutput:
    if request.param == "folder":
        return LocalOutput(tmp_path / "out")
    return RemoteOutput("memory://bucket/out", tmp_path / "staging", Retry(tries=2, pause=0.01))


def break_off(output: LocalOutput | RemoteOutput, error: Exception) -> None:
    """Fail while file "a" is being written."""
    with output.publish("a") as stream:
        stream.write(b"three")
        raise error


def test_files_are_complete_or_absent(output: LocalOutput | RemoteOutput) -> None:
    output.prepare()
    output = pickle.loads(pickle.dumps(output))
    with output.publish("a") as stream:
        stream.write(b"one")
        assert output.size("a") is None
        stream.write(b"two")
        assert stream.tell() == 6
    assert (stream.bytes, stream.sha256) == (6, sha256(b"onetwo").hexdigest())
    assert (output.read("a"), output.size("a"), output.names()) == (b"onetwo", 6, ["a"])
    with pytest.raises(KeyError):
        break_off(output, KeyError())
    assert output.read("a") == b"onetwo"
    assert output.names() == ["a"]
    output.remove("a")
    output.remove("a")
    assert output.size("a") is None
    with pytest.raises(FileNotFoundError):
        output.read("a")


def test_a_full_disk_is_said(output: LocalOutput | RemoteOutput) -> None:
    output.prepare()
    with pytest.raises(DataError, match=r"no space is left(.|\n)*out/a(.|\n)*what is finished is kept"):
        break_off(output, OSError(errno.ENOSPC, "no space left on device"))
    with pytest.raises(OSError, match="something else"):
        break_off(output, OSError(errno.EIO, "something else"))
    assert output.names() == []


def test_a_remote_build_is_that_of_a_folder(tiny_frames: Path, tiny_shards: Path, tmp_path: Path, memory: Any) -> None:
    target = RemoteOutput("memory://bucket/out", tmp_path / "staging")
    build_dataset(read_frames_csv(tiny_frames, RULE), target, OPTIONS)
    for path in tiny_shards.iterdir():
        if path.suffix in (".tar", ".npz"):
            assert memory.cat_file(f"/bucket/out/{path.name}") == path.read_bytes()
    assert set(target.names()) == {path.name for path in tiny_shards.iterdir()}
    assert list((tmp_path / "staging").iterdir()) == []
    remote = RemoteSettings(schemes=("memory",), cache=tmp_path / "cache")
    assert (
        ShotIndex.open("memory://bucket/out", "train", remote=remote).n_frames
        == ShotIndex.open(tiny_shards, "train").n_frames
    )


def test_a_remote_build_goes_on_where_it_stopped(
    tiny_frames: Path, tmp_path: Path, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = RemoteOutput("memory://bucket/out", None, Retry(tries=1))
    inputs = read_frames_csv(tiny_frames, RULE)
    put, count = type(memory).put_file, 0

    def failing(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count > 7:  # two shards of three files each, and a tar
            raise ConnectionResetError("the line is down")
        return put(self, *args, **kwargs)

    monkeypatch.setattr(type(memory), "put_file", failing)
    with pytest.raises(DataError, match="the line is down"):
        build_dataset(inputs, target, OPTIONS)
    assert sum(name.endswith(".done") for name in target.names()) == 2
    assert not any(name.endswith("manifest.json") for name in target.names())
    monkeypatch.undo()
    summaries = build_dataset(inputs, target, OPTIONS)
    assert [summary.kept for summary in summaries] == [2, 0, 0]
    assert any(name == "train.manifest.json" for name in target.names())


def test_half_an_upload_is_noticed(tmp_path: Path, memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    target = RemoteOutput("memory://bucket/out", tmp_path, Retry(tries=2, pause=0.01))
    target.prepare()
    put = type(memory).put_file

    def half(self: Any, local: str, remote: str, **kwargs: Any) -> Any:
        put(self, local, remote, **kwargs)
        if half.times:  # type: ignore[attr-defined]
            half.times -= 1  # type: ignore[attr-defined]
            self.pipe_file(remote, b"ha")

    half.times = 1  # type: ignore[attr-defined]
    monkeypatch.setattr(type(memory), "put_file", half)
    with target.publish("a") as stream:
        stream.write(b"whole")
    assert target.read("a") == b"whole"
    half.times = 9  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=r"2 of 5 bytes arrived"), target.publish("b") as stream:
        stream.write(b"whole")
    assert target.size("b") is None


def test_places(tmp_path: Path) -> None:
    assert open_output("out") == LocalOutput(Path("out"))
    assert open_output(f"file://{tmp_path}") == LocalOutput(tmp_path)
    assert isinstance(open_output("s3://bucket/data/"), RemoteOutput)
    with pytest.raises(ConfigError, match="not allowed for data"):
        open_output("memory://x")
    assert isinstance(open_output("memory://x", schemes=["memory"]), RemoteOutput)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="output folder cannot be written"):
        LocalOutput(tmp_path / "file" / "out").prepare()


def test_the_command_line_writes_to_a_url(
    tiny_frames: Path, tmp_path: Path, memory: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--source", "frames-csv", "--input", str(tiny_frames), "--output", "memory://bucket/x", "--workers", "1"]
    with pytest.raises(ConfigError, match="not allowed"):
        main(words)
    assert main([*words, "--allow-scheme", "memory", "--staging", str(tmp_path / "staging")]) == 0
    assert "train: 21 shots" in capsys.readouterr().out
    assert memory.exists("/bucket/x/test.manifest.json")
    with pytest.raises(ConfigError, match="synthetic clips are written beside their shards"):
        main(["--source", "synthetic", "--output", "memory://bucket/x", "--allow-scheme", "memory"])
