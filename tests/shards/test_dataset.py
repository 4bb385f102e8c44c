from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from colocam_dist.data.index import ShotIndex
from colocam_dist.errors import DataError
from shards.dataset import BuildOptions, build_dataset
from shards.images import PictureRule
from shards.output import LocalOutput
from shards.sources.frames_csv import read_frames_csv
from shards.verify import verify

RULE = PictureRule(0, 0, 95)
ROOT = Path(__file__).parents[2]


def build(frames: Path, folder: Path, rule: PictureRule = RULE, **options: Any) -> list[Any]:
    options = {"frames_per_piece": 4, "shard_mb": 0.04, **options}
    return build_dataset(read_frames_csv(frames, rule), folder, BuildOptions(rule, **options))


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.tar")}


def test_a_second_build_gives_the_same_bytes(tiny_frames: Path, tiny_shards: Path, tmp_path: Path) -> None:
    build(tiny_frames, tmp_path)
    assert content(tmp_path) == content(tiny_shards)


@pytest.mark.slow
def test_the_bytes_do_not_depend_on_the_number_of_processes(
    tiny_frames: Path, tiny_shards: Path, tmp_path: Path
) -> None:
    build(tiny_frames, tmp_path, workers=2)
    assert content(tmp_path) == content(tiny_shards)


def test_finished_shards_are_kept(tiny_frames: Path, tiny_shards: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny_shards, folder)
    before = times(folder)
    (folder / "train.manifest.json").unlink()
    (folder / "train-000001.done").unlink()
    (folder / "train-000002.idx.npz").unlink()
    with (folder / "train-000004.tar").open("r+b") as stream:
        stream.truncate(700)
    summaries = {summary.split: summary for summary in build(tiny_frames, folder, overwrite=True)}
    assert (summaries["train"].kept, summaries["train"].shards, summaries["val"].kept) == (3, 6, 2)
    assert content(folder) == content(tiny_shards)
    changed = {name for name, stamp in times(folder).items() if stamp != before[name]}
    assert changed == {"train-000001.tar", "train-000002.tar", "train-000004.tar"}


def test_the_summary_counts(tiny_frames: Path, tmp_path: Path) -> None:
    (val,) = build(tiny_frames, tmp_path, splits=("val",))
    index = ShotIndex.open(tmp_path, "val")
    assert (val.split, val.shots, val.frames, val.boxes) == ("val", 6, index.n_frames, len(index.box_frame))
    assert val.bytes == sum(path.stat().st_size for path in index.shard_paths)
    assert index.classes == ("bird", "cat", "train")
    assert not list(tmp_path.glob("t*"))


def test_shards_of_other_options_are_not_replaced_unasked(tiny_frames: Path, tiny_shards: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny_shards, folder)
    smaller = PictureRule(30, 30, 95)
    with pytest.raises(DataError, match="--overwrite"):
        build(tiny_frames, folder, smaller, splits=("train",))
    assert content(folder) == content(tiny_shards)
    # The smaller frames need fewer shards; those of the first build must not be left over.
    (train,) = build(tiny_frames, folder, smaller, splits=("train",), overwrite=True)
    assert train.shards < 6
    assert sorted(folder.glob("train-*.tar")) == list(ShotIndex.open(folder, "train").shard_paths)
    assert ShotIndex.open(folder, "train").frame_height.max() == 39
    assert not verify(folder).problems


def without_test(inputs: Any) -> Any:
    """The same with the videos of test in train, as other shares would have it."""
    units = (dataclasses.replace(unit, split="train") if unit.split == "test" else unit for unit in inputs.units)
    return dataclasses.replace(inputs, units=tuple(units))


def test_a_split_that_the_input_does_not_have_is_not_left_beside_the_others(
    tiny_frames: Path, tiny_shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny_shards, folder)
    options = BuildOptions(RULE, frames_per_piece=4, shard_mb=0.04, overwrite=True)
    build_dataset(without_test(read_frames_csv(tiny_frames, RULE)), folder, options)
    assert not list(folder.glob("test*"))
    assert "split 'test' of an earlier build is removed" in caplog.text
    assert len(ShotIndex.open(folder, "train").shots) == 27
    assert not verify(folder).problems


