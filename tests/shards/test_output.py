from __future__ import annotations

import errno
import pickle
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
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
from shards.grouping import group_units
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
    assert (output.read("a", 9), output.size("a"), output.names()) == (b"onetwo", 6, ["a"])
    with pytest.raises(KeyError):
        break_off(output, KeyError())
    assert output.read("a", 9) == b"onetwo"
    with pytest.raises(ValueError, match="more than 5 bytes"):
        output.read("a", 5)
    assert output.names() == ["a"]
    output.remove("a")
    output.remove("a")
    assert output.size("a") is None
    with pytest.raises(FileNotFoundError):
        output.read("a", 9)


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
    assert target.read("a", 9) == b"whole"
    half.times = 9  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=r"2 of 5 bytes arrived"), target.publish("b") as stream:
        stream.write(b"whole")
    assert target.size("b") is None


def test_places(tmp_path: Path) -> None:
    assert open_output("out") == LocalOutput(Path("out"))
    assert open_output(f"file://{tmp_path}") == LocalOutput(tmp_path)
    with pytest.raises(
        ConfigError, match=r"cannot be written to this(.|\n)*got: memory://x(.|\n)*--allow-scheme memory,"
    ):
        open_output("memory://x")
    assert isinstance(open_output("memory://x", schemes=["memory"]), RemoteOutput)


@pytest.mark.parametrize("location", ["http://host/x", "https://host/x", "pipe://cat", "zip::memory://x"])
def test_places_that_nobody_writes_to(location: str) -> None:
    with pytest.raises(ConfigError, match="never written to"):
        open_output(location, schemes=["http", "https", "pipe", "zip", "memory"])
    with pytest.raises(ConfigError, match=r"write s3://\.\.\., or \./s3:bucket for a folder"):
        open_output("s3:bucket")


def test_a_package_that_is_not_there_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ConfigError, match=r's3:// need a package(.|\n)*pip install -e "\.\[s3\]" -c constraints\.txt'):
        open_output("s3://bucket/data/")


def test_a_place_that_cannot_be_reached_is_known_before_the_input_is_read(
    tiny_frames: Path, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise PermissionError("no such key")

    monkeypatch.setattr(type(memory), "ls", refuse)
    monkeypatch.setattr("shards.build.read_frames_csv", None)  # would fail if it were called
    words = [
        "--source",
        "frames-csv",
        "--input",
        str(tiny_frames),
        "--output",
        "memory://b/x",
        "--allow-scheme",
        "memory",
    ]
    with pytest.raises(DataError) as caught:
        main(words)
    message = str(caught.value)
    assert message.startswith("the shards cannot be written to this address\n  where: memory://b/x\n")
    assert "PermissionError: no such key (1 try)" in message
    assert "--output-option" in message
    assert "data.remote" not in message


def test_a_bucket_that_is_not_there(tmp_path: Path, memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise FileNotFoundError("the bucket does not exist")

    target = RemoteOutput("memory://bucket/out", tmp_path)
    monkeypatch.setattr(type(memory), "put_file", absent)
    with (
        pytest.raises(DataError, match=r"out/a\n  got: .*the bucket does not exist\n  fix: .*has to be there"),
        target.publish("a") as stream,
    ):
        stream.write(b"whole")


def test_object_stores_are_not_asked_to_make_a_bucket(monkeypatch: pytest.MonkeyPatch, memory: Any) -> None:
    made: list[str] = []
    monkeypatch.setattr(type(memory), "makedirs", lambda self, path, exist_ok: made.append(path))
    monkeypatch.setattr("shards.output.connect", lambda location, options: memory)
    for location in ("s3://bucket/out", "memory://bucket/out"):
        RemoteOutput(location).prepare()
    assert made == ["memory://bucket/out"]


def test_options_reach_the_file_system(
    tiny_frames: Path, tmp_path: Path, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []

    def connect(location: str, options: dict[str, Any]) -> Any:
        asked.append((location, options))
        return memory

    monkeypatch.setattr("shards.output.connect", connect)
    words = ["--source", "frames-csv", "--input", str(tiny_frames), "--output", "memory://bucket/x", "--workers", "1"]
    options = ["anon=true", "endpoint_url=http://host:9000", "client_kwargs={region_name: eu}"]
    given = [word for option in options for word in ("--output-option", option)]
    assert main([*words, "--allow-scheme", "memory", *given]) == 0
    wanted = {"anon": True, "endpoint_url": "http://host:9000", "client_kwargs": {"region_name": "eu"}}
    assert asked
    assert all(call == ("memory://bucket/x", wanted) for call in asked)
    monkeypatch.undo()
    for more in (given[:2], ["--staging", str(tmp_path)]):
        with pytest.raises(ConfigError, match=f"only a URL can be written with {more[0]}"):
            main([*words[:4], "--output", str(tmp_path / "out"), *more])


def test_options_that_the_file_system_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    def filesystem(scheme: str, *, anon: bool = False) -> None:
        """Takes one option."""

    monkeypatch.setattr("fsspec.filesystem", filesystem)
    with pytest.raises(ConfigError, match=r"options do not suit(.|\n)*got: anno: .*unexpected keyword"):
        open_output("s3://bucket/x", options={"anno": True})


def test_the_staging_disk_has_to_hold_a_shard_of_each_process(
    tiny_frames: Path, tmp_path: Path, memory: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    inputs = read_frames_csv(tiny_frames, RULE)
    groups = [
        group
        for split in ("train", "val", "test")
        for group in group_units((unit for unit in inputs.units if unit.split == split), 40_000)
    ]
    largest = max(sum(unit.estimated_bytes for unit in group) for group in groups)
    asked: list[Path] = []
    free = [largest - 1]

    def usage(folder: Path) -> Any:
        asked.append(folder)
        return type("Usage", (), {"free": free[0]})()

    monkeypatch.setattr("shutil.disk_usage", usage)
    target = RemoteOutput("memory://bucket/out", tmp_path / "staging")
    with pytest.raises(
        DataError, match=r"on their way\n  where: .*staging\n(.|\n)*for 1 shard at a time(.|\n)*--staging"
    ):
        build_dataset(inputs, target, OPTIONS)
    assert set(asked) == {tmp_path / "staging"}
    free[0] = largest
    with pytest.raises(DataError, match="for 2 shards at a time"):
        build_dataset(inputs, target, replace(OPTIONS, workers=2))
    assert build_dataset(inputs, target, OPTIONS)
    assert RemoteOutput("memory://x").disk == Path(tempfile.gettempdir())


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="output folder cannot be written"):
        LocalOutput(tmp_path / "file" / "out").prepare()


def test_the_command_line_writes_to_a_url(
    tiny_frames: Path, tmp_path: Path, memory: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--source", "frames-csv", "--input", str(tiny_frames), "--output", "memory://bucket/x", "--workers", "1"]
    with pytest.raises(ConfigError, match="--allow-scheme memory"):
        main(words)
    assert main([*words, "--allow-scheme", "memory", "--staging", str(tmp_path / "staging")]) == 0
    assert "train: 21 shots" in capsys.readouterr().out
    assert memory.exists("/bucket/x/test.manifest.json")
    with pytest.raises(ConfigError, match="synthetic clips are written beside their shards"):
        main(["--source", "synthetic", "--output", "memory://bucket/x", "--allow-scheme", "memory"])