@pytest.mark.parametrize("left", ["test.manifest.json", "test-000000.done"])
def test_a_split_that_the_input_does_not_have_is_not_removed_unasked(
    left: str, tiny_frames: Path, tiny_shards: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny_shards, folder)
    for path in folder.glob("test*"):
        if path.name != left:
            path.unlink()
    before = content(folder)
    inputs = read_frames_csv(tiny_frames, RULE)
    fewer = dataclasses.replace(inputs, units=tuple(unit for unit in inputs.units if unit.split != "test"))
    options = BuildOptions(RULE, frames_per_piece=4, shard_mb=0.04)
    with pytest.raises(DataError, match=r"holds split test, which the input does not have(.|\n)*--overwrite") as caught:
        build_dataset(fewer, folder, options)
    assert (caught.value.where, caught.value.wanted) == (str(folder), "no split but train, val")
    assert content(folder) == before
    build_dataset(fewer, folder, dataclasses.replace(options, splits=("train", "val")))
    assert content(folder) == before


def test_a_split_whose_removal_was_interrupted_is_removed_by_the_next_build(
    tiny_frames: Path, tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = len(list(tiny_shards.glob("test*")))
    for done in range(left):
        folder = tmp_path / f"after-{done}"
        shutil.copytree(tiny_shards, folder)
        inputs = without_test(read_frames_csv(tiny_frames, RULE))
        options = BuildOptions(RULE, frames_per_piece=4, shard_mb=0.04, overwrite=True)
        calls = iter(range(done))
        remove = LocalOutput.remove

        def killed(output: LocalOutput, name: str, calls: Any = calls, remove: Any = remove) -> None:
            if next(calls, None) is None:
                raise KeyboardInterrupt
            remove(output, name)

        monkeypatch.setattr(LocalOutput, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            build_dataset(inputs, folder, options)
        monkeypatch.undo()
        assert (folder / "test.manifest.json").exists() == (done == 0), "what vouches for the split goes first"
        build_dataset(inputs, folder, options)
        assert not list(folder.glob("test*"))


def test_the_manifest_says_how_it_was_made(tiny_shards: Path) -> None:
    manifest = json.loads((tiny_shards / "val.manifest.json").read_text())
    assert manifest["version"] == 2
    assert manifest["settings"]["frames_per_piece"] == 4
    assert set(manifest["settings"]) >= {"source", "short_side", "quality", "shard_mb", "opencv"}
    assert set(manifest["source"]["tables_sha256"]) == {"frames.csv", "boxes.csv"}
    assert str(tiny_shards.parent) not in json.dumps(manifest)


def test_a_split_that_is_not_there(tiny_frames: Path, frame_folder: Any, tmp_path: Path) -> None:
    frame_folder.add_shot("train", "cat/v/s", 1)
    with pytest.raises(DataError, match="no frames of split val"):
        build(frame_folder.save(), tmp_path / "out", splits=("train", "val"))
    assert not (tmp_path / "out").exists()


def test_two_shots_of_one_name_are_refused(tiny_frames: Path, tmp_path: Path) -> None:
    inputs = read_frames_csv(tiny_frames, RULE)
    doubled = dataclasses.replace(inputs, units=(*inputs.units, inputs.units[0]))
    with pytest.raises(DataError, match=r"shots of the same name: 1 problem(.|\n)*bird/"):
        build_dataset(doubled, tmp_path / "out", BuildOptions(RULE))
    assert not (tmp_path / "out").exists()


def test_too_little_space_is_noticed_before_anything_is_written(
    tiny_frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = sum(path.stat().st_size for path in tiny_frames.glob("*/*/*/*.jpg"))
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": needed - 1})())
    with pytest.raises(DataError, match=rf"too little space(.|\n)*about {needed / 1e3:.1f} kB for 10 shards"):
        build(tiny_frames, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": needed})())
    build(tiny_frames, tmp_path / "out")


def test_space_that_may_not_be_enough_is_a_warning(
    tiny_frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rough = dataclasses.replace(read_frames_csv(tiny_frames, RULE), estimate_excess=4.0)
    needed = sum(unit.estimated_bytes for unit in rough.units)
    for free, warned in ((needed, False), (needed - 1, True), (-(-needed // 4), True)):
        caplog.clear()
        monkeypatch.setattr("shutil.disk_usage", lambda folder, free=free: type("Usage", (), {"free": free})())
        build_dataset(rough, tmp_path / f"out{free}", BuildOptions(RULE))
        assert ("the space may not be enough: about" in caplog.text) == warned
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": needed // 4 - 1})())
    with pytest.raises(DataError, match="too little space"):
        build_dataset(rough, tmp_path / "out", BuildOptions(RULE))


def test_pictures_that_turn_out_to_be_damaged(frame_folder: Any, tmp_path: Path) -> None:
    for shot in "abc":
        frame_folder.add_shot("train", f"cat/v/{shot}", 3)
    folder = frame_folder.save()
    for name in ("a/00001", "a/00002", "c/00000"):
        path = folder / f"cat/v/{name}.jpg"
        path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(DataError) as caught:
        build(folder, tmp_path / "out", shard_mb=0.004)
    message = str(caught.value)
    assert "2 of 3 shards failed" in message
    for name in ("a/00001", "a/00002", "c/00000"):
        assert f"{name}.jpg: a JPEG that cannot be decoded" in message
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"train-000001.{suffix}" for suffix in ("tar", "idx.npz", "done")
    }


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(true: Any, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not (done := true()) and time.monotonic() < end:
        time.sleep(0.005)
    return bool(done)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks at processes through /proc")
def test_killed_in_the_middle(frame_folder: Any, tmp_path: Path) -> None:
    for shot in range(40):
        frame_folder.add_shot("train", f"cat/v{shot:02d}/s", 4, size=(800, 600), seed=shot)
    frames = frame_folder.save()
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    rule = PictureRule(100, 100, 95)
    build(frames, whole, rule, shard_mb=0.05)

    command = [sys.executable, "-m", "shards.build", "--source", "frames-csv", "--input", frames, "--output", killed]
    command += ["--short-side", "100", "--frames-per-piece", "4", "--shard-mb", "0.05", "--workers", "2"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    assert wait_until(lambda: len(list(killed.glob("train-*.done"))) >= 2, 60)
    workers = children(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "train.manifest.json").exists()
    assert wait_until(lambda: not any(is_running(pid) for pid in workers), 5)
    assert len(workers) >= 2

    kept = times(killed)
    finished = {path.stem for path in killed.glob("train-*.done")}
    assert 2 <= len(finished) < len(list(whole.glob("*.tar")))
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert content(killed) == content(whole)
    assert {name for name, stamp in times(killed).items() if kept.get(name) == stamp} >= {f"{x}.tar" for x in finished}


@pytest.mark.shared
def test_real_clips(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "clips"
    (train,) = build_dataset(read_frames_csv(folder, RULE), tmp_path, BuildOptions(RULE, shard_mb=5))
    assert (train.shots, train.frames, train.boxes, train.shards) == (12, 792, 792, 3)
    index = ShotIndex.open(tmp_path, "train")
    frame = index.shots[0].first_frame
    assert (index.shots[0].key, index.frame_name[frame]) == ("bird/davis-flamingo/shot-000", "00000.jpg")
    np.testing.assert_allclose(index.boxes(frame), [[127.4, 44.25, 258.92, 152.25]], atol=1e-4)
    assert index.n_frames == len(index.labeled_frames()) == 792
    assert not verify(tmp_path).problems
